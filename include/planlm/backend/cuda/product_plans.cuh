/// Dense products by cuBLASLt: alpha A B, with a bias, a residual or an activation in the same pass, and a plan kept for every shape.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cuda/error.cuh>
#include <planlm/core/bfloat16.hpp>

namespace planlm::cuda_detail {

/// How cuBLASLt names a storage type, and what it computes in.
template <class T>
struct product_type;
template <>
struct product_type<float> {
  static constexpr cudaDataType_t data = CUDA_R_32F, scale = CUDA_R_32F;
  static constexpr cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
};
template <>
struct product_type<double> {
  static constexpr cudaDataType_t data = CUDA_R_64F, scale = CUDA_R_64F;
  static constexpr cublasComputeType_t compute = CUBLAS_COMPUTE_64F;
};
template <>
struct product_type<bfloat16> {
  static constexpr cudaDataType_t data = CUDA_R_16BF, scale = CUDA_R_32F;
  static constexpr cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
};

/// What happens to a product before it is stored.
enum class epilogue { none, bias, gelu_bias_keep, gelu_pullback };

/// D = epilogue(alpha A B + beta C) as cuBLASLt sees it, by columns. Plans are kept per value of this, so it has no padding bytes.
struct product_shape {
  std::int64_t m, n, k, lda, ldb, ldc, ldd, ld_aux, step_a, step_b, step_c, step_d, count;
  std::int32_t turn_a, turn_b, data, compute, scale, epilogue, align_a, align_b, align_c, align_d;
  bool operator==(const product_shape& o) const { return std::memcmp(this, &o, sizeof o) == 0; }
};
static_assert(std::has_unique_object_representations_v<product_shape>);
struct hash_of_shape {
  std::size_t operator()(const product_shape& s) const {
    std::uint64_t words[sizeof s / 8], h = 0x9E3779B97F4A7C15u;
    static_assert(sizeof s % 8 == 0);
    std::memcpy(words, &s, sizeof s);
    for (const std::uint64_t w : words) h = (h ^ w) * 0xBF58476D1CE4E5B9u, h ^= h >> 29;
    return static_cast<std::size_t>(h);
  }
};

/// The pointers of one call.
struct product_pointers {
  const void *a, *b, *c;
  void* d;
  const void* bias = nullptr;
  void* aux = nullptr;
};

/// The cuBLASLt handle, its workspace and the plans found so far. One algorithm is chosen per shape and kept: the same shape gives the same
/// bits in every run of a process and, on the same kind of device and library, in every process.
class product_plans {
 public:
  product_plans() = default;
  product_plans(product_plans&&) = default;
  product_plans& operator=(product_plans&&) = default;

  /// `text()` describes the operands; it is asked only for an error or a new plan.
  template <class Text>
  void run(cudaStream_t stream, const product_shape& s, const product_pointers& p, const void* alpha, const void* beta, const Text& text) {
    const auto found = plans_.find(s);
    plan& planned = found != plans_.end() ? found->second : add(s, text());
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (planned.epilogue_with_bias)
      status = cublasLtMatmulDescSetAttribute(planned.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias);
    if (planned.epilogue_with_aux && status == CUBLAS_STATUS_SUCCESS)
      status = cublasLtMatmulDescSetAttribute(planned.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p.aux, sizeof p.aux);
    if (status == CUBLAS_STATUS_SUCCESS)
      status = cublasLtMatmul(handle_.get(), planned.operation, alpha, p.a, planned.a, p.b, planned.b, beta, p.c, planned.c, p.d, planned.d,
                              &planned.algorithm, workspace_.get(), workspace_bytes, stream);
    if (status != CUBLAS_STATUS_SUCCESS) check(status, "cublasLtMatmul", text());
  }
  /// The widest power of two up to 256 that divides the address: what a kernel may assume of it.
  static std::int32_t alignment(const void* p) {
    const auto a = reinterpret_cast<std::uintptr_t>(p) | 256u;
    return static_cast<std::int32_t>(a & (~a + 1));
  }

