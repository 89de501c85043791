/// Layer norm and root-mean-square norm of rows, with the sum in front of them, and their pullback in one pass.
///
/// Forward: a team of 32, 128 or 512 threads holds a row in registers, 32 values per thread. Bytes: x read once, y written once (with a sum in
/// front: two reads, two writes). Pullback: a team walks over rows and keeps the column sums of dy and dy o h in registers; blocks leave one row
/// of partial sums each, added in block order. Bytes: x and dy (and a residual) read once, dx written once, two float rows per block. A block per
/// row group with one chunk per thread was measured at half the speed. Rows beyond the widest team are left to the plain composition.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace cuda_detail {

/// x (rows, cols) [+ added, kept as `sum`] -> y, mean and rstd (rows). Empty: added, sum, shift; mean where rows are not centred.
template <class T>
struct norm_call {
  using A = accum_of<T>;
  const T *x, *added, *scale, *shift;
  T *sum, *y;
  A *mean, *rstd;
  index_t rows, cols;
  A epsilon;
};
/// dx [+ residual] from x, dy and the statistics; parts (blocks, 2, cols) of the gradients of scale and shift unless empty.
template <class T>
struct norm_pullback_call {
  using A = accum_of<T>;
  const T *x, *scale, *dy, *residual;
  const A *mean, *rstd;
  T* dx;
  A* part;
  index_t rows, cols;
};
/// Most values of a row that one thread holds; rows that need no more take kernels with 24 or 16, whose registers leave room for more threads.
inline constexpr int row_values = 32;
/// Threads of a multiprocessor that the forward kernel has registers for.
template <int N, int Values>
inline constexpr int norm_threads = N == 1 ? 512 : N == 8 ? (Values <= 24 ? 1536 : 1280) : 768;
/// Blocks of a multiprocessor that the pullback has registers for.
template <int N, int Values, int Threads>
inline constexpr int pullback_blocks =
    std::max(1, (N == 8 ? (Values <= 16 ? 640 : Values <= 24 ? 512 : 384) : N == 1 || Values > 16 ? 256 : 512) / Threads);

}  // namespace cuda_detail

namespace kernel {

/// y = (x - mean) rstd scale + shift.
template <class T, int N, int Values, int Team, int Threads, bool Centred>
__global__ void __launch_bounds__(Threads, cuda_detail::norm_threads<N, Values> / Threads) norm_rows(cuda_detail::norm_call<T> f) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  constexpr int chunks = Values / N, teams = Threads / Team;
  __shared__ A room[Threads / 32];
  const int lane = static_cast<int>(threadIdx.x) % Team, team = static_cast<int>(threadIdx.x) / Team;
  const index_t r = index_t{blockIdx.x} * teams + team;
  const bool here = r < f.rows;
  const index_t at = (here ? r : 0) * f.cols;
  piece held[chunks];
#pragma unroll
  for (int k = 0; k < chunks; ++k) {
    const index_t c = (index_t{k} * Team + lane) * N;
    if (here && c < f.cols) held[k] = piece::load(f.x + at + c);
  }
  if (f.added) {
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const index_t c = (index_t{k} * Team + lane) * N;
      if (here && c < f.cols) {
        A a[N], b[N];
        held[k].unpack(a);
        piece::load(f.added + at + c).unpack(b);
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] += b[i];
        held[k] = piece::pack(a);
        held[k].store(f.sum + at + c);
      }
    }
  }
  const A inverse = A(1) / A(f.cols);
  A mean = 0;
  if constexpr (Centred) {
    A total[1] = {};
#pragma unroll
    for (int k = 0; k < chunks; ++k)
      if ((index_t{k} * Team + lane) * N < f.cols) {
        A v[N];
        held[k].unpack(v);
#pragma unroll
        for (int i = 0; i < N; ++i) total[0] += v[i];
      }
    cuda_detail::team_sums<Team>(total, room);
    mean = total[0] * inverse;
  }
  A squares[1] = {};
#pragma unroll
  for (int k = 0; k < chunks; ++k)
    if ((index_t{k} * Team + lane) * N < f.cols) {
      A v[N];
      held[k].unpack(v);
#pragma unroll
      for (int i = 0; i < N; ++i) squares[0] += (v[i] - mean) * (v[i] - mean);
    }
  cuda_detail::team_sums<Team>(squares, room);
  const A rstd = A(1) / sqrt(squares[0] * inverse + f.epsilon);
  if (!here) return;
