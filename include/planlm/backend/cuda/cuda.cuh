/// The CUDA backend: memory, loops, dense products and fused operations on an NVIDIA GPU.
///
/// Compiled by nvcc with -std=c++20 and an architecture, no other flag; link cuBLASLt.
/// All work of a queue is in the order of one stream. Only download waits; an upload may be given memory that changes right afterwards,
/// as long as it is ordinary (pageable) host memory: the driver then copies it before the call returns.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <concepts>
#include <cstddef>
#include <cuda_runtime.h>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cuda/attention.cuh>
#include <planlm/backend/cuda/decode_attention.cuh>
#include <planlm/backend/cuda/error.cuh>
#include <planlm/backend/cuda/mixing.cuh>
#include <planlm/backend/cuda/product_plans.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/row_operations.cuh>
#include <planlm/core/bfloat16.hpp>

namespace planlm {

/// How a GPU multiplies: at the precision of the storage type, accumulated in float (the default) ...
struct storage_products {
  template <class T>
  static constexpr cublasComputeType_t compute = cuda_detail::product_type<T>::compute;
};
/// ... or floats rounded to 10 bits of mantissa on the way into the tensor cores: relative error near 3e-4.
struct tf32_products {
  template <class T>
  static constexpr cublasComputeType_t compute = CUBLAS_COMPUTE_32F_FAST_TF32;
};

/// `Real`, what tensors are stored in: float, double, or bfloat16 with float for all arithmetic and statistics.
///
/// The same inputs give the same bits in every run on the same kind of device: sums have one order and there are no atomics on floats.
template <class Real, class Products = storage_products>
struct cuda : cuda_detail::row_operations<Real> {
  static_assert(std::same_as<Real, float> || std::same_as<Real, double> || std::same_as<Real, bfloat16>,
                "planlm::cuda: the number type is float, double or bfloat16");
  static_assert(std::same_as<Products, storage_products> || std::same_as<Real, float>, "planlm::cuda: tf32_products are for float");
  using real = Real;
  using accum = accum_of<Real>;
  using space = device_memory;
  using queue = cuda_queue;

  static void* allocate(std::size_t bytes) { return cuda_detail::allocate(bytes, "tensors"); }
  /// Waits for the device: work that still uses the memory ends first.
  static void deallocate(void* p, std::size_t) { cuda_detail::release(p); }
  static void zero(queue& q, void* p, std::size_t bytes) {
    if (bytes) cuda_detail::check(cudaMemsetAsync(p, 0, bytes, q.stream()), "cudaMemsetAsync");
  }
  static void copy(queue& q, void* to, const void* from, std::size_t bytes) { move(q, to, from, bytes, cudaMemcpyDeviceToDevice); }
  static void upload(queue& q, void* to, const void* from, std::size_t bytes) { move(q, to, from, bytes, cudaMemcpyHostToDevice); }
  static void download(queue& q, void* to, const void* from, std::size_t bytes) {
    move(q, to, from, bytes, cudaMemcpyDeviceToHost);
    synchronize(q);
  }
  static void synchronize(queue& q) { cuda_detail::check(cudaStreamSynchronize(q.stream()), "cudaStreamSynchronize"); }

  /// f(i) for i in [0, n).
  template <class F>
  static void for_each(queue& q, index_t n, const F& f) {
    cuda_detail::for_each(q, n, f);
  }
  /// f(team, r) for r in [0, rows).
  template <class F>
  static void for_rows(queue& q, index_t rows, const F& f) {
    cuda_detail::for_rows(q, rows, f);
  }
  /// y[c] += sum over r of f(r, c).
  template <class F>
  static void add_column_sums(queue& q, index_t rows, index_t cols, const F& f, view<Real, 1, device_memory> y) {
    cuda_detail::add_column_sums(q, rows, cols, f, y.data);
  }

