/// table[id_r] += x_r in one fixed order: the gradient of an embedding.
///
/// The row numbers are sorted by id (stable, radix 256, so equal ids keep the order of their rows); the sorted list is cut into parts of
/// part_rows entries. A block adds the rows of a part in order, in float: a run of one id that lies within the part goes to the table at once;
/// what continues from the part before or into the part after is left as a partial sum, added by the part where the run begins. However often an
/// id occurs, its work is spread over the parts. Ids outside the table are left out.
/// Bytes: x read once, each touched row of the table read and written once, 2 / part_rows of the rows as float partial sums;
/// for sorting 24 bytes per row and digit of the largest id.
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

inline constexpr int sort_threads = 256, sort_rounds = 8, digits = 256, part_rows = 32;
inline constexpr int sort_block = sort_threads * sort_rounds;  // keys of one block

/// The key of entry i: an id of the table, or `keys` for one outside it. In the first pass (`value` empty) entries are rows.
inline __device__ int key_of(const int* key, index_t i, int keys, bool first) {
  const int k = key[i];
  return first && (k < 0 || k > keys) ? keys : k;
}

/// count[digit, block] of the keys of each block.
template <class Int>
__global__ void __launch_bounds__(sort_threads) count_digits(index_t n, int keys, int shift, bool first, const Int* key, Int* count) {
  __shared__ int own[digits];
  own[threadIdx.x] = 0;
  __syncthreads();
  const index_t begin = index_t{blockIdx.x} * sort_block;
#pragma unroll
  for (int k = 0; k < sort_rounds; ++k) {
    const index_t i = begin + k * sort_threads + threadIdx.x;
    if (i < n) atomicAdd(&own[key_of(key, i, keys, first) >> shift & (digits - 1)], 1);  // integers: any order gives the same count
  }
  __syncthreads();
  count[index_t{threadIdx.x} * gridDim.x + blockIdx.x] = own[threadIdx.x];
}

/// Moves keys and values to where their digit belongs, equal digits in their order. Warp w of a block has its entries
/// [w, w + 1) * 32 sort_rounds, round by round, lane by lane.
template <class Int>
__global__ void __launch_bounds__(sort_threads) move_by_digit(index_t n, int keys, int shift, const Int* key, const Int* value,
                                                              const Int* count, Int* to_key, Int* to_value) {
  constexpr int warps = sort_threads / 32;
  __shared__ int next[warps][digits], total[warps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, blocks = static_cast<int>(gridDim.x);
  for (int w = 0; w < warps; ++w) next[w][thread] = 0;
  __syncthreads();
  const index_t begin = index_t{blockIdx.x} * sort_block + warp * (32 * sort_rounds) + lane;
  int own[sort_rounds];
#pragma unroll
  for (int k = 0; k < sort_rounds; ++k) {
    const index_t i = begin + k * 32;
    own[k] = i < n ? key_of(key, i, keys, !value) : -1;
    if (own[k] >= 0) atomicAdd(&next[warp][own[k] >> shift & (digits - 1)], 1);
  }
  // Thread d: entries of digit d in all blocks, and in the blocks before this one.
  int all = 0, before = 0;
  for (int b = 0; b < blocks; ++b) {
    const int c = count[index_t{thread} * blocks + b];
    all += c;
    before += b < static_cast<int>(blockIdx.x) ? c : 0;
  }
  int sum = all;  // of the digits up to this one
  for (int apart = 1; apart < 32; apart *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, sum, apart);
    if (lane >= apart) sum += other;
  }
  if (lane == 31) total[warp] = sum;
  __syncthreads();
  int at = sum - all + before;
  for (int w = 0; w < warp; ++w) at += total[w];
  for (int w = 0; w < warps; ++w) {
    const int c = next[w][thread];
    next[w][thread] = at;
    at += c;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < sort_rounds; ++k) {
    const index_t i = begin + k * 32;
    const int digit = own[k] < 0 ? digits : own[k] >> shift & (digits - 1);
    const unsigned same = __match_any_sync(0xFFFFFFFFu, digit);
    const int rank = __popc(same & ((1u << lane) - 1));
    int place = 0;
    if (own[k] >= 0) place = next[warp][digit] + rank;
    __syncwarp();  // all lanes have read before the first of a digit moves on
    if (own[k] >= 0) {
      if (rank == 0) next[warp][digit] = place + __popc(same);
      to_key[place] = own[k];
      to_value[place] = value ? value[i] : static_cast<int>(i);
    }
    __syncwarp();
  }
}

