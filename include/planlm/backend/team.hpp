/// A team of one: how a CPU thread runs a row kernel.
#pragma once
#include <type_traits>
#include <planlm/backend/concept.hpp>

namespace planlm {

/// A team whose members visit indices one after another, so that some of them can be done together: T::neighbours of them.
template <class T>
concept VisitsNeighbours = requires { T::neighbours; };

/// Sums are kept in sixteen lanes and folded pairwise: the compiler may use vectors, and the order never depends on the machine.
struct serial_team {
  static constexpr index_t lanes = 16;
  static constexpr index_t neighbours = 16;  // so many indices, one after another, are worth doing together

  template <class F>
  PLANLM_HD void for_each(index_t n, F f) const {
    for (index_t i = 0; i < n; ++i) f(i);
  }
  template <class T, class F>
  PLANLM_HD T sum(index_t n, F f) const {
    T lane[lanes] = {};
    const index_t full = n - n % lanes;
    for (index_t i = 0; i < full; i += lanes) {
      using value = std::remove_cvref_t<decltype(f(i))>;
      if constexpr (std::is_same_v<value, T>) {
        for (index_t l = 0; l < lanes; ++l) lane[l] += f(i + l);
      } else {  // values first: a loop over two types of number would not become vectors
        value v[lanes];
        for (index_t l = 0; l < lanes; ++l) v[l] = f(i + l);
        for (index_t l = 0; l < lanes; ++l) lane[l] += v[l];
      }
    }
    for (index_t i = full; i < n; ++i) lane[i - full] += f(i);
    for (index_t width = lanes / 2; width > 0; width /= 2)
      for (index_t l = 0; l < width; ++l) lane[l] += lane[l + width];
    return lane[0];
  }
  /// n >= 1.
  template <class T, class F>
  PLANLM_HD T max(index_t n, F f) const {
    constexpr index_t chains = 4 * lanes;  // a comparison waits for the one before: four vectors of them take turns
    T lane[chains];
    const T first = f(0);
    for (index_t l = 0; l < chains; ++l) lane[l] = first;
    index_t full = n - n % chains;
    for (index_t i = 0; i < full; i += chains)
      for (index_t l = 0; l < chains; ++l) {
        const T v = f(i + l);
        lane[l] = v > lane[l] ? v : lane[l];
      }
    for (index_t l = 0; l < lanes; ++l)
      for (index_t c = 1; c < 4; ++c) lane[l] = lane[c * lanes + l] > lane[l] ? lane[c * lanes + l] : lane[l];
    for (const index_t rest = n - n % lanes; full < rest; full += lanes)
      for (index_t l = 0; l < lanes; ++l) {
        const T v = f(full + l);
        lane[l] = v > lane[l] ? v : lane[l];
      }
    for (index_t i = full; i < n; ++i) {
      const T v = f(i);
      lane[0] = v > lane[0] ? v : lane[0];
    }
    T best = lane[0];
    for (index_t l = 1; l < lanes; ++l) best = lane[l] > best ? lane[l] : best;
    return best;
  }
  PLANLM_HD bool leader() const { return true; }
  PLANLM_HD void sync() const {}
};
static_assert(Team<serial_team>);

}  // namespace planlm