 private:
  static constexpr std::size_t workspace_bytes = std::size_t{64} << 20;
  struct destroy_handle {
    void operator()(cublasLtHandle_t h) const { cublasLtDestroy(h); }
  };
  struct destroy_preference {
    void operator()(cublasLtMatmulPreference_t p) const { cublasLtMatmulPreferenceDestroy(p); }
  };
  struct free_workspace {
    void operator()(void* p) const { release(p); }
  };
  struct plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool epilogue_with_bias = false, epilogue_with_aux = false;
    plan() = default;
    plan(plan&& o) noexcept { *this = std::move(o); }
    plan& operator=(plan&& o) noexcept {
      std::swap(operation, o.operation), std::swap(a, o.a), std::swap(b, o.b), std::swap(c, o.c), std::swap(d, o.d);
      algorithm = o.algorithm, epilogue_with_bias = o.epilogue_with_bias, epilogue_with_aux = o.epilogue_with_aux;
      return *this;
    }
    ~plan() {
      for (const cublasLtMatrixLayout_t l : {a, b, c, d})
        if (l) cublasLtMatrixLayoutDestroy(l);
      if (operation) cublasLtMatmulDescDestroy(operation);
    }
  };

  plan& add(const product_shape& s, const std::string& text) {
    if (!handle_) {
      cublasLtHandle_t h{};
      check(cublasLtCreate(&h), "cublasLtCreate");
      handle_.reset(h);
      workspace_.reset(allocate(workspace_bytes, "cuBLASLt workspace"));
    }
    return plans_.emplace(s, make(s, text)).first->second;
  }
  plan make(const product_shape& s, const std::string& text) const {
    plan p;
    const auto compute = static_cast<cublasComputeType_t>(s.compute);
    const auto data = static_cast<cudaDataType_t>(s.data);
    check(cublasLtMatmulDescCreate(&p.operation, compute, static_cast<cudaDataType_t>(s.scale)), "cublasLtMatmulDescCreate", text);
    const auto set = [&](cublasLtMatmulDescAttributes_t name, const auto& value) {
      check(cublasLtMatmulDescSetAttribute(p.operation, name, &value, sizeof value), "cublasLtMatmulDescSetAttribute", text);
    };
    const cublasOperation_t turn_a = s.turn_a ? CUBLAS_OP_T : CUBLAS_OP_N, turn_b = s.turn_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, turn_a), set(CUBLASLT_MATMUL_DESC_TRANSB, turn_b);
    const auto kind = static_cast<epilogue>(s.epilogue);
    p.epilogue_with_bias = kind == epilogue::bias || kind == epilogue::gelu_bias_keep;
    p.epilogue_with_aux = kind == epilogue::gelu_bias_keep || kind == epilogue::gelu_pullback;
    if (kind != epilogue::none) {
      const cublasLtEpilogue_t e = kind == epilogue::bias             ? CUBLASLT_EPILOGUE_BIAS
                                   : kind == epilogue::gelu_bias_keep ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS
                                                                      : CUBLASLT_EPILOGUE_DGELU;
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, e);
      if (p.epilogue_with_bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data);
      if (p.epilogue_with_aux) {
        set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.ld_aux);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, data);
      }
    }
    const auto layout = [&](cublasLtMatrixLayout_t& l, std::int64_t rows, std::int64_t cols, std::int64_t ld, std::int64_t step) {
      check(cublasLtMatrixLayoutCreate(&l, data, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), ld),
            "cublasLtMatrixLayoutCreate", text);
      if (s.count == 1) return;
      const auto count = static_cast<std::int32_t>(s.count);
      check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count", text);
      check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step), "batch step", text);
    };
    layout(p.a, s.turn_a ? s.k : s.m, s.turn_a ? s.m : s.k, s.lda, s.step_a);
    layout(p.b, s.turn_b ? s.n : s.k, s.turn_b ? s.k : s.n, s.ldb, s.step_b);
    layout(p.c, s.m, s.n, s.ldc, s.step_c);
    layout(p.d, s.m, s.n, s.ldd, s.step_d);

    cublasLtMatmulPreference_t preference{};
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", text);
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, destroy_preference> owner(preference);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute", text);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(s.align_a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(s.align_b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(s.align_c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(s.align_d));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_.get(), p.operation, p.a, p.b, p.c, p.d, preference, 1, &best, &found);
    if (status != CUBLAS_STATUS_SUCCESS) check(status, "cublasLtMatmulAlgoGetHeuristic", text);
    if (found == 0) throw error("cuda: cuBLASLt has no algorithm for the product" + text);
    p.algorithm = best.algo;
    return p;
  }

  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, destroy_handle> handle_;
  std::unique_ptr<void, free_workspace> workspace_;
  std::unordered_map<product_shape, plan, hash_of_shape> plans_;
};

