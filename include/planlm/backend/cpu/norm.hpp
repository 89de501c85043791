/// The pullback of norms on a CPU in one pass over memory; equations in ops/norm.hpp. Forward, a row stays in the first-level cache between
/// the loops of the row kernel, which makes that one pass already.
///
/// The gradients of scale and shift are column sums. They are made of rows that lie in the first-level cache anyway: every block of 64 rows,
/// whatever the number of threads, has sums of its own, and these are added in the order of blocks. So the bits do not depend on threads, and
/// partial sums keep float's rounding error small.
#pragma once
#include <algorithm>
#include <cstddef>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>
#include <planlm/backend/team.hpp>

namespace planlm::cpu_detail::inline PLANLM_CPU_ABI {

inline constexpr index_t norm_block = 64;

/// dx [+ residual], and sums for the gradients of scale and shift.
template <class Real, bool Centred>
struct norm_backward {
  const Real *x, *scale, *mean, *rstd, *dy, *residual;  // mean is null if not centred, residual may be
  Real* dx;
  index_t cols;

  /// dscale and dshift (cols): += or null.
  void row(index_t r, Real* dscale, Real* dshift) const {
    const Real m = Centred ? mean[r] : Real(0), s = rstd[r];
    const Real *from = x + r * cols, *d = dy + r * cols;
    write(from, d, residual ? residual + r * cols : nullptr, m, s, dx + r * cols);
    if (dscale) add_scale(cols, from, d, m, s, dscale);
    if (dshift) add_shift(cols, d, dshift);
  }

 private:
  void write(const Real* __restrict from, const Real* __restrict d, const Real* __restrict more, Real m, Real s, Real* __restrict to) const {
    const Real* __restrict g = scale;
    const index_t n = cols;
    Real first = 0, second = 0;
    if constexpr (Centred) both_sums(n, from, d, m, s, first, second);
    else second = serial_team{}.sum<Real>(n, [=](index_t i) { return d[i] * g[i] * from[i] * s; }) / Real(n);
    if (more)
      for (index_t i = 0; i < n; ++i) to[i] = s * (d[i] * g[i] - first - (from[i] - m) * s * second) + more[i];
    else
      for (index_t i = 0; i < n; ++i) to[i] = s * (d[i] * g[i] - first - (from[i] - m) * s * second);
  }
  /// Means of d g and of d g h, each as serial_team sums: two chains of additions wait less than one after the other.
  void both_sums(index_t n, const Real* __restrict from, const Real* __restrict d, Real m, Real s, Real& first, Real& second) const {
    constexpr index_t lanes = serial_team::lanes;
    const Real* __restrict g = scale;
    Real whole[lanes] = {}, product[lanes] = {};
    const auto add = [&](index_t i, index_t lane) {
      const Real w = d[i] * g[i];
      whole[lane] += w;
      product[lane] += w * (from[i] - m) * s;
    };
    const index_t full = n - n % lanes;
    for (index_t i = 0; i < full; i += lanes)
      for (index_t l = 0; l < lanes; ++l) add(i + l, l);
    for (index_t i = full; i < n; ++i) add(i, i - full);
    for (index_t width = lanes / 2; width > 0; width /= 2)
      for (index_t l = 0; l < width; ++l) whole[l] += whole[l + width], product[l] += product[l + width];
    first = whole[0] / Real(n), second = product[0] / Real(n);
  }
  static void add_scale(index_t n, const Real* __restrict from, const Real* __restrict d, Real m, Real s, Real* __restrict to) {
    for (index_t i = 0; i < n; ++i) to[i] += d[i] * (from[i] - m) * s;
  }
  static void add_shift(index_t n, const Real* __restrict d, Real* __restrict to) {
    for (index_t i = 0; i < n; ++i) to[i] += d[i];
  }
};

/// `dscale`, `dshift` (cols): += or null. The queue's first scratch memory holds the sums of all blocks. The last rows go first: they are
/// what the forward pass and whoever made dy have touched last, and of large matrices only those are still in a cache.
template <class Queue, class Real, bool Centred>
void norm_pullback(Queue& q, index_t rows, const norm_backward<Real, Centred>& f, Real* dscale, Real* dshift) {
  const index_t blocks = (rows + norm_block - 1) / norm_block, wanted = (dscale ? 1 : 0) + (dshift ? 1 : 0), step = wanted * f.cols;
  Real* const sums = wanted ? static_cast<Real*>(q.scratch(0, static_cast<std::size_t>(blocks * step) * sizeof(Real))) : nullptr;
  const index_t shift_at = dscale ? f.cols : 0;
  q.pool().run(blocks, [&](index_t task, int) {
    const index_t b = blocks - 1 - task;
    Real* const own = sums + b * step;
    std::fill_n(own, step, Real(0));
    for (index_t r = b * norm_block; r < std::min(rows, (b + 1) * norm_block); ++r)
      f.row(r, dscale ? own : nullptr, dshift ? own + shift_at : nullptr);
  });
  const auto add = [&](const Real* from, Real* to) {
    constexpr index_t width = 64;
    for (index_t c = 0; c < f.cols; c += width) {
      const index_t n = std::min(width, f.cols - c);
      Real total[width] = {};
      for (index_t b = 0; b < blocks; ++b)
        for (index_t i = 0; i < n; ++i) total[i] += from[b * step + c + i];
      for (index_t i = 0; i < n; ++i) to[c + i] += total[i];
    }
  };
  if (dscale) add(sums, dscale);
  if (dshift) add(sums + shift_at, dshift);
}

}  // namespace planlm::cpu_detail::inline PLANLM_CPU_ABI