#pragma unroll
  for (int k = 0; k < chunks; ++k) {
    const index_t c = (index_t{k} * Team + lane) * N;
    if (c < f.cols) {
      A v[N], g[N], b[N] = {};
      held[k].unpack(v);
      piece::load(f.scale + c).unpack(g);
      if constexpr (Centred) piece::load(f.shift + c).unpack(b);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = (v[i] - mean) * rstd * g[i] + b[i];
      piece::pack(v).store(f.y + at + c);
    }
  }
  if (lane == 0) {
    if constexpr (Centred) f.mean[r] = mean;
    f.rstd[r] = rstd;
  }
}

/// With h = (x - mean) rstd and d = dy scale: dx = rstd (d - mean(d) - h mean(d h)), without the mean(d) term if not centred.
template <class T, int N, int Values, int Team, int Threads, bool Centred>
__global__ void __launch_bounds__(Threads, cuda_detail::pullback_blocks<N, Values, Threads>)
    norm_rows_pullback(cuda_detail::norm_pullback_call<T> f) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  constexpr int chunks = Values / N, teams = Threads / Team;
  __shared__ A room[2 * (Threads / 32)];
  extern __shared__ unsigned char column_room[];  // (teams, cols) sums, where a block has several teams
  const int lane = static_cast<int>(threadIdx.x) % Team, team = static_cast<int>(threadIdx.x) / Team;
  const A inverse = A(1) / A(f.cols);
  A dscale[chunks][N] = {}, dshift[chunks][N] = {};
  // All teams of a block take the same number of rounds: reductions meet the whole block.
  const index_t step = index_t{gridDim.x} * teams;
  for (index_t first = index_t{blockIdx.x} * teams; first < f.rows; first += step) {
    const index_t r = first + team;
    const bool here = r < f.rows;
    const index_t at = (here ? r : 0) * f.cols;
    piece x[chunks], dy[chunks];
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const index_t c = (index_t{k} * Team + lane) * N;
      if (here && c < f.cols) {
        x[k] = piece::load(f.x + at + c);
        dy[k] = piece::load(f.dy + at + c);
      }
    }
    A mean = 0, rstd = 0;
    if (here) {
      if constexpr (Centred) mean = f.mean[r];
      rstd = f.rstd[r];
    }
    A total[2] = {};  // of d and of d h
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const index_t c = (index_t{k} * Team + lane) * N;
      if (here && c < f.cols) {
        A v[N], d[N], g[N];
        x[k].unpack(v);
        dy[k].unpack(d);
        piece::load(f.scale + c).unpack(g);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const A h = (v[i] - mean) * rstd;
          dscale[k][i] += d[i] * h;
          dshift[k][i] += d[i];
          total[0] += d[i] * g[i];
          total[1] += d[i] * g[i] * h;
        }
      }
    }
    cuda_detail::team_sums<Team>(total, room);
    const A both = Centred ? total[0] * inverse : A(0), along = total[1] * inverse;
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const index_t c = (index_t{k} * Team + lane) * N;
      if (here && c < f.cols) {
        A v[N], d[N], g[N];
        x[k].unpack(v);
        dy[k].unpack(d);
        piece::load(f.scale + c).unpack(g);
#pragma unroll
        for (int i = 0; i < N; ++i) d[i] = rstd * (d[i] * g[i] - both - (v[i] - mean) * rstd * along);
        if (f.residual) {
          piece::load(f.residual + at + c).unpack(v);
#pragma unroll
          for (int i = 0; i < N; ++i) d[i] += v[i];
        }
        piece::pack(d).store(f.dx + at + c);
      }
    }
  }
  if (!f.part) return;
  A* to = f.part + index_t{blockIdx.x} * 2 * f.cols;
  A* sums = reinterpret_cast<A*>(column_room);
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    if constexpr (teams > 1) __syncthreads();
#pragma unroll
    for (int k = 0; k < chunks; ++k) {
      const index_t c = (index_t{k} * Team + lane) * N;
      if (c < f.cols)
#pragma unroll
        for (int i = 0; i < N; ++i) (teams > 1 ? sums + team * f.cols : to + which * f.cols)[c + i] = which ? dshift[k][i] : dscale[k][i];
    }
    if constexpr (teams > 1) {
      __syncthreads();
      for (index_t c = threadIdx.x; c < f.cols; c += Threads) {
        A total = sums[c];
        for (int t = 1; t < teams; ++t) total += sums[t * f.cols + c];
        to[which * f.cols + c] = total;
      }
    }
  }
}

}  // namespace kernel

