/// The CPU backend: threads, loops and dense products.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/attention.hpp>
#include <planlm/backend/cpu/decode_attention.hpp>
#include <planlm/backend/cpu/mixing.hpp>
#include <planlm/backend/cpu/norm.hpp>
#include <planlm/backend/cpu/pool.hpp>
#include <planlm/backend/cpu/scatter.hpp>
#include <planlm/backend/cpu/sparse_mixing.hpp>
#include <planlm/backend/cpu/tiled_products.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/arena.hpp>

namespace planlm::inline PLANLM_CPU_ABI {

/// `Real` is float or double; `Products` multiplies dense matrices (tiled_products or eigen_products).
///
/// Results never depend on the number of threads with tiled_products: each output value is computed by one task in an order that does not
/// depend on how the work was cut. eigen_products sums in an order that depends on the cut.
template <class Real, class Products = tiled_products>
struct cpu {
  using real = Real;
  using accum = Real;
  using space = host_memory;
  using products = Products;

  /// Threads and their scratch memory. `queue(threads)`; the default is one thread per processor.
  class queue {
   public:
    queue() : queue(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}
    explicit queue(int threads) : pool_(std::make_unique<cpu_detail::thread_pool>(std::max(1, threads))) {
      for (int i = 0; i < this->threads(); ++i) scratch_.push_back(std::make_unique<scratch_memory>());
    }
    int threads() const { return pool_->size(); }
    cpu_detail::thread_pool& pool() { return *pool_; }
    /// At least `bytes` private bytes of thread `member`; grows, never shrinks.
    void* scratch(int member, std::size_t bytes) { return scratch_[static_cast<std::size_t>(member)]->at_least(bytes); }
    /// The same for all threads, before tasks are handed out: a thread that first meets a large task in a later step would allocate then.
    void reserve_scratch(std::size_t bytes) {
      for (auto& memory : scratch_) memory->at_least(bytes);
    }

   private:
    class scratch_memory {
     public:
      scratch_memory() = default;
      scratch_memory(const scratch_memory&) = delete;
      scratch_memory& operator=(const scratch_memory&) = delete;
      ~scratch_memory() {
        if (data_) host_allocator::deallocate(data_, bytes_);
      }
      void* at_least(std::size_t bytes) {
        if (bytes > bytes_) {
          if (data_) host_allocator::deallocate(data_, bytes_);
          data_ = nullptr;
          bytes_ = 0;  // stands if the next line throws
          data_ = host_allocator::allocate(bytes);
          bytes_ = bytes;
        }
        return data_;
      }

     private:
      void* data_ = nullptr;
      std::size_t bytes_ = 0;
    };
    std::unique_ptr<cpu_detail::thread_pool> pool_;
    std::vector<std::unique_ptr<scratch_memory>> scratch_;
  };

