/// dE += w^T de where w has few entries a row: each sentence adds weight x de to the rows of the labels it took.
///
/// No atomics on floats: the S k pairs of sentence and label are sorted by label with their order kept (counts per chunk of pairs, two prefix
/// sums, placement), then each label sums its own pairs in a fixed order: the same bits in every run. Reads S k C values of de, writes at most
/// K C; beside that 4 (chunks K + 4 S k) bytes of counts and numbers.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <planlm/backend/cuda/mixing_rows.cuh>
#include <planlm/backend/cuda/mixing_sparse.cuh>

namespace planlm {

namespace kernel::mixing {

inline constexpr int pairs_of_chunk = 1024;           // sorted by one warp
inline constexpr int label_tile = 1024;               // labels of one step of a prefix sum
inline constexpr index_t most_sorted_labels = 16384;  // one int each in shared memory

/// counts (chunks, K): how often a label occurs among the pairs of a chunk. Sums of integers: any order gives the same.
template <class Int>
__global__ void count_labels(const Int* label, index_t pairs, index_t labels, Int* counts) {
  extern __shared__ int count[];
  for (index_t l = threadIdx.x; l < labels; l += blockDim.x) count[l] = 0;
  __syncthreads();
  const index_t begin = index_t{blockIdx.x} * pairs_of_chunk;
  for (index_t i = begin + threadIdx.x; i < begin + pairs_of_chunk && i < pairs; i += blockDim.x)
    if (label[i] >= 0) atomicAdd(count + label[i], 1);
  __syncthreads();
  for (index_t l = threadIdx.x; l < labels; l += blockDim.x) counts[blockIdx.x * labels + l] = count[l];
}
/// counts becomes, per label, the sum over the chunks before; total (K) the sum over all.
template <class Int>
__global__ void sum_chunks(Int* counts, index_t chunks, index_t labels, Int* total) {
  const index_t l = index_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (l >= labels) return;
  int sum = 0;
  for (index_t c = 0; c < chunks; ++c) {
    const int n = counts[c * labels + l];
    counts[c * labels + l] = sum;
    sum += n;
  }
  total[l] = sum;
}
/// start (K + 1): the sum of total over the labels before. One block of label_tile threads.
template <class Int>
__global__ void sum_labels(const Int* total, index_t labels, Int* start) {
  __shared__ int of_warp[32];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  int carry = 0;
  for (index_t begin = 0; begin < labels; begin += label_tile) {
    const int n = begin + t < labels ? total[begin + t] : 0;
    int sum = n;
#pragma unroll
    for (int w = 1; w < 32; w *= 2) {
      const int left = __shfl_up_sync(0xFFFFFFFFu, sum, w);
      if (lane >= w) sum += left;
    }
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    int before_warp = 0, all = 0;
    for (int w = 0; w < label_tile / 32; ++w) {
      if (w < warp) before_warp += of_warp[w];
      all += of_warp[w];
    }
    if (begin + t < labels) start[begin + t] = carry + before_warp + sum - n;
    carry += all;
    __syncthreads();
  }
  if (t == 0) start[labels] = carry;
}
/// order: the numbers of the pairs by label, those of one label ascending. The first warp of the block places, the others help to load.
template <class Int>
__global__ void place_pairs(const Int* label, index_t pairs, index_t labels, const Int* counts, const Int* start, Int* order) {
  extern __shared__ int next[];
  for (index_t l = threadIdx.x; l < labels; l += blockDim.x) next[l] = start[l] + counts[blockIdx.x * labels + l];
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const index_t begin = index_t{blockIdx.x} * pairs_of_chunk;
  for (int i = 0; i < pairs_of_chunk; i += 32) {
    const index_t pair = begin + i + threadIdx.x;
    const int l = pair < pairs ? label[pair] : -1;
    const unsigned same = __match_any_sync(0xFFFFFFFFu, l);
    const int rank = __popc(same & ((1u << threadIdx.x) - 1));
    const int at = l >= 0 ? next[l] : 0;
    __syncwarp();
    if (l >= 0) {
      order[at + rank] = static_cast<int>(pair);
      if (rank == 0) next[l] = at + __popc(same);
    }
    __syncwarp();
  }
}
/// dE[label] += sum over its pairs of weight x de[pair / taken]. Eight warps of a block take every eighth pair of a tile of columns each.
template <class T, bool Vectors>
__global__ void __launch_bounds__(256) add_taken_rows(const int* order, const int* start, const float* weight, const T* de, T* dtable,
                                                      index_t width, int taken) {
  using chunk = cuda_detail::mixing::chunk<T>;
  constexpr int step = Vectors ? chunk::count : 1, warps = 8;
  __shared__ float part[warps][32 * step];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = start[blockIdx.x], end = start[blockIdx.x + 1];
  if (begin == end) return;
  const index_t column = (index_t{blockIdx.y} * 32 + lane) * step;
  const bool inside = column < width;
  float sum[step] = {};
#pragma unroll 4
  for (int i = begin + warp; i < end; i += warps) {
    const int pair = order[i];
    const float p = weight[pair];
    if (!inside) continue;
    float d[step];
    const T* row = de + index_t{pair / taken} * width + column;
    if constexpr (Vectors) chunk::load(row, d);
    else d[0] = static_cast<float>(*row);
#pragma unroll
    for (int j = 0; j < step; ++j) sum[j] += p * d[j];
  }
#pragma unroll
  for (int j = 0; j < step; ++j) part[warp][lane * step + j] = sum[j];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 32 * step; i += 32 * warps) {
    const index_t c = index_t{blockIdx.y} * 32 * step + i;
    if (c >= width) continue;
    float all = part[0][i];
#pragma unroll
    for (int w = 1; w < warps; ++w) all += part[w][i];
    T* to = dtable + index_t{blockIdx.x} * width + c;
    *to = static_cast<float>(*to) + all;
  }
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

/// Whether add_taken has room for a count of every label.
inline bool can_sort_labels(index_t labels) { return labels <= kernel::mixing::most_sorted_labels; }
/// dE (K, C) += the rows taken. Needs can_sort_labels(K).
template <class T>
void add_taken(cuda_queue& q, const taken_labels& taken, const T* de, T* dtable, index_t rows, index_t labels, index_t width) {
  const index_t pairs = rows * taken.count;
  if (pairs == 0 || labels == 0 || width == 0) return;
  const index_t chunks = (pairs + kernel::mixing::pairs_of_chunk - 1) / kernel::mixing::pairs_of_chunk;
  auto* counts = static_cast<int*>(q.scratch(static_cast<std::size_t>(chunks * labels + 2 * labels + 1 + pairs) * sizeof(int)));
  int *total = counts + chunks * labels, *start = total + labels, *order = start + labels + 1;
  const std::size_t shared = static_cast<std::size_t>(labels) * sizeof(int);
  const dim3 grid(static_cast<unsigned>(chunks));
  q.launch("count_labels", grid, dim3(256), shared, kernel::mixing::count_labels<int>, taken.label, pairs, labels, counts);
  q.launch("sum_chunks", dim3(blocks_of(labels, 128)), dim3(128), 0, kernel::mixing::sum_chunks<int>, counts, chunks, labels, total);
  q.launch("sum_labels", dim3(1), dim3(kernel::mixing::label_tile), 0, kernel::mixing::sum_labels<int>, total, labels, start);
  q.launch("place_pairs", grid, dim3(256), shared, kernel::mixing::place_pairs<int>, taken.label, pairs, labels, counts, start, order);
  const bool vectors = width % chunk<T>::count == 0 && aligned_to_16(de);
  const auto f = vectors ? kernel::mixing::add_taken_rows<T, true> : kernel::mixing::add_taken_rows<T, false>;
  const index_t columns = 32 * (vectors ? chunk<T>::count : 1);
  q.launch("add_taken_rows", dim3(static_cast<unsigned>(labels), blocks_of(width, columns)), dim3(256), 0, f, order, start, taken.weight, de, dtable,
           width, taken.count);
}

}  // namespace cuda_detail::mixing
}  // namespace planlm
