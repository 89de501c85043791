/// One step of an optimiser over all weights in one launch, and the sum of squares that clipping needs.
///
/// The rule of the optimiser (training/adamw.hpp and its like) runs on four neighbouring weights per thread: the chunks of weights, gradients
/// and of what the rule names in streams() are loaded at once, the rule runs on them in registers. Ranges of other decay travel with the launch.
/// Bytes per weight for AdamW: 12 read and 12 written as float (weight, mean, square), the gradient read and zeroed, the rounded copy written
/// where there is one: 30 with bfloat16, 32 with float.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/elements.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace cuda_detail {

inline constexpr int update_values = 4, update_ranges = 200, update_threads = 256;

/// Weights before `end`, and from the end of the range before, have decay `decay`.
template <class A>
struct update_range {
  index_t end;
  A decay;
};
template <class T, class A, class Rule>
struct update_call {
  Rule rule;
  A* w;
  T *rounded, *g;  // rounded: empty where weights have no copy
  const A* factor;
  index_t begin, end;
  int ranges;
  update_range<A> range[update_ranges];
};

/// A rule whose memory is named: streams(v) calls v.update(p) for each of its arrays.
template <class Rule>
concept HasRuleStreams = requires(Rule r, stream_check& v) { r.streams(v); };

}  // namespace cuda_detail

namespace kernel {

template <class T, class A, class Rule>
__global__ void __launch_bounds__(cuda_detail::update_threads) update_chunks(const __grid_constant__ cuda_detail::update_call<T, A, Rule> f) {
  constexpr int N = cuda_detail::update_values, streams = cuda_detail::most_streams;
  const A scale = f.factor ? f.factor[0] : A(1);
  if (!(scale - scale == A(0))) return;
  const index_t block = f.begin + index_t{blockIdx.x} * (cuda_detail::update_threads * N), i = block + index_t{threadIdx.x} * N;
  if (i >= f.end) return;
  // The range of the block's first weight by bisection, the same in all threads; then a few steps.
  int range = 0, past = f.ranges - 1;
  while (range < past) {
    const int middle = (range + past) / 2;
    if (block < f.range[middle].end) past = middle;
    else range = middle + 1;
  }
  while (i >= f.range[range].end) ++range;
  alignas(16) unsigned char held[streams][sizeof(A) * N];
  Rule near = f.rule, far = f.rule;
  cuda_detail::stream_loader<N, streams, sizeof(A) * N> load{held, i};
  near.streams(load);
  near.decay = f.range[range].decay;
  A w[N], g[N];
  cuda_detail::chunk<A, N>::load(f.w + i).unpack(w);
  cuda_detail::chunk<T, N>::load(f.g + i).unpack(g);
#pragma unroll
  for (int k = 0; k < N; ++k) w[k] = near(index_t{k}, w[k], scale * g[k]);
  cuda_detail::stream_storer<N, streams, sizeof(A) * N> store{held, i};
  far.streams(store);
  cuda_detail::chunk<A, N>::pack(w).store(f.w + i);
#pragma unroll
  for (int k = 0; k < N; ++k) g[k] = A(0);
  cuda_detail::chunk<T, N>::pack(g).store(f.g + i);
  if constexpr (!std::is_same_v<T, A>) cuda_detail::chunk<T, N>::pack(w).store(f.rounded + i);
}

/// part[b] = sum of squares of block b of `Block` values.
template <class T, int Block>
__global__ void __launch_bounds__(256) block_squares(index_t n, const T* x, accum_of<T>* part) {
  using A = accum_of<T>;
  constexpr int N = cuda_detail::chunk_values<T>, threads = 256, chunks = Block / threads / N;
  static_assert(Block == chunks * threads * N);
  using piece = cuda_detail::chunk<T, N>;
  __shared__ A room[threads / 32];
  const index_t begin = index_t{blockIdx.x} * Block;
  A own[1] = {};
  if (begin + Block <= n) {
    piece p[chunks];
#pragma unroll
    for (int k = 0; k < chunks; ++k) p[k] = piece::load(x + begin + (k * threads + static_cast<int>(threadIdx.x)) * N);
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      A v[N];
      p[k].unpack(v);
#pragma unroll
      for (int i = 0; i < N; ++i) own[0] += v[i] * v[i];
    }
  } else {
    for (index_t i = begin + threadIdx.x; i < n; i += threads) own[0] += A(x[i]) * A(x[i]);
  }
  cuda_detail::team_sums<threads>(own, room);
  if (threadIdx.x == 0) part[blockIdx.x] = own[0];
}

}  // namespace kernel

namespace cuda_detail {

/// Runs `rule` over n weights w, gradients g and the rounded copy; weights in ranges[k] (offset, size, factor, ascending) have factor times
/// rule.decay. False: not done, the memory does not lie by chunks.
template <class T, class A, class Rule, class Range>
bool update_weights(cuda_queue& q, index_t n, A* w, T* rounded, T* g, const A* factor, const std::vector<Range>& ranges, const Rule& rule) {
  if constexpr (!HasRuleStreams<Rule>) {
    return false;
  } else {
    stream_check check;
    Rule(rule).streams(check);
    check.read(w);
    check.read(rounded);
    check.read(g);
    bool whole = check.aligned && n % update_values == 0;
    for (const Range& r : ranges) whole = whole && r.offset % update_values == 0 && r.size % update_values == 0;
    if (!whole) return false;
    update_call<T, A, Rule> call{rule, w, rounded, g, factor, 0, 0, 0, {}};
    const auto launch = [&] {
      if (call.end > call.begin)
        q.launch("update_weights", dim3(static_cast<unsigned>(pieces(call.end - call.begin, update_threads * update_values))),
                 dim3(update_threads), 0, kernel::update_chunks<T, A, Rule>, call);
      call.begin = call.end;
      call.ranges = 0;
    };
    const auto add = [&](index_t end, double multiplier) {
      if (end <= call.end) return;
      if (call.ranges == update_ranges) launch();
      call.range[call.ranges++] = {end, static_cast<A>(rule.decay * multiplier)};
      call.end = end;
    };
    for (const Range& r : ranges) {
      add(r.offset, 1);
      add(r.offset + r.size, r.factor);
    }
    add(n, 1);
    launch();
    return true;
  }
}

/// part[b] = sum of squares of the b-th `Block` values of x (n); false where x does not lie by chunks.
template <int Block, class T>
bool block_squares(cuda_queue& q, index_t n, const T* x, accum_of<T>* part) {
  if (reinterpret_cast<std::uintptr_t>(x) % chunk_bytes != 0) return false;
  if (n > 0) q.launch("block_squares", dim3(static_cast<unsigned>(pieces(n, Block))), dim3(256), 0, kernel::block_squares<T, Block>, n, x, part);
  return true;
}

}  // namespace cuda_detail
}  // namespace planlm