  static void* allocate(std::size_t bytes) { return host_allocator::allocate(bytes); }
  static void deallocate(void* p, std::size_t bytes) { host_allocator::deallocate(p, bytes); }
  static void zero(queue& q, void* p, std::size_t bytes) {
    constexpr std::size_t block = std::size_t{1} << 18;
    q.pool().run(static_cast<index_t>((bytes + block - 1) / block), [&](index_t b, int) {
      const auto begin = static_cast<std::size_t>(b) * block;
      std::memset(static_cast<std::byte*>(p) + begin, 0, std::min(block, bytes - begin));
    });
  }
  static void copy(queue&, void* to, const void* from, std::size_t bytes) { std::memmove(to, from, bytes); }
  static void upload(queue&, void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void download(queue&, void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void synchronize(queue&) {}

  /// f(i) for i in [0, n).
  template <class F>
  static void for_each(queue& q, index_t n, const F& f) {
    constexpr index_t block = 16384;
    q.pool().run((n + block - 1) / block, [&](index_t b, int) {
      const F g = f;  // a private copy: the compiler can then see that stores do not change it
      const index_t end = std::min(n, (b + 1) * block);
      for (index_t i = b * block; i < end; ++i) g(i);
    });
  }
  /// f(team, r) for r in [0, rows).
  template <class F>
  static void for_rows(queue& q, index_t rows, const F& f) {
    const index_t groups = std::min<index_t>(rows, 4 * q.threads());
    q.pool().run(groups, [&](index_t group, int) {
      const F g = f;
      for (index_t r = rows * group / groups; r < rows * (group + 1) / groups; ++r) g(serial_team{}, r);
    });
  }
  /// y[c] += sum over r of f(r, c).
  template <class F>
  static void add_column_sums(queue& q, index_t rows, index_t cols, const F& f, view<Real, 1> y) {
    constexpr index_t width = 64, depth = 64;  // partial sums over 64 rows keep float's rounding error small
    q.pool().run((cols + width - 1) / width, [&](index_t b, int) {
      const F g = f;
      const index_t begin = b * width, n = std::min(width, cols - begin);
      Real total[width] = {};
      for (index_t r0 = 0; r0 < rows; r0 += depth) {
        Real part[width] = {};
        const index_t r1 = std::min(rows, r0 + depth);
        if (n == width) {
          for (index_t r = r0; r < r1; ++r)
            for (index_t c = 0; c < width; ++c) part[c] += g(r, begin + c);
        } else {
          for (index_t r = r0; r < r1; ++r)
            for (index_t c = 0; c < n; ++c) part[c] += g(r, begin + c);
        }
        for (index_t c = 0; c < width; ++c) total[c] += part[c];
      }
      for (index_t c = 0; c < n; ++c) y[begin + c] += total[c];
    });
  }

  /// C = alpha A B, or C += alpha A B.
  static void gemm(queue& q, Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, into mode) {
    multiply(q, alpha, a, b, c, nullptr, mode);
  }
  /// C = alpha A B + bias, or C += it, the bias repeated over rows: saves a pass over C.
  static void gemm_bias(queue& q, Real alpha, operand<const Real> a, operand<const Real> b, view<const Real, 1> bias, operand<Real> c,
                        into mode) {
    multiply(q, alpha, a, b, c, bias.data, mode);
  }
  /// The same product `count` times, the operands `step` elements further each time.
  static void gemm_batched(queue& q, Real alpha, operand<const Real> a, index_t a_step, operand<const Real> b, index_t b_step,
                           operand<Real> c, index_t c_step, index_t count, into mode) {
    if (c.col_stride != 1 && c.row_stride == 1)
      return gemm_batched(q, alpha, turned(b), b_step, turned(a), a_step, turned(c), c_step, count, mode);
    q.reserve_scratch(Products::template scratch_bytes<Real>());
    q.pool().run(count, [&](index_t i, int member) {
      auto at = [i](auto m, index_t step) {
        m.data += i * step;
        return m;
      };
      Products::template multiply<Real>(alpha, at(a, a_step), at(b, b_step), at(c, c_step), nullptr, mode,
                                        q.scratch(member, Products::template scratch_bytes<Real>()));
    });
  }

  /// Fused attention: see backend/cpu/attention.hpp. One task per sequence and key-value head.
  /// `Shape` is attention_shape, `Sequences` is sequences<cpu>: both live a floor above.
  template <class Shape, class Sequences>
  static void attention(queue& q, const Shape& shape, view<const Real, 2> qkv, const Sequences& seq, view<Real, 2> y,
                        view<accum, 2> lse) {
    for_heads(q, shape, qkv, seq, 1, [&](const auto& head, index_t begin, index_t h, Real* tiles, void* scratch) {
      cpu_detail::attention_forward<Products>(head, y.row(begin) + h * shape.width, y.cols(), lse.row(begin) + h, lse.cols(), tiles,
                                              scratch);
    });
  }
  template <class Shape, class Sequences>
  static void attention_pullback(queue& q, const Shape& shape, view<const Real, 2> qkv, const Sequences& seq, view<const Real, 2> y,
                                 view<const accum, 2> lse, view<const Real, 2> dy, view<Real, 2> dqkv) {
    zero(q, dqkv.data, static_cast<std::size_t>(dqkv.size()) * sizeof(Real));
    for_heads(q, shape, qkv, seq, 2, [&](const auto& head, index_t begin, index_t h, Real* tiles, void* scratch) {
      const index_t d = shape.width, group = h / (shape.heads / shape.kv_heads);
      Real* dq = dqkv.row(begin) + h * d;
      Real* dk = dqkv.row(begin) + shape.query_width() + group * d;
      cpu_detail::attention_backward<Products>(head, y.row(begin) + h * d, dy.row(begin) + h * d, y.cols(), lse.row(begin) + h,
                                               lse.cols(), dq, dk, dk + shape.kv_width(), tiles,
                                               tiles + cpu_detail::query_tile * head.rows, scratch);
    });
  }

  /// See ops/kv_cache.hpp and backend/cpu/decode_attention.hpp. One task per row and key-value head.
  template <class Shape>
  static bool decodes(const Shape&) {
    return true;
  }
  template <class Shape, class Rows, class Cache>
  static void decode_attention(queue& q, const Shape& shape, view<const Real, 2> packed, const Rows& rows, const Cache& cache,
                               view<Real, 2> y) {
    const index_t heads = shape.heads / shape.kv_heads, d = shape.width, stride = shape.kv_width();
    constexpr std::size_t product_bytes = Products::template scratch_bytes<Real>();
    q.reserve_scratch(product_bytes + static_cast<std::size_t>(heads * rows.longest) * sizeof(Real));
    q.pool().run(rows.slot.size() * shape.kv_heads, [&](index_t task, int member) {
      const index_t r = task / shape.kv_heads, group = task % shape.kv_heads, n = rows.seq.positions[r] + 1;
      const index_t at = rows.slot[r] * cache.keys.extent(1) * stride + group * d, first = group * heads * d;
      auto* bytes = static_cast<std::byte*>(q.scratch(member, product_bytes + static_cast<std::size_t>(heads * n) * sizeof(Real)));
      cpu_detail::decode_attention<Products, Real>(packed.row(r) + first, heads, d, cache.keys.data + at, cache.values.data + at, n, stride,
                                                   Real(1 / std::sqrt(static_cast<double>(d))), y.row(r) + first,
                                                   reinterpret_cast<Real*>(bytes + product_bytes), bytes);
    });
  }

  /// Fused label mixing: see backend/cpu/mixing.hpp. `softmax` and `pullback` are row kernels that write p and turn dw into dz.
  template <class Softmax>
  static void mix(queue& q, const Softmax& softmax, view<const Real, 2> p, view<const Real, 2> table, view<Real, 2> e) {
    for_tiles(q, p.rows(), [&](index_t begin, index_t m, void* scratch) {
      cpu_detail::mix_tile<Products>(softmax, begin, m, p.data, plain(table), e.data, scratch);
    });
  }
  template <class Pullback>
  static void mix_pullback(queue& q, const Pullback& pullback, view<const Real, 2> de, view<const Real, 2> table, view<Real, 2> dz) {
    for_tiles(q, dz.rows(), [&](index_t begin, index_t m, void* scratch) {
      cpu_detail::mix_tile_pullback<Products>(pullback, begin, m, de.data, plain(table), dz.data, scratch);
    });
  }

  /// See ops/norm.hpp and backend/cpu/norm.hpp: forward, the row kernel is one pass over memory already.
  template <bool Centred>
  static bool norm(queue&, view<const Real, 2>, view<const Real, 1>, view<const Real, 1>, double, view<Real, 2>, view<Real, 1>, view<Real, 1>) {
    return false;
  }
  template <bool Centred>
  static bool norm_pullback(queue& q, view<const Real, 2> x, view<const Real, 1> scale, view<Real, 1> mean, view<Real, 1> rstd,
                            view<const Real, 2> dy, view<const Real, 2> residual, view<Real, 2> dx, view<Real, 1> dscale,
                            view<Real, 1> dshift) {
    cpu_detail::norm_pullback(q, x.rows(), cpu_detail::norm_backward<Real, Centred>{x.data, scale.data, mean.data, rstd.data, dy.data,
                                                                                    residual.data, dx.data, x.cols()},
                              dscale.data, dshift.data);
    return true;
  }

  /// See ops/gather.hpp and backend/cpu/scatter.hpp.
  static void scatter_add_rows(queue& q, view<const Real, 2> x, view<const int, 1> ids, view<Real, 2> table) {
    cpu_detail::scatter_add_rows(q, ids.size(), table.cols(), table.rows(), x.data, ids.data, table.data);
  }
  static void add_segment_sums(queue& q, view<const Real, 2> x, view<const int, 1> ids, view<Real, 2> sums) {
    scatter_add_rows(q, x, ids, sums);
  }

  /// Mixing of few labels a sentence, and of all labels alike: see backend/cpu/sparse_mixing.hpp. Without weights one label has weight 1.
  static void take_largest(queue& q, view<const Real, 2> z, view<int, 2> label, view<Real, 2> value) {
    take_largest(q, z, label, value, [](auto&&, index_t) {});
  }
  /// `then(team, row)` runs when a row's labels and values are there.
  template <class F>
  static void take_largest(queue& q, view<const Real, 2> z, view<int, 2> label, view<Real, 2> value, const F& then) {
    for_rows(q, z.rows(), [=](const auto& team, index_t r) {
      cpu_detail::take_largest(z.row(r), z.cols(), label.cols(), label.row(r), value.row(r));
      then(team, r);
    });
  }
  static void mix_few(queue& q, view<const int, 2> label, view<const Real, 2> weight, view<const Real, 2> table, view<Real, 2> e) {
    if (weight) cpu_detail::mix_few(q, e.rows(), label.cols(), label.data, weight.data, table.data, e.cols(), e.data);
    else cpu_detail::take_rows(q, e.rows(), label.data, table.data, e.cols(), e.data);
  }
  /// dw = and dtable += or =; what is empty is not wanted.
  static void mix_few_pullback(queue& q, view<const int, 2> label, view<const Real, 2> weight, view<const Real, 2> table,
                               view<const Real, 2> de, view<Real, 2> dw, view<Real, 2> dtable, into mode) {
    if (weight)
      return cpu_detail::mix_few_pullback(q, de.rows(), label.cols(), label.data, weight.data, table.data, table.rows(), de.cols(), de.data,
                                          dw.data, dtable.data, mode);
    if (!dtable) return;
    if (mode == into::replace) zero(q, dtable.data, static_cast<std::size_t>(dtable.size()) * sizeof(Real));
    cpu_detail::scatter_add_rows(q, de.rows(), de.cols(), table.rows(), de.data, label.data, dtable.data);
  }
  static void mix_evenly(queue& q, Real weight, view<const Real, 2> table, view<Real, 2> e) {
    cpu_detail::mix_evenly(q, e.rows(), weight, table.data, table.rows(), e.cols(), e.data);
  }
  static void mix_evenly_pullback(queue& q, Real weight, view<const Real, 2> de, view<Real, 2> dtable, into mode) {
    cpu_detail::mix_evenly_pullback(q, de.rows(), weight, de.data, dtable.rows(), de.cols(), dtable.data, mode);
  }

 private:
  template <class F>
  static void for_tiles(queue& q, index_t rows, const F& f) {
    const index_t tile = cpu_detail::mixing_tile(rows, q.threads());
    q.reserve_scratch(Products::template scratch_bytes<Real>());
    q.pool().run((rows + tile - 1) / tile, [&](index_t t, int member) {
      f(t * tile, std::min(tile, rows - t * tile), q.scratch(member, Products::template scratch_bytes<Real>()));
    });
  }
  // f(head, first row, head number, tiles, product scratch); the query heads of one key-value head stay on one thread.
  template <class Shape, class Sequences, class F>
  static void for_heads(queue& q, const Shape& shape, view<const Real, 2> qkv, const Sequences& seq, index_t tiles, const F& f) {
    const index_t per_group = shape.heads / shape.kv_heads, d = shape.width;
    constexpr std::size_t product_bytes = Products::template scratch_bytes<Real>();
    index_t longest = 0;
    for (index_t s = 0; s < seq.count(); ++s) longest = std::max<index_t>(longest, seq.host_offsets[s + 1] - seq.host_offsets[s]);
    q.reserve_scratch(product_bytes + static_cast<std::size_t>(cpu_detail::attention_scratch(longest, tiles)) * sizeof(Real));
    q.pool().run(seq.count() * shape.kv_heads, [&](index_t task, int member) {
      const index_t s = task / shape.kv_heads, group = task % shape.kv_heads;
      const index_t begin = seq.host_offsets[s], rows = seq.host_offsets[s + 1] - begin;
      const index_t values = cpu_detail::attention_scratch(rows, tiles);
      auto* bytes = static_cast<std::byte*>(q.scratch(member, product_bytes + static_cast<std::size_t>(values) * sizeof(Real)));
      for (index_t h = group * per_group; h < (group + 1) * per_group; ++h) {
        const Real* k = qkv.row(begin) + shape.query_width() + group * d;
        const cpu_detail::attention_head<Real> head{qkv.row(begin) + h * d, k, k + shape.kv_width(), rows, d, qkv.cols(), shape.causal,
                                                    Real(1 / std::sqrt(static_cast<double>(d)))};
        f(head, begin, h, reinterpret_cast<Real*>(bytes + product_bytes), bytes);
      }
    });
  }
  template <class T>
  static operand<T> block(operand<T> m, index_t row, index_t rows, index_t col, index_t cols) {
    return {m.data + row * m.row_stride + col * m.col_stride, rows, cols, m.row_stride, m.col_stride};
  }
  template <class T>
  static operand<T> turned(operand<T> m) {
    return {m.data, m.cols, m.rows, m.col_stride, m.row_stride};
  }
  static void multiply(queue& q, Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode) {
    if (c.col_stride != 1 && c.row_stride == 1 && !bias) return multiply(q, alpha, turned(b), turned(a), turned(c), nullptr, mode);
    const index_t threads = q.threads();
    // A C of very many rows under a turned A, the gradient of a table of tokens, is cut into blocks of about 256 rows by one thread too: a
    // block of A then stays in the cache while all columns of C pass by, and the rows of C are read and written once.
    constexpr index_t tall = 4096, tall_block = 256;
    const bool cut_tall = c.rows >= tall && a.row_stride == 1 && a.col_stride != 1;
    // Else the longer side is cut: a task packs its part of one operand and all of the other. Few rows are always cut by columns.
    const bool by_columns = !cut_tall && (c.cols * (a.col_stride == 1 ? 1 : 8) >= c.rows || c.rows < 32 * threads);
    const index_t extent = by_columns ? c.cols : c.rows, unit = c.rows <= 8 ? 48 : 16;
    const index_t tasks = threads == 1 || c.rows * c.cols * a.cols < 32 * 1024 ? 1 : threads * ((extent + 480 * threads - 1) / (480 * threads));
    index_t step = std::max<index_t>(((extent + tasks - 1) / std::max<index_t>(tasks, 1) + unit - 1) / unit * unit, 1);
    if (cut_tall) step = tall_block;
    q.reserve_scratch(Products::template scratch_bytes<Real>());
    q.pool().run((extent + step - 1) / step, [&](index_t t, int member) {
      const index_t begin = t * step, n = std::min(step, extent - begin);
      void* scratch = q.scratch(member, Products::template scratch_bytes<Real>());
      if (by_columns)
        Products::template multiply<Real>(alpha, a, block(b, 0, b.rows, begin, n), block(c, 0, c.rows, begin, n),
                                          bias ? bias + begin : nullptr, mode, scratch);
      else
        Products::template multiply<Real>(alpha, block(a, begin, n, 0, a.cols), b, block(c, begin, n, 0, c.cols), bias, mode,
                                          scratch);
    });
  }
};

static_assert(Backend<cpu<float>> && Backend<cpu<double>>);

}  // namespace planlm::inline PLANLM_CPU_ABI
