/// Sums of rows by segment number, where a segment's rows usually lie together: the gradient of a plan from its sentence's tokens.
///
/// One small kernel finds where each segment begins and whether the numbers ascend; then a warp, or up to four that fold, adds the rows of one
/// segment for 32 chunks of columns, with eight rows under way at once. Numbers that do not ascend are right too, by a search of each warp
/// through all of them; numbers below 0 are left out and do no harm to the order.
/// Bytes: x read once, the sums read and written once, the numbers a few times.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace kernel {

inline constexpr int start_threads = 1024, start_blocks = 64, most_skipped = 32;

/// start[s]: the first row whose number is s or more, for s in [0, segments]; unordered[block]: whether that does not describe its rows.
inline __device__ void mark_starts(index_t rows, index_t segments, const int* id, index_t r, int* start, int& unordered) {
  const int own = id[r];
  if (own >= 0) {
    index_t before = r - 1;
    while (before >= 0 && r - before <= most_skipped && id[before] < 0) --before;
    if (before >= 0 && id[before] < 0) unordered = 1;  // too far back to look
    const index_t last = before >= 0 && id[before] >= 0 ? index_t{id[before]} : -1;
    if (own < last || own >= segments) unordered = 1;
    else
      for (index_t s = last + 1; s <= own; ++s) start[s] = static_cast<int>(r);
  }
  if (r == rows - 1) {
    index_t at = r;
    while (at >= 0 && rows - at <= most_skipped && id[at] < 0) --at;
    if (at >= 0 && id[at] < 0) unordered = 1;
    for (index_t s = at >= 0 && id[at] >= 0 ? index_t{id[at]} + 1 : 0; s <= segments; ++s) start[s] = static_cast<int>(rows);
  }
}
template <class Int>
__global__ void __launch_bounds__(start_threads) segment_starts(index_t rows, index_t segments, const Int* id, Int* start, Int* unordered) {
  int wrong = 0;
  for (index_t r = index_t{blockIdx.x} * start_threads + threadIdx.x; r < rows; r += index_t{start_blocks} * start_threads)
    mark_starts(rows, segments, id, r, start, wrong);
  wrong = __syncthreads_or(wrong);
  if (threadIdx.x == 0) unordered[blockIdx.x] = wrong;
}

/// sums[s] += the rows of segment s, or, for several splits of it, part[split, s] = the split's sum. Threads (32, warps): `fold` warps share a
/// segment and a group of columns.
template <class T, int N>
__global__ void __launch_bounds__(128, 7)
    segment_rows(index_t rows, index_t segments, index_t row_chunks, int groups, int fold, int splits, const T* x, const int* id,
                 const int* start, const int* unordered, accum_of<T>* part, T* sums) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  constexpr int deep = 8;
  extern __shared__ __align__(16) unsigned char fold_room[];
  A* room = reinterpret_cast<A*>(fold_room);  // (warps, N, 32), where warps fold
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y), within = warp % fold;
  const index_t task = (index_t{blockIdx.x} * blockDim.y + warp) / fold;
  const index_t s = task / groups, c = (task - s * groups) * 32 + lane;
  const int split = static_cast<int>(blockIdx.y);
  const bool wrong = __any_sync(0xFFFFFFFFu, unordered[lane] | unordered[lane + 32]);
  const bool column_here = c < row_chunks, here = s < segments && column_here;  // the segment is the same in all lanes of a warp
  A own[N] = {};
  piece before;
  index_t length = 0;
  if (s < segments) {
    if (splits == 1 && within == 0 && column_here) before = piece::load(sums + (s * row_chunks + c) * N);
    const index_t from = wrong ? 0 : start[s], to = wrong ? rows : start[s + 1];
    length = to - from;
    const index_t begin = from + length * split / splits, end = from + length * (split + 1) / splits;
    const T* at = x + c * N;
    if (wrong) {
#pragma unroll 4
      for (index_t r = begin + within; r < end; r += fold)
        if (column_here && id[r] == s) {
          A v[N];
          piece::load(at + r * row_chunks * N).unpack(v);
#pragma unroll
          for (int i = 0; i < N; ++i) own[i] += v[i];
        }
    } else {
      // The warp's rows are begin + within, and every fold-th from there; lane l looks at the number of the l-th of 32.
      for (index_t batch = begin + within; batch < end; batch += 32 * fold) {
        const index_t look = batch + index_t{lane} * fold;
        const bool counts = look < end && id[look] == s;  // not so for numbers below 0
        unsigned mask = 0;
#pragma unroll 1
        for (int first = 0; first < 32; first += deep) {
          if (batch + index_t{first} * fold >= end) break;
          piece p[deep];
#pragma unroll
          for (int d = 0; d < deep; ++d) {
            const index_t r = batch + index_t{first + d} * fold;
            if (r < end && column_here) p[d] = piece::load(at + r * row_chunks * N);
          }
          if (first == 0) mask = __ballot_sync(0xFFFFFFFFu, counts);
#pragma unroll
          for (int d = 0; d < deep; ++d)
            if (column_here && (mask >> (first + d) & 1u)) {
              A v[N];
              p[d].unpack(v);
#pragma unroll
              for (int i = 0; i < N; ++i) own[i] += v[i];
            }
        }
      }
    }
  }
  if (fold > 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) room[(warp * N + i) * 32 + lane] = own[i];
    __syncthreads();
    if (within != 0) return;
    for (int w = 1; w < fold; ++w)
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] += room[((warp + w) * N + i) * 32 + lane];
  }
  if (!here) return;
  if (splits > 1) {
    A* sum = part + ((index_t{split} * segments + s) * row_chunks + c) * N;
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = own[i];
  } else if (length > 0) {
    A v[N];
    before.unpack(v);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += own[i];
    piece::pack(v).store(sums + (s * row_chunks + c) * N);
  }
}
/// sums_i += part_i of every split, in order.
template <class T, class A>
__global__ void add_splits(index_t n, int splits, const A* part, T* sums) {
  const index_t i = index_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  A total = part[i];
#pragma unroll 4
  for (int s = 1; s < splits; ++s) total += part[s * n + i];
  sums[i] = T(A(sums[i]) + total);
}

}  // namespace kernel