namespace cuda_detail {

/// False: not done, the shape is for the plain composition. So it is for double, which would need twice the registers.
template <bool Centred, class T>
bool norm(cuda_queue& q, const norm_call<T>& f) {
  if constexpr (sizeof(T) == 8) {
    return false;
  } else {
    constexpr int N = chunk_values<T>;
    const bool chunks = by_chunks(f.cols, f.x, f.added, f.scale, f.shift, f.sum, f.y);
    if (f.cols < 1 || f.cols > (chunks ? 512 : 128) * row_values) return false;
    if (f.rows <= 0) return true;
    const auto run = [&]<int Width, int Values, int Team, int Threads>() {
      q.launch("norm", dim3(static_cast<unsigned>(pieces(f.rows, Threads / Team))), dim3(Threads), 0,
               kernel::norm_rows<T, Width, Values, Team, Threads, Centred>, f);
    };
    if (!chunks) run.template operator()<1, 32, 128, 128>();
    else if (f.cols <= 32 * 24) run.template operator()<N, 24, 32, 128>();
    else if (f.cols <= 32 * 32) run.template operator()<N, 32, 32, 128>();
    else if (f.cols <= 64 * 32) run.template operator()<N, 32, 64, 64>();
    else if (f.cols <= 128 * 24) run.template operator()<N, 24, 128, 128>();
    else if (f.cols <= 128 * 32) run.template operator()<N, 32, 128, 128>();
    else run.template operator()<N, 32, 512, 512>();
    return true;
  }
}
/// Adds to dscale and dshift (cols) unless they are empty. False: not done.
template <bool Centred, class T>
bool norm_pullback(cuda_queue& q, norm_pullback_call<T> f, T* dscale, T* dshift) {
  if constexpr (sizeof(T) == 8) {
    return false;
  } else {
    using A = accum_of<T>;
    constexpr int N = chunk_values<T>;
    const bool chunks = by_chunks(f.cols, f.x, f.scale, f.dy, f.residual, f.dx);
    if (f.cols < 1 || f.cols > (chunks ? 256 : 128) * row_values) return false;
    if (f.rows <= 0) return true;
    index_t blocks = 0;
    const auto run = [&]<int Width, int Values, int Team, int Threads>() {
      constexpr int teams = Threads / Team;
      blocks = std::min<index_t>(pieces(f.rows, teams), index_t{q.multiprocessors()} * pullback_blocks<Width, Values, Threads>);
      f.part = nullptr;
      if (dscale || dshift) f.part = static_cast<A*>(q.scratch(static_cast<std::size_t>(blocks * 2 * f.cols) * sizeof(A)));
      const std::size_t room = teams > 1 ? static_cast<std::size_t>(teams * f.cols) * sizeof(A) : 0;
      q.launch("norm_pullback", dim3(static_cast<unsigned>(blocks)), dim3(Threads), room,
               kernel::norm_rows_pullback<T, Width, Values, Team, Threads, Centred>, f);
    };
    if (!chunks) run.template operator()<1, 32, 128, 128>();
    else if (f.cols <= 32 * 24) run.template operator()<N, 24, 32, 128>();
    else if (f.cols <= 32 * 32) run.template operator()<N, 32, 32, 128>();
    else if (f.cols <= 128 * 16) run.template operator()<N, 16, 128, 128>();
    else if (f.cols <= 128 * 24) run.template operator()<N, 24, 128, 128>();
    else if (f.cols <= 128 * 32) run.template operator()<N, 32, 128, 128>();
    else run.template operator()<N, 32, 256, 256>();
    if (f.part) add_column_parts<T, A>(q, blocks, 2 * f.cols, f.cols, f.part, dscale, dshift);
    return true;
  }
}

}  // namespace cuda_detail
}  // namespace planlm