/// One part of the sorted entries, a chunk of columns per thread. partial (parts, 2, columns): what continues from the part before, and what
/// begins here and continues in the next.
template <class T, int N>
__global__ void scatter_parts(index_t n, int keys, index_t row_chunks, const T* x, const int* key, const int* row, accum_of<T>* partial,
                              T* table) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  constexpr int deep = 8;
  static_assert(part_rows % deep == 0);
  __shared__ int keys_here[part_rows + 2], rows_here[part_rows];  // keys with one neighbour on each side, -1 where there is none
  const index_t begin = index_t{blockIdx.x} * part_rows;
  const int count = static_cast<int>(n - begin < part_rows ? n - begin : part_rows);
  for (int i = static_cast<int>(threadIdx.x); i < part_rows + 2; i += static_cast<int>(blockDim.x)) {
    const index_t e = begin + i - 1;
    keys_here[i] = e >= 0 && e < n ? key[e] : -1;
    if (i >= 1 && i <= count) rows_here[i - 1] = row[e];
  }
  __syncthreads();
  const index_t c = index_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (c >= row_chunks) return;
  A own[N] = {};
  int run = 0;  // where the run began
  for (int first = 0; first < count; first += deep) {
    piece p[deep];
#pragma unroll
    for (int d = 0; d < deep; ++d)
      if (first + d < count && keys_here[first + d + 1] < keys) p[d] = piece::load(x + (index_t{rows_here[first + d]} * row_chunks + c) * N);
#pragma unroll
    for (int d = 0; d < deep; ++d) {
      const int i = first + d;
      if (i >= count) break;
      const int k = keys_here[i + 1];
      if (k >= keys) break;
      A v[N];
      p[d].unpack(v);
#pragma unroll
      for (int j = 0; j < N; ++j) own[j] += v[j];
      const bool last = i == count - 1, next_differs = keys_here[i + 2] != k;
      if (!last && !next_differs) continue;
      const bool from_before = run == 0 && keys_here[0] == k, goes_on = last && !next_differs;
      if (from_before || goes_on) {
        A* to = partial + ((index_t{blockIdx.x} * 2 + (from_before ? 0 : 1)) * row_chunks + c) * N;
#pragma unroll
        for (int j = 0; j < N; ++j) to[j] = own[j];
      } else {
        T* to = table + (index_t{k} * row_chunks + c) * N;
        A t[N];
        piece::load(to).unpack(t);
#pragma unroll
        for (int j = 0; j < N; ++j) t[j] += own[j];
        piece::pack(t).store(to);
      }
#pragma unroll
      for (int j = 0; j < N; ++j) own[j] = A(0);
      run = i + 1;
    }
  }
}
/// Runs that begin in a part and go on: their partial sums in the order of the parts, then into the table. A thread has N columns.
template <class T, int N>
__global__ void __launch_bounds__(256) scatter_runs(index_t n, int keys, index_t cols, const int* key, const accum_of<T>* partial, T* table) {
  using A = accum_of<T>;
  const index_t next = (index_t{blockIdx.x} + 1) * part_rows;  // the first entry of the next part, which exists
  const int k = key[next - 1];
  if (k >= keys || key[next] != k) return;
  const index_t begin = next - part_rows;
  if (key[begin] == k && begin > 0 && key[begin - 1] == k) return;  // began earlier
  // Parts that begin with k: the list is sorted, so they follow one another. Each thread looks at one.
  index_t parts = 0;
  for (int found = static_cast<int>(blockDim.x); found == static_cast<int>(blockDim.x); parts += found) {
    const index_t at = next + (parts + static_cast<int>(threadIdx.x)) * part_rows;
    found = __syncthreads_count(at < n && key[at] == k);
  }
  const index_t c = (index_t{blockIdx.y} * blockDim.x + threadIdx.x) * N;
  if (c >= cols) return;
  A own[N];
  const A* from = partial + (index_t{blockIdx.x} * 2 + 1) * cols + c;
#pragma unroll
  for (int i = 0; i < N; ++i) own[i] = from[i];
  from += cols;  // the next part's first row, two rows per part
#pragma unroll 8
  for (index_t p = 0; p < parts; ++p) {
    const auto piece = cuda_detail::chunk<A, N>::load(from + p * 2 * cols);
#pragma unroll
    for (int i = 0; i < N; ++i) own[i] += piece.value[i];
  }
  T* to = table + index_t{k} * cols + c;
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = T(A(to[i]) + own[i]);
}

}  // namespace kernel