  /// C = alpha A B, or C += alpha A B.
  static void gemm(queue& q, accum alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, into mode) {
    multiply(q, {.alpha = alpha, .a = a, .b = b, .d = c, .c = mode == into::add ? c.data : nullptr});
  }
  /// The same product `count` times, the operands `step` elements further each time.
  static void gemm_batched(queue& q, accum alpha, operand<const Real> a, index_t a_step, operand<const Real> b, index_t b_step,
                           operand<Real> c, index_t c_step, index_t count, into mode) {
    multiply(q, {.alpha = alpha, .a = a, .b = b, .d = c, .c = mode == into::add ? c.data : nullptr, .count = count, .step_a = a_step,
                 .step_b = b_step, .step_d = c_step});
  }
  /// C = alpha A B + bias, or C += it.
  static void gemm_bias(queue& q, accum alpha, operand<const Real> a, operand<const Real> b, view<const Real, 1, device_memory> bias,
                        operand<Real> c, into mode) {
    multiply(q, {.alpha = alpha, .a = a, .b = b, .d = c, .c = mode == into::add ? c.data : nullptr, .kind = cuda_detail::epilogue::bias,
                 .bias = bias.data});
  }
  /// C = A B + bias + residual; an empty bias adds nothing.
  static void gemm_residual(queue& q, operand<const Real> a, operand<const Real> b, view<const Real, 1, device_memory> bias,
                            view<const Real, 2, device_memory> residual, operand<Real> c) {
    using cuda_detail::epilogue;
    multiply(q, {.alpha = 1, .a = a, .b = b, .d = c, .c = residual.data, .kind = bias ? epilogue::bias : epilogue::none, .bias = bias.data});
  }
  /// cuBLASLt applies GELU in bfloat16 products whose rows are multiples of 16 bytes.
  static bool takes_gelu(index_t inner) { return std::same_as<Real, bfloat16> && inner % 8 == 0; }
  /// pre = A B + bias, C = gelu(pre).
  static void gemm_gelu(queue& q, operand<const Real> a, operand<const Real> b, view<const Real, 1, device_memory> bias,
                        view<Real, 2, device_memory> pre, operand<Real> c) {
    multiply(q, {.alpha = 1, .a = a, .b = b, .d = c, .kind = cuda_detail::epilogue::gelu_bias_keep, .bias = bias.data, .aux = pre.data});
  }
  /// C = (A B) o gelu'(pre).
  static void gemm_gelu_pullback(queue& q, operand<const Real> a, operand<const Real> b, view<Real, 2, device_memory> pre, operand<Real> c) {
    multiply(q, {.alpha = 1, .a = a, .b = b, .d = c, .kind = cuda_detail::epilogue::gelu_pullback, .aux = pre.data});
  }

  /// See ops/attention.hpp.
  template <class Sequences>
  static void attention(queue& q, attention_shape shape, view<const Real, 2, device_memory> qkv, const Sequences& s,
                        view<Real, 2, device_memory> y, view<accum, 2, device_memory> lse) {
    cuda_detail::attention(q, shape, qkv.data, s.offsets.data, s.host_offsets, s.count(), y.data, lse.data);
  }
  template <class Sequences>
  static void attention_pullback(queue& q, attention_shape shape, view<const Real, 2, device_memory> qkv, const Sequences& s,
                                 view<const Real, 2, device_memory> y, view<const accum, 2, device_memory> lse,
                                 view<const Real, 2, device_memory> dy, view<Real, 2, device_memory> dqkv) {
    cuda_detail::attention_pullback(q, shape, qkv.data, s.offsets.data, s.host_offsets, s.count(), y.data, lse.data, dy.data, dqkv.data);
  }

  /// See ops/kv_cache.hpp.
  static bool decodes(attention_shape shape) { return cuda_detail::decodes<Real>(shape.width); }
  template <class Rows, class Cache>
  static void decode_attention(queue& q, attention_shape shape, view<const Real, 2, device_memory> packed, const Rows& rows,
                               const Cache& cache, view<Real, 2, device_memory> y) {
    cuda_detail::decode_attention(q, shape, packed.data, rows.slot.data, rows.seq.positions.data, rows.slot.size(), rows.longest,
                                  static_cast<const Real*>(cache.keys.data), static_cast<const Real*>(cache.values.data),
                                  cache.keys.extent(1), y.data);
  }

  /// Label mixing by rule (mixing.cuh).
  static std::size_t mixing_bytes(const mixing_rule& rule, index_t rows, index_t labels)
    requires(!std::same_as<Real, double>)
  {
    return cuda_detail::mixing::mixing_bytes<Real>(rule, rows, labels);
  }
  static void mix_rows(queue& q, const mixing_rule& rule, view<const Real, 2, device_memory> z, view<const Real, 2, device_memory> table,
                       view<Real, 2, device_memory> e, void* kept)
    requires(!std::same_as<Real, double>)
  {
    cuda_detail::mixing::mix<cuda>(q, rule, z, table, e, kept);
  }
  static void mix_rows_pullback(queue& q, const mixing_rule& rule, view<const Real, 2, device_memory> z, view<const Real, 2, device_memory> table,
                                view<const Real, 2, device_memory> e, const void* kept, view<const Real, 2, device_memory> de,
                                view<Real, 2, device_memory> dz, view<Real, 2, device_memory> dtable)
    requires(!std::same_as<Real, double>)
  {
    cuda_detail::mixing::mix_pullback<cuda>(q, rule, z, table, e, kept, de, dz, dtable);
  }

 private:
  static void multiply(queue& q, const cuda_detail::product<Real>& p) {
    cuda_detail::run(q.products(), q.stream(), p, Products::template compute<Real>);
  }
  static void move(queue& q, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes) cuda_detail::check(cudaMemcpyAsync(to, from, bytes, kind, q.stream()), "cudaMemcpyAsync");
  }
};

static_assert(Backend<cuda<float>> && Backend<cuda<double>> && Backend<cuda<bfloat16>> && Backend<cuda<float, tf32_products>>);

}  // namespace planlm
