/// for_each: one index per thread, or sixteen bytes of every stream per thread where the function says what it streams.
///
/// A function of an index may have a type `stream` and `template <class V> void streams(V& v)` that names its pointers to `stream`: v.read(x),
/// v.write(y), v.update(y) for arrays whose element i alone belongs to index i. Then a thread takes the neighbouring indices of a chunk: it
/// loads the chunks of all that is read at once, points a copy of the function at them, calls it for each and stores the chunks of what was
/// written. Bytes moved are those of the streams, each once.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstdint>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace cuda_detail {

/// Whether all streams lie on chunks.
struct stream_check {
  bool aligned = true;
  template <class T>
  PLANLM_HD void read(const T* p) {
    aligned = aligned && reinterpret_cast<std::uintptr_t>(p) % chunk_bytes == 0;
  }
  template <class T>
  PLANLM_HD void write(T* p) {
    read(p);
  }
  template <class T>
  PLANLM_HD void update(T* p) {
    read(p);
  }
};
/// Copies the chunk of N values from `first` on of what is read into `held`, and points there.
template <int N, int Streams, int Bytes>
struct stream_loader {
  unsigned char (&held)[Streams][Bytes];
  index_t first;
  int at = 0;
  template <class T>
  PLANLM_HD void read(const T*& p) {
    chunk<T, N>* own = reinterpret_cast<chunk<T, N>*>(held[at++]);
    *own = chunk<T, N>::load(p + first);
    p = own->value;
  }
  template <class T>
  PLANLM_HD void write(T*& p) {
    p = reinterpret_cast<T*>(held[at++]);
  }
  template <class T>
  PLANLM_HD void update(T*& p) {
    const T* from = p;
    read(from);
    p = const_cast<T*>(from);
  }
};
/// Stores the chunks of what was written to where the function pointed at first.
template <int N, int Streams, int Bytes>
struct stream_storer {
  const unsigned char (&held)[Streams][Bytes];
  index_t first;
  int at = 0;
  template <class T>
  PLANLM_HD void read(const T*&) {
    ++at;
  }
  template <class T>
  PLANLM_HD void write(T*& p) {
    reinterpret_cast<const chunk<T, N>*>(held[at++])->store(p + first);
  }
  template <class T>
  PLANLM_HD void update(T*& p) {
    write(p);
  }
};

template <class F>
concept HasStreams = requires(F f, stream_check& v) {
  typename F::stream;
  f.streams(v);
};

inline constexpr int most_streams = 4;

}  // namespace cuda_detail

namespace kernel {

/// f(i) for i in [0, n).
template <class F>
__global__ void for_each(index_t n, F f) {
  const index_t step = index_t{gridDim.x} * blockDim.x;
  for (index_t i = index_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) f(i);
}
/// The same, N indices per thread; the last n % N of them one each.
template <int N, class F>
__global__ void for_chunks(index_t n, F f) {
  const index_t thread = index_t{blockIdx.x} * blockDim.x + threadIdx.x, step = index_t{gridDim.x} * blockDim.x, full = n / N;
  for (index_t k = thread; k < full; k += step) {
    alignas(cuda_detail::chunk_bytes) unsigned char held[cuda_detail::most_streams][cuda_detail::chunk_bytes];
    F near = f, far = f;
    cuda_detail::stream_loader<N, cuda_detail::most_streams, cuda_detail::chunk_bytes> load{held, k * N};
    near.streams(load);
#pragma unroll
    for (int i = 0; i < N; ++i) near(index_t{i});
    cuda_detail::stream_storer<N, cuda_detail::most_streams, cuda_detail::chunk_bytes> store{held, k * N};
    far.streams(store);
  }
  if (thread < n - full * N) f(full * N + thread);
}

}  // namespace kernel

namespace cuda_detail {

template <class F>
void for_each(cuda_queue& q, index_t n, const F& f) {
  constexpr int threads = 256;
  if (n <= 0) return;
  const auto blocks = [](index_t count) {
    return dim3(static_cast<unsigned>(std::clamp<index_t>((count + threads - 1) / threads, 1, index_t{1} << 30)));
  };
  if constexpr (HasStreams<F>) {
    stream_check check;
    F(f).streams(check);
    constexpr int values = chunk_values<typename F::stream>;
    if (check.aligned)
      return q.launch("for_each", blocks(n / values), dim3(threads), 0, kernel::for_chunks<values, F>, n, f);
  }
  q.launch("for_each", blocks(n), dim3(threads), 0, kernel::for_each<F>, n, f);
}

}  // namespace cuda_detail
}  // namespace planlm
