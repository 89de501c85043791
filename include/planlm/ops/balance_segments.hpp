/// Segments of a trajectory and the passes over them, of which sub-trajectory balance is made (ops/sub_trajectory_balance.hpp has the mathematics).
///
/// A segment's pass is a chain: each step waits for the one before. On the CPU eight segments therefore go side by side in vectors; the others,
/// and what only some of the eight have, go one by one with the same arithmetic.
#pragma once
#include <cstddef>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <planlm/backend/team.hpp>
#include <planlm/core/config.hpp>

namespace planlm::ops::kernel {

/// Moments about the last point of what lies before it, and about the first point of what lies behind it.
struct balance_moments {
  double zeroth, first, second;
};
/// A stretch of steps from point a to point b: its decay lambda^(b - a), its rise u_b - u_a, moments about b of the points after a, moments
/// about a of the points before b; then moments of all points up to a and from b on, and what its own pairs' ends add to num and den.
struct balance_segment {
  double decay, rise, left0, left1, left2, right0, right1;
  balance_moments before, behind;
  double num, den;
};

/// Moments about the far end of a segment, from those about its near end: coming from the left, and from the right (no second moment).
PLANLM_HD inline balance_moments past(const balance_moments& m, const balance_segment& p) {
  return {p.left0 + p.decay * m.zeroth, p.left1 + p.decay * (m.first + p.rise * m.zeroth),
          p.left2 + p.decay * (m.second + p.rise * (2 * m.first + p.rise * m.zeroth))};
}
PLANLM_HD inline balance_moments back_past(const balance_moments& m, const balance_segment& p) {
  return {p.right0 + p.decay * m.zeroth, p.right1 + p.decay * (m.first - p.rise * m.zeroth), 0};
}
/// Two neighbours as one segment.
PLANLM_HD inline balance_segment joined(const balance_segment& a, const balance_segment& b) {
  const balance_moments left = past({a.left0, a.left1, a.left2}, b), right = back_past({b.right0, b.right1, 0}, a);
  return {a.decay * b.decay, a.rise + b.rise, left.zeroth, left.first, left.second, right.zeroth, right.first, {}, {}, 0, 0};
}

/// How many segments a trajectory of n steps is cut into, and where segment k begins. Of the room for a trajectory the last eight places
/// are those of its groups.
inline constexpr index_t most_segments = 128, balance_groups = 8, balance_group = 16;
PLANLM_HD constexpr index_t balance_segments(index_t n) {
  if (n < 16) return 1;
  return n < 256 ? n / 8 : n < 1024 ? 32 : n < 2048 ? 64 : most_segments - balance_groups;
}
PLANLM_HD constexpr index_t balance_begin(index_t n, index_t k) { return n * k / balance_segments(n); }

/// The state of a segment after some of its steps; with V a vector, of several segments side by side.
template <class V>
struct balance_opening {
  V decay, rise, left0, left1, left2, right0, right1;
  PLANLM_HD void take(const V& d, double lambda) {
    right0 += decay;
    right1 -= decay * rise;
    const V pairs1 = left1 + left0 * d, pairs2 = left2 + d * (2.0 * left1 + left0 * d);
    left0 = 1.0 + lambda * left0;
    left1 = lambda * pairs1;
    left2 = lambda * pairs2;
    rise += d;
    decay *= lambda;
  }
};
/// From the left: moments of the points so far, and what a point's pairs with those before it add.
template <class V>
struct balance_from_left {
  V zeroth, first, second, num, den, pairs1;
  PLANLM_HD void take(const V& d, double lambda) {
    pairs1 = first + zeroth * d;
    const V pairs2 = second + d * (2.0 * first + zeroth * d);
    num += pairs2;
    den += zeroth;
    zeroth = 1.0 + lambda * zeroth;
    first = lambda * pairs1;
    second = lambda * pairs2;
  }
};
/// From the right: gradients. A step is part of every pair that lies around it, a point of every pair that it ends.
template <class V>
struct balance_from_right {
  V zeroth, first, of_step, of_point;
  PLANLM_HD void take(const V& d, const V& left0, const V& pairs1, double lambda) {
    const V behind = first - zeroth * d;
    of_step = 2.0 * (lambda * pairs1 * zeroth - left0 * behind);
    of_point = 2.0 * (pairs1 + behind);
    zeroth = 1.0 + lambda * zeroth;
    first = lambda * behind;
  }
};

/// The numbers of one step of each segment that goes side by side.
template <class V>
struct balance_places {
  static constexpr int count = sizeof(V) / sizeof(double);
  index_t t[count];
  PLANLM_HD static double lane(const V& v, [[maybe_unused]] int l) {
    if constexpr (count == 1) return v;
    else return v[l];
  }
  PLANLM_HD void gather(V& v, const double* from, index_t stride) const {
    if constexpr (count == 1) v = from[stride * t[0]];
    else
      for (int l = 0; l < count; ++l) v[l] = from[stride * t[l]];
  }
};

/// A trajectory of n steps.
template <class Steps>
struct balance_trajectory {
  Steps steps;
  index_t r, n, parts;
  double lambda;
  double *at, *step;  // (n + 1, 2): M0 and the pairs' first moment at every point; (n): u_{t+1} - u_t
  balance_segment* part;
};
/// A pass over segments: begin(k), visit(state, places) for every step, end(k, state).
template <class Steps>
struct balance_open_pass : balance_trajectory<Steps> {
  static constexpr bool backwards = false;
  PLANLM_HD balance_opening<double> begin(index_t) const { return {1, 0, 0, 0, 0, 0, 0}; }
  template <class V>
  PLANLM_HD void visit(balance_opening<V>& s, const balance_places<V>& places) const {
    V d;
    places.gather(d, this->step, 1);
    s.take(d, this->lambda);
  }
  PLANLM_HD void end(index_t k, const balance_opening<double>& s) const {
    this->part[k] = {s.decay, s.rise, s.left0, s.left1, s.left2, s.right0, s.right1, {}, {}, 0, 0};
  }
};
template <class Steps>
struct balance_left_pass : balance_trajectory<Steps> {
  static constexpr bool backwards = false;
  PLANLM_HD balance_from_left<double> begin(index_t k) const {
    const balance_moments& m = this->part[k].before;
    return {m.zeroth, m.first, m.second, 0, 0, 0};
  }
  template <class V>
  PLANLM_HD void visit(balance_from_left<V>& s, const balance_places<V>& places) const {
    V d;
    places.gather(d, this->step, 1);
    s.take(d, this->lambda);
    for (int l = 0; l < places.count; ++l) {
      double* point = this->at + 2 * (places.t[l] + 1);
      point[0] = places.lane(s.zeroth, l), point[1] = places.lane(s.pairs1, l);
    }
  }
  PLANLM_HD void end(index_t k, const balance_from_left<double>& s) const { this->part[k].num = s.num, this->part[k].den = s.den; }
};
template <class Steps>
struct balance_right_pass : balance_trajectory<Steps> {
  static constexpr bool backwards = true;
  PLANLM_HD balance_from_right<double> begin(index_t k) const { return {this->part[k].behind.zeroth, this->part[k].behind.first, 0, 0}; }
  template <class V>
  PLANLM_HD void visit(balance_from_right<V>& s, const balance_places<V>& places) const {
    V d, left0, pairs1;
    places.gather(d, this->step, 1), places.gather(left0, this->at, 2), places.gather(pairs1, this->at + 1, 2);
    s.take(d, left0, pairs1, this->lambda);
    for (int l = 0; l < places.count; ++l) {
      this->steps.write_step(this->r, places.t[l], places.lane(s.of_step, l));
      this->steps.write_point(this->r, places.t[l], places.lane(s.of_point, l));
    }
  }
  PLANLM_HD void end(index_t, const balance_from_right<double>&) const {}
};

#if !defined(__CUDACC__)
inline constexpr int balance_lanes = 8;
typedef double balance_vector __attribute__((vector_size(8 * balance_lanes)));
/// A state is numbers only, so one of vectors is a matrix of them, (fields, lanes).
template <template <class> class State>
using balance_numbers = double[sizeof(State<double>) / sizeof(double)][balance_lanes];
template <template <class> class State, class F>
void join_lanes(State<balance_vector>& all, const F& of_lane) {
  balance_numbers<State> numbers;
  for (int l = 0; l < balance_lanes; ++l) {
    const State<double> one = of_lane(l);
    double own[sizeof one / sizeof(double)];
    std::memcpy(own, &one, sizeof one);
    for (std::size_t i = 0; i < std::size(own); ++i) numbers[i][l] = own[i];
  }
  std::memcpy(&all, numbers, sizeof all);
}
template <template <class> class State>
State<double> lane_of(const State<balance_vector>& all, int lane) {
  balance_numbers<State> numbers;
  std::memcpy(numbers, &all, sizeof all);
  double own[std::size(numbers)];
  for (std::size_t i = 0; i < std::size(own); ++i) own[i] = numbers[i][lane];
  State<double> one;
  std::memcpy(&one, own, sizeof one);
  return one;
}
/// Names the state of eight segments, given one's: it is never called.
template <template <class> class State>
State<balance_vector> side_by_side(const State<double>&);
#endif

/// A pass over all segments of its trajectory.
template <class Pass, class Team>
PLANLM_HD void run_pass(const Team& team, const Pass& pass) {
  const index_t n = pass.n, parts = pass.parts;
  // Where segments begin is divided out once: eight divisions are dearer than a step of all eight.
  const auto start = [=](index_t k) { return Pass::backwards ? balance_begin(n, k + 1) - 1 : balance_begin(n, k); };
  constexpr index_t onward = Pass::backwards ? -1 : 1;
  const auto rest = [=](index_t k, auto state, index_t from) {
    const index_t length = balance_begin(n, k + 1) - balance_begin(n, k), first = start(k);
    for (index_t j = from; j < length; ++j) pass.visit(state, balance_places<double>{{first + onward * j}});
    pass.end(k, state);
  };
  index_t alone = 0;  // the first segment that goes by itself
#if !defined(__CUDACC__)
  if constexpr (VisitsNeighbours<Team>)
    for (; alone + balance_lanes <= parts; alone += balance_lanes) {
      decltype(side_by_side(pass.begin(0))) all;
      join_lanes(all, [&](int l) { return pass.begin(alone + l); });
      const index_t common = n / parts;  // steps of the shortest segment; others have one more
      balance_places<balance_vector> places;
      for (int l = 0; l < balance_lanes; ++l) places.t[l] = start(alone + l);
      for (index_t j = 0; j < common; ++j) {
        pass.visit(all, places);
        for (int l = 0; l < balance_lanes; ++l) places.t[l] += onward;
      }
      for (int l = 0; l < balance_lanes; ++l) rest(alone + l, lane_of(all, l), common);
    }
#endif
  team.for_each(parts - alone, [=](index_t i) { rest(alone + i, pass.begin(alone + i), 0); });
}

}  // namespace planlm::ops::kernel