/// How an operand lies in memory: rows of `ld` values, or columns of them.
struct layout {
  bool by_rows, by_columns;
  index_t ld;
};
/// A single row or column has any step to the next, so strides that are no leading dimension (a transposed column vector's) do no harm.
template <class T>
layout layout_of(const operand<T>& m) {
  const bool by_rows = (m.col_stride == 1 || m.cols <= 1) && (m.row_stride >= m.cols || m.rows <= 1);
  const bool by_columns = (m.row_stride == 1 || m.rows <= 1) && (m.col_stride >= m.rows || m.cols <= 1);
  const index_t ld = by_rows ? (m.rows <= 1 ? m.cols : m.row_stride) : (m.cols <= 1 ? m.rows : m.col_stride);
  return {by_rows, by_columns, std::max<index_t>(ld, 1)};
}
template <class T>
operand<T> turned(operand<T> m) {
  return {m.data, m.cols, m.rows, m.col_stride, m.row_stride};
}
template <class T>
std::string text_of(const operand<T>& m) {
  return "(" + std::to_string(m.rows) + ", " + std::to_string(m.cols) + ") with strides (" + std::to_string(m.row_stride) + ", " +
         std::to_string(m.col_stride) + ")";
}

/// D = alpha A B [+ C] [+ bias], `count` times with the operands `step` elements further each time.
template <class T>
struct product {
  accum_of<T> alpha;
  operand<const T> a, b;
  operand<T> d;
  const T* c = nullptr;         // where it lies as D does, or null: nothing is added
  epilogue kind = epilogue::none;
  const T* bias = nullptr;      // (columns of D)
  T* aux = nullptr;             // where it lies as D does: pre-activations
  index_t count = 1, step_a = 0, step_b = 0, step_d = 0;

  std::string text() const {
    return ": A " + text_of(a) + ", B " + text_of(b) + ", D " + text_of(d) + ", " + std::to_string(count) + " of them";
  }
};

/// Parts of a product: some columns of D, some rows of D, some of the terms of its sums.
template <class T>
product<T> columns_of(product<T> p, index_t begin, index_t end) {
  p.b.data += begin * p.b.col_stride, p.d.data += begin * p.d.col_stride;
  p.b.cols = p.d.cols = end - begin;
  if (p.c) p.c += begin * p.d.col_stride;
  if (p.aux) p.aux += begin * p.d.col_stride;
  if (p.bias) p.bias += begin;
  return p;
}
template <class T>
product<T> rows_of(product<T> p, index_t begin, index_t end) {
  p.a.data += begin * p.a.row_stride, p.d.data += begin * p.d.row_stride;
  p.a.rows = p.d.rows = end - begin;
  if (p.c) p.c += begin * p.d.row_stride;
  if (p.aux) p.aux += begin * p.d.row_stride;
  return p;
}
template <class T>
product<T> terms_of(product<T> p, index_t begin, index_t end) {
  p.a.data += begin * p.a.col_stride, p.b.data += begin * p.b.row_stride;
  p.a.cols = p.b.rows = end - begin;
  return p;
}

/// D of sums without a term, as of a batch without rows: what it was, or zeros.
template <class T>
void without_terms(cudaStream_t stream, const product<T>& p) {
  if (p.kind == epilogue::none && p.c == p.d.data) return;
  const layout of_d = layout_of(p.d);
  if (p.kind != epilogue::none || p.c || !(of_d.by_rows || of_d.by_columns))
    throw shape_error("cuda: a product whose sums have no terms takes neither bias nor residual" + p.text());
  const index_t width = of_d.by_rows ? p.d.cols : p.d.rows, lines = of_d.by_rows ? p.d.rows : p.d.cols;
  for (index_t i = 0; i < p.count; ++i)
    check(cudaMemset2DAsync(p.d.data + i * p.step_d, static_cast<std::size_t>(of_d.ld) * sizeof(T), 0, static_cast<std::size_t>(width) * sizeof(T),
                            static_cast<std::size_t>(lines), stream),
          "cudaMemset2DAsync");
}

