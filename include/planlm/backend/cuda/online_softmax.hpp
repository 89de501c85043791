/// Softmax over scores that come tile by tile (1805.02867), in powers of two. Compiles for host and device.
///
/// With c = scale log2(e) the weight of score s is 2^(c s - c top) for the largest score so far; when a tile raises `top`, what was
/// summed before is multiplied by the factor that `raise` returns. The first score of a row must not be masked (-infinity).
#pragma once
#include <limits>
#include <planlm/core/config.hpp>
#include <planlm/core/math.hpp>

namespace planlm::cuda_detail {

inline constexpr double log2_e = 1.44269504088896340736, ln_2 = 0.69314718055994530942;

/// The score of a pair that is masked.
template <class T>
inline constexpr T masked_score = -std::numeric_limits<T>::infinity();

/// One row. Exp2 is a function object T -> T, so that each kernel chooses its own precision.
template <class T, class Exp2>
struct online_softmax {
  T top = masked_score<T>;
  T total = 0;

  /// Takes the largest score of a tile; returns what the earlier sums have to be multiplied by (0 for the first tile).
  PLANLM_HD T raise(T tile_top, T c) {
    const T higher = tile_top > top ? tile_top : top;
    const T factor = Exp2{}((top - higher) * c);
    top = higher;
    total *= factor;
    return factor;
  }
  /// The weight of a score not above `top`; zero for -infinity. The caller adds it to `total`.
  PLANLM_HD T weight(T score, T c) const { return Exp2{}(score * c - top * c); }
  /// log sum exp of the scaled scores, natural logarithm, once `total` is the whole row's.
  PLANLM_HD T log_sum(T scale) const { return scale * top + math::log(total); }
};

}  // namespace planlm::cuda_detail