namespace cuda_detail {

/// sums (segments, cols)[id_r] += x_r for x (rows, cols), id (rows).
template <class T>
void add_segment_sums(cuda_queue& q, index_t rows, index_t cols, index_t segments, const T* x, const int* id, T* sums) {
  using A = accum_of<T>;
  if (rows <= 0 || cols <= 0 || segments <= 0) return;
  const bool chunked = by_chunks(cols, x, sums);
  const index_t row_chunks = chunked ? cols / chunk_values<T> : cols;
  // Warps of one segment: up to four, of about 32 rows each; several blocks of a segment where segments are few and long.
  const index_t groups = pieces(row_chunks, 32), length = pieces(rows, segments);
  index_t fold = 1;
  while (fold < 4 && fold * 32 < length) fold *= 2;
  const index_t warps = 4;
  const index_t splits = std::clamp<index_t>(pieces(4096, segments * groups * fold), 1, std::max<index_t>(length / (fold * 32), 1));
  // Scratch: starts (segments + 1), one flag per block of the search, the splits' sums.
  const std::size_t numbers = static_cast<std::size_t>(pieces(segments + 1 + kernel::start_blocks, 64) * 64) * sizeof(int);
  const std::size_t sums_bytes = splits > 1 ? static_cast<std::size_t>(splits * segments * cols) * sizeof(A) : 0;
  auto* room = static_cast<unsigned char*>(q.scratch(numbers + sums_bytes));
  int *unordered = reinterpret_cast<int*>(room), *start = unordered + kernel::start_blocks;
  A* part = reinterpret_cast<A*>(room + numbers);
  q.launch("segment_starts", dim3(kernel::start_blocks), dim3(kernel::start_threads), 0, kernel::segment_starts<int>, rows, segments, id, start,
           unordered);
  const dim3 grid(static_cast<unsigned>(pieces(segments * groups * fold, warps)), static_cast<unsigned>(splits));
  const dim3 block(32, static_cast<unsigned>(warps));
  const auto run = [&]<int N>() {
    const std::size_t shared = fold > 1 ? static_cast<std::size_t>(warps * N * 32) * sizeof(A) : 0;
    q.launch("segment_rows", grid, block, shared, kernel::segment_rows<T, N>, rows, segments, row_chunks, static_cast<int>(groups),
             static_cast<int>(fold), static_cast<int>(splits), x, id, start, unordered, part, sums);
  };
  if (chunked) run.template operator()<chunk_values<T>>();
  else run.template operator()<1>();
  if (splits > 1)
    q.launch("add_splits", dim3(static_cast<unsigned>(pieces(segments * cols, 256))), dim3(256), 0, kernel::add_splits<T, A>, segments * cols,
             static_cast<int>(splits), part, sums);
}

}  // namespace cuda_detail
}  // namespace planlm