template <class T>
void run(product_plans& plans, cudaStream_t stream, const product<T>& p, cublasComputeType_t compute = product_type<T>::compute) {
  if (p.a.rows != p.d.rows || p.b.cols != p.d.cols || p.a.cols != p.b.rows) throw shape_error("cuda: product" + p.text());
  if (p.d.rows == 0 || p.d.cols == 0 || p.count == 0) return;
  if (p.a.cols == 0) return without_terms(stream, p);
  const layout of_a = layout_of(p.a), of_b = layout_of(p.b), of_d = layout_of(p.d);
  if (!of_d.by_rows && of_d.by_columns && p.kind == epilogue::none) {
    product<T> other = p;
    other.a = turned(p.b), other.b = turned(p.a), other.d = turned(p.d);
    other.step_a = p.step_b, other.step_b = p.step_a;
    return run(plans, stream, other, compute);
  }
  if (!(of_a.by_rows || of_a.by_columns) || !(of_b.by_rows || of_b.by_columns) || !of_d.by_rows)
    throw shape_error("cuda: a product needs one stride of each operand to be 1, and rows of D where it has an epilogue" + p.text());
  // cuBLASLt counts by columns: what lies by rows is to it the transposed matrix, and D^T = B^T A^T.
  // An extent that is no multiple of 16 bytes (a vocabulary of 50257) would send all of the product to kernels that load one value at a
  // time, six times slower (measured); so the last few columns, rows or terms are products of their own.
  constexpr index_t lanes = sizeof(T) <= 4 ? 16 / index_t{sizeof(T)} : 1, large = 64 * lanes;
  const auto cut = [](index_t n) { return n > large && n % lanes != 0 ? n - n % lanes : 0; };
  if constexpr (lanes > 1) {
    const bool whole = of_a.ld % lanes == 0 && of_b.ld % lanes == 0 && of_d.ld % lanes == 0;
    if (const index_t at = cut(p.d.cols); whole && at > 0) {
      run(plans, stream, columns_of(p, 0, at), compute);
      return run(plans, stream, columns_of(p, at, p.d.cols), compute);
    }
    if (const index_t at = cut(p.d.rows); whole && at > 0 && !of_a.by_rows) {
      run(plans, stream, rows_of(p, 0, at), compute);
      return run(plans, stream, rows_of(p, at, p.d.rows), compute);
    }
    if (const index_t at = cut(p.a.cols); whole && at > 0 && (p.kind == epilogue::none || p.kind == epilogue::bias)) {
      run(plans, stream, terms_of(p, 0, at), compute);
      product<T> rest = terms_of(p, at, p.a.cols);
      rest.c = p.d.data, rest.kind = epilogue::none, rest.bias = nullptr;
      return run(plans, stream, rest, compute);
    }
  }
  using traits = product_type<T>;
  product_shape s{};
  s.m = p.d.cols, s.n = p.d.rows, s.k = p.a.cols;
  s.lda = of_b.ld, s.ldb = of_a.ld, s.ldc = of_d.ld, s.ldd = of_d.ld, s.ld_aux = p.aux ? of_d.ld : 0;
  s.step_a = p.step_b, s.step_b = p.step_a, s.step_c = p.step_d, s.step_d = p.step_d, s.count = p.count;
  s.turn_a = !of_b.by_rows, s.turn_b = !of_a.by_rows;
  s.data = traits::data, s.scale = traits::scale, s.compute = compute, s.epilogue = static_cast<std::int32_t>(p.kind);
  const void* c = p.c ? p.c : p.d.data;
  s.align_a = product_plans::alignment(p.b.data), s.align_b = product_plans::alignment(p.a.data);
  s.align_c = product_plans::alignment(c), s.align_d = product_plans::alignment(p.d.data);
  const accum_of<T> beta = p.c ? 1 : 0;
  const product_pointers pointers{p.b.data, p.a.data, c, p.d.data, p.bias, p.aux};
  plans.run(stream, s, pointers, &p.alpha, &beta, [&p] { return p.text(); });
}

}  // namespace planlm::cuda_detail
