/// Sums of rows by segment number, where a segment's rows usually lie together: the gradient of a plan from its sentence's tokens.
///
/// One small kernel finds where each segment begins and whether the numbers ascend; then blocks of one segment and one group of columns add its
/// rows, row_lanes rows at a time, and fold. Numbers that do not ascend are right too, by a search of each block through all of them; numbers
/// below 0 are left out and do no harm to the order. Bytes: x read once, the sums read and written once, the numbers a few times.
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

inline constexpr int start_threads = 256, most_skipped = 32;

/// start[s]: the first row whose number is s or more, for s in [0, segments]; unordered[block]: whether that does not describe its rows.
inline __device__ void mark_starts(index_t rows, index_t segments, const int* id, index_t r, int* start, int& unordered) {
  const int own = id[r];
  if (own >= 0) {
    index_t before = r - 1;
    while (before >= 0 && r - before <= most_skipped && id[before] < 0) --before;
    if (before >= 0 && id[before] < 0) unordered = 1;  // too far back to look
    const index_t last = before >= 0 ? index_t{id[before]} : -1;
    if (own < last || own >= segments) unordered = 1;
    else
      for (index_t s = last + 1; s <= own; ++s) start[s] = static_cast<int>(r);
  }
  if (r == rows - 1) {
    index_t at = r;
    while (at >= 0 && rows - at <= most_skipped && id[at] < 0) --at;
    if (at >= 0 && id[at] < 0) unordered = 1;
    for (index_t s = at >= 0 ? index_t{id[at]} + 1 : 0; s <= segments; ++s) start[s] = static_cast<int>(rows);
  }
}
template <class Int>
__global__ void __launch_bounds__(start_threads) segment_starts(index_t rows, index_t segments, const Int* id, Int* start, Int* unordered) {
  const index_t r = index_t{blockIdx.x} * start_threads + threadIdx.x;
  int wrong = 0;
  if (r < rows) mark_starts(rows, segments, id, r, start, wrong);
  wrong = __syncthreads_or(wrong);
  if (threadIdx.x == 0) unordered[blockIdx.x] = wrong;
}

/// sums[s] += the rows of segment s, or, for several splits of it, part[split, s] = the split's sum. Threads (x: chunks of columns, y: rows).
template <class T, int N>
__global__ void segment_rows(index_t rows, index_t segments, index_t row_chunks, int blocks, int splits, const T* x, const int* id,
                             const int* start, const int* unordered, accum_of<T>* part, T* sums) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  constexpr int deep = 8;
  extern __shared__ __align__(16) unsigned char fold_room[];
  A* fold = reinterpret_cast<A*>(fold_room);  // (y, N, x)
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y), nx = static_cast<int>(blockDim.x);
  const int ny = static_cast<int>(blockDim.y), split = static_cast<int>(blockIdx.y), s = static_cast<int>(blockIdx.x);
  const index_t c = index_t{blockIdx.z} * nx + tx;
  int wrong = 0;
  for (int b = ty * nx + tx; b < blocks; b += nx * ny) wrong |= unordered[b];
  wrong = __syncthreads_or(wrong);
  const index_t from = wrong ? 0 : start[s], to = wrong ? rows : start[s + 1], length = to - from;
  const index_t begin = from + length * split / splits, end = from + length * (split + 1) / splits;
  A own[N] = {};
  if (wrong) {
    if (c < row_chunks)
#pragma unroll 4
      for (index_t r = begin + ty; r < end; r += ny)
        if (id[r] == s) {
          A v[N];
          piece::load(x + (r * row_chunks + c) * N).unpack(v);
#pragma unroll
          for (int i = 0; i < N; ++i) own[i] += v[i];
        }
  } else if (c < row_chunks) {
    for (index_t first = begin + ty; first < end; first += deep * ny) {
      piece p[deep];
      int number[deep];
#pragma unroll
      for (int d = 0; d < deep; ++d) {
        const index_t r = first + d * ny;
        number[d] = -1;
        if (r < end) {
          p[d] = piece::load(x + (r * row_chunks + c) * N);
          number[d] = id[r];
        }
      }
#pragma unroll
      for (int d = 0; d < deep; ++d)
        if (number[d] == s) {
          A v[N];
          p[d].unpack(v);
#pragma unroll
          for (int i = 0; i < N; ++i) own[i] += v[i];
        }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) fold[(ty * N + i) * nx + tx] = own[i];
  __syncthreads();
  if (ty != 0 || c >= row_chunks) return;
  for (int y = 1; y < ny; ++y)
#pragma unroll
    for (int i = 0; i < N; ++i) own[i] += fold[(y * N + i) * nx + tx];
  if (splits > 1) {
    A* sum = part + ((index_t{split} * segments + s) * row_chunks + c) * N;
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = own[i];
  } else if (length > 0) {
    T* sum = sums + (index_t{s} * row_chunks + c) * N;
    A v[N];
    piece::load(sum).unpack(v);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += own[i];
    piece::pack(v).store(sum);
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
  const index_t nx = std::min<index_t>(pieces(row_chunks, 32) * 32, 128), ny = 4, groups = pieces(row_chunks, nx);
  const index_t splits = std::clamp<index_t>(pieces(1024, segments * groups), 1, std::max<index_t>(rows / (segments * 64), 1));
  const index_t blocks = pieces(rows, kernel::start_threads);
  // Scratch: starts (segments + 1), one flag per block of the search, the splits' sums.
  const std::size_t numbers = static_cast<std::size_t>(pieces(segments + 1 + blocks, 64) * 64) * sizeof(int);
  const std::size_t sums_bytes = splits > 1 ? static_cast<std::size_t>(splits * segments * cols) * sizeof(A) : 0;
  auto* room = static_cast<unsigned char*>(q.scratch(numbers + sums_bytes));
  int *start = reinterpret_cast<int*>(room), *unordered = start + segments + 1;
  A* part = reinterpret_cast<A*>(room + numbers);
  q.launch("segment_starts", dim3(static_cast<unsigned>(blocks)), dim3(kernel::start_threads), 0, kernel::segment_starts<int>, rows, segments,
           id, start, unordered);
  const dim3 grid(static_cast<unsigned>(segments), static_cast<unsigned>(splits), static_cast<unsigned>(groups));
  const dim3 block(static_cast<unsigned>(nx), static_cast<unsigned>(ny));
  const auto run = [&]<int N>() {
    q.launch("segment_rows", grid, block, static_cast<std::size_t>(nx * ny * N) * sizeof(A), kernel::segment_rows<T, N>, rows, segments,
             row_chunks, static_cast<int>(blocks), static_cast<int>(splits), x, id, start, unordered, part, sums);
  };
  if (chunked) run.template operator()<chunk_values<T>>();
  else run.template operator()<1>();
  if (splits > 1)
    q.launch("add_splits", dim3(static_cast<unsigned>(pieces(segments * cols, 256))), dim3(256), 0, kernel::add_splits<T, A>, segments * cols,
             static_cast<int>(splits), part, sums);
}

}  // namespace cuda_detail
}  // namespace planlm
