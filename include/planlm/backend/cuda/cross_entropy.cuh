/// Cross-entropy of rows of logits, the gradient in place of the logits.
///
/// A team of 32, 128 or 512 threads per row: running maximum and sum in one read; then weight (softmax - onehot) is written. Bytes: each logit
/// read once and written once; rows of up to staged_bytes wait in shared memory, longer ones are read again, from the cache. Two exponentials
/// per logit. Rows may start anywhere: what lies before the first and after the last chunk goes value by value.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <cstdint>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace cuda_detail {

/// z (rows, cols), row r at z + r stride. weight (rows), or empty for `uniform_weight`. nll (rows). A target below 0 is ignored.
template <class T>
struct cross_entropy_call {
  using A = accum_of<T>;
  T* z;
  const int* target;
  const A* weight;
  A* nll;
  index_t rows, cols, stride;
  A uniform_weight;
  bool gradient;
};

/// Two blocks of a multiprocessor fit.
inline constexpr std::size_t staged_bytes = 110 * 1024;

/// Largest value so far and the sum of e^(v - largest). Without branches, so that loads stay ahead of it.
template <class A>
struct running_softmax {
  A top = -INFINITY, total = 0;
  template <int Chunks, int N>
  __device__ void add(const A (&v)[Chunks][N]) {
    A most = top;
#pragma unroll
    for (int d = 0; d < Chunks; ++d)
#pragma unroll
      for (int i = 0; i < N; ++i) most = v[d][i] > most ? v[d][i] : most;
    const A base = most == -INFINITY ? A(0) : most;
    total *= quick_exp(top - base);
    top = most;
#pragma unroll
    for (int d = 0; d < Chunks; ++d) {
      A sum = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) sum += quick_exp(v[d][i] - base);
      total += sum;
    }
  }
};

}  // namespace cuda_detail

namespace kernel {

template <class T, int Team, int Threads, bool Staged>
__global__ void __launch_bounds__(Threads) cross_entropy_rows(cuda_detail::cross_entropy_call<T> f) {
  using A = accum_of<T>;
  constexpr int N = cuda_detail::chunk_values<T>, deep = 4;
  using piece = cuda_detail::chunk<T, N>;
  __shared__ A room[Threads / 32];
  extern __shared__ unsigned char staged_room[];
  piece* staged = reinterpret_cast<piece*>(staged_room);
  const int lane = static_cast<int>(threadIdx.x) % Team;
  const index_t r = index_t{blockIdx.x} * (Threads / Team) + static_cast<int>(threadIdx.x) / Team;
  const bool here = r < f.rows;
  T* row = f.z + (here ? r : 0) * f.stride;
  const int label = here ? f.target[r] : -1;
  // [0, head) and [head + chunks N, cols) lie beside the chunks.
  const int cols = static_cast<int>(f.cols);
  const int off = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) % cuda_detail::chunk_bytes / sizeof(T));
  const int head = min((N - off) % N, cols), chunks = (cols - head) / N, tail = head + chunks * N;
  T* body = row + head;
  const bool ignored = label < 0;  // the same in all threads of the team
  A picked = 0;
  if (!ignored) picked = A(row[label]);

  cuda_detail::running_softmax<A> own;
  if (!ignored) {
    int k = lane;
    for (; k + (deep - 1) * Team < chunks; k += deep * Team) {
      piece p[deep];
#pragma unroll
      for (int d = 0; d < deep; ++d) p[d] = piece::load(body + static_cast<index_t>(k + d * Team) * N);
      A v[deep][N];
#pragma unroll
      for (int d = 0; d < deep; ++d) {
        p[d].unpack(v[d]);
        if constexpr (Staged) staged[k + d * Team] = p[d];
      }
      own.add(v);
    }
    for (; k < chunks; k += Team) {
      const piece p = piece::load(body + static_cast<index_t>(k) * N);
      A v[1][N];
      p.unpack(v[0]);
      own.add(v);
      if constexpr (Staged) staged[k] = p;
    }
    for (int i = lane; i < head + cols - tail; i += Team) {
      const A v[1][1] = {{A(row[i < head ? i : tail + i - head])}};
      own.add(v);
    }
  }
  const A top = cuda_detail::team_max<Team>(own.top, room);
  A total[1] = {own.top == -INFINITY ? own.total : own.total * cuda_detail::quick_exp(own.top - top)};
  cuda_detail::team_sums<Team>(total, room);
  __syncwarp();  // every thread has picked before the label's logit is replaced
  if (!here) return;
  if (lane == 0) f.nll[r] = ignored ? A(0) : log(total[0]) + top - picked;
  if (!f.gradient) return;
  const A w = ignored ? A(0) : f.weight ? f.weight[r] : f.uniform_weight, factor = ignored ? A(0) : w / total[0];
#pragma unroll 2
  for (int k = lane; k < chunks; k += Team) {
    A v[N] = {};
    if (!ignored) {
      if constexpr (Staged) piece::load(reinterpret_cast<const T*>(staged + k)).unpack(v);
      else piece::load(body + static_cast<index_t>(k) * N).unpack(v);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = factor * cuda_detail::quick_exp(v[i] - top);
      const int at = label - head - k * N;
      if (at >= 0 && at < N)
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] -= at == i ? w : A(0);
    }
    piece::pack(v).store_whole(body + static_cast<index_t>(k) * N);
  }
  for (int i = lane; i < head + cols - tail; i += Team) {
    const int c = i < head ? i : tail + i - head;
    row[c] = ignored ? T(A(0)) : T(factor * cuda_detail::quick_exp(A(row[c]) - top) - (c == label ? w : A(0)));
  }
}

}  // namespace kernel

namespace cuda_detail {

template <class T>
void cross_entropy(cuda_queue& q, const cross_entropy_call<T>& f) {
  if (f.rows <= 0 || f.cols <= 0) return;
  const auto run = [&]<int Team, int Threads, bool Staged>() {
    const std::size_t room = Staged ? static_cast<std::size_t>(f.cols) * sizeof(T) : 0;
    q.launch("cross_entropy", dim3(static_cast<unsigned>(pieces(f.rows, Threads / Team))), dim3(Threads), room,
             kernel::cross_entropy_rows<T, Team, Threads, Staged>, f);
  };
  if (f.cols <= 1024) return run.template operator()<32, 128, false>();
  if (f.cols <= 8192) return run.template operator()<128, 128, false>();
  if (f.gradient && static_cast<std::size_t>(f.cols) * sizeof(T) <= staged_bytes) return run.template operator()<512, 512, true>();
  return run.template operator()<512, 512, false>();
}

}  // namespace cuda_detail
}  // namespace planlm