namespace cuda_detail {

/// table (keys, cols)[id_r] += x_r for x (rows, cols), id (rows).
template <class T>
void scatter_add_rows(cuda_queue& q, index_t rows, index_t cols, index_t keys, const T* x, const int* id, T* table) {
  using A = accum_of<T>;
  if (rows <= 0 || cols <= 0 || keys <= 0) return;
  const index_t blocks = pieces(rows, kernel::sort_block), parts = pieces(rows, kernel::part_rows), padded = pieces(rows, 64) * 64;
  // Scratch: two lists of keys and rows, the digits' counts, partial sums.
  const std::size_t numbers = static_cast<std::size_t>(4 * padded + pieces(kernel::digits * blocks, 64) * 64) * sizeof(int);
  auto* room = static_cast<unsigned char*>(q.scratch(numbers + static_cast<std::size_t>(parts * 2 * cols) * sizeof(A)));
  int* list[2][2] = {{reinterpret_cast<int*>(room), reinterpret_cast<int*>(room) + padded}, {}};
  list[1][0] = list[0][1] + padded;
  list[1][1] = list[1][0] + padded;
  int* count = list[1][1] + padded;
  A* partial = reinterpret_cast<A*>(room + numbers);
  const int* key = id;
  const int* row = nullptr;
  const dim3 sort_grid(static_cast<unsigned>(blocks)), sort_threads(kernel::sort_threads);
  for (int shift = 0, pass = 0; shift == 0 || keys >> shift > 0; shift += 8, ++pass) {
    q.launch("count_digits", sort_grid, sort_threads, 0, kernel::count_digits<int>, rows, static_cast<int>(keys), shift, row == nullptr, key,
             count);
    q.launch("move_by_digit", sort_grid, sort_threads, 0, kernel::move_by_digit<int>, rows, static_cast<int>(keys), shift, key, row, count,
             list[pass % 2][0], list[pass % 2][1]);
    key = list[pass % 2][0];
    row = list[pass % 2][1];
  }
  const auto run = [&]<int N>() {
    const index_t row_chunks = cols / N, threads = std::min<index_t>(pieces(row_chunks, 32) * 32, 256);
    const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(pieces(row_chunks, threads)));
    q.launch("scatter_parts", grid, dim3(static_cast<unsigned>(threads)), 0, kernel::scatter_parts<T, N>, rows, static_cast<int>(keys),
             row_chunks, x, key, row, partial, table);
  };
  if (by_chunks(cols, x, table)) run.template operator()<chunk_values<T>>();
  else run.template operator()<1>();
  const auto add_runs = [&]<int N>() {
    const index_t threads = std::min<index_t>(pieces(cols / N, 32) * 32, 256);
    q.launch("scatter_runs", dim3(static_cast<unsigned>(parts - 1), static_cast<unsigned>(pieces(cols / N, threads))),
             dim3(static_cast<unsigned>(threads)), 0, kernel::scatter_runs<T, N>, rows, static_cast<int>(keys), cols, key, partial, table);
  };
  if (parts > 1 && cols % 4 == 0 && sizeof(A) == 4) add_runs.template operator()<4>();
  else if (parts > 1) add_runs.template operator()<1>();
}

}  // namespace cuda_detail
}  // namespace planlm
