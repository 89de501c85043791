/// An axis of a chart: where a value lies, and which round numbers are written beside it.
///
/// Ticks are 1, 2 or 5 times a power of ten. On a logarithmic axis they may be powers of two, where all data
/// are; an axis may also be given ticks of its own, such as the few values that there are.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <planlm/io/markup.hpp>
#include <string>
#include <utility>
#include <vector>

namespace planlm::detail {

/// The smallest of 1, 2, 5 times a power of ten that is at least `least`.
inline double round_step(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double digit : {1.0, 2.0, 5.0})
    if (digit * power >= least * (1 - 1e-9)) return digit * power;
  return 10 * power;
}

/// Multiples of a round step in [low, high]: at most `most` + 1, and at least two where low < high.
inline std::vector<double> linear_ticks(double low, double high, int most) {
  double step = round_step((high - low) / most);
  if (std::floor(high / step + 1e-9) <= std::ceil(low / step - 1e-9)) step = round_step(step / 2.5);
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  std::vector<double> ticks;
  for (double k = 0; first + k <= last && k <= 3 * most; ++k) ticks.push_back((first + k) * step);
  return ticks;
}

/// Round numbers in [low, high], low > 0: 1-2-5 where there is room, else powers of ten; linear for less than
/// a factor of 4.
inline std::vector<double> logarithmic_ticks(double low, double high, int most) {
  if (high < 4 * low) return linear_ticks(low, high, most);
  const int first = static_cast<int>(std::floor(std::log10(low))),
            last = static_cast<int>(std::log10(high)) + 1;
  std::vector<double> ticks;
  const auto add = [&](double tick) {
    if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
  };
  for (int power = first; power <= last; ++power)
    for (const double digit : {1.0, 2.0, 5.0}) add(digit * std::pow(10.0, power));
  if (static_cast<int>(ticks.size()) <= most + 1) return ticks;
  ticks.clear();
  const int every = 1 + (last - first) / std::max(most, 1);
  for (int power = first; power <= last; ++power)
    if (power % every == 0) add(std::pow(10.0, power));
  return ticks;
}

/// The texts of ticks a step apart: as many digits as the step needs, thousands as k and millions as M where
/// all are.
inline std::vector<std::string> tick_texts(const std::vector<double>& ticks, bool logarithmic) {
  double largest = 0, step = std::numeric_limits<double>::max();
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    largest = std::max(largest, std::abs(ticks[i]));
    if (i > 0) step = std::min(step, ticks[i] - ticks[i - 1]);
  }
  const bool short_form = !logarithmic && largest >= 10000 && ticks.size() > 1;
  const double unit = short_form && step >= 1e5 && largest >= 1e6 ? 1e6 : short_form && step >= 100 ? 1e3 : 1;
  int digits = 0;
  for (double scaled = step / unit; digits < 9 && std::abs(scaled - std::round(scaled)) > 1e-6; scaled *= 10)
    ++digits;
  std::vector<std::string> texts;
  for (const double tick : ticks) {
    const bool as_is = logarithmic || largest >= 1e9 || (ticks.size() > 1 && step < 1e-6) || ticks.size() < 2;
    texts.push_back(as_is ? readable(tick) : grouped(with_digits(tick / unit, digits)));
    if (!as_is && unit > 1 && tick != 0) texts.back() += unit > 1e3 ? "M" : "k";
  }
  return texts;
}

/// The smallest and largest of what can be drawn.
struct range {
  double low = std::numeric_limits<double>::max(), high = std::numeric_limits<double>::lowest();
  bool powers_of_two = true;  // all of them

  void include(double value, bool logarithmic = false) {
    if (!drawable(value) || (logarithmic && value <= 0)) return;
    low = std::min(low, value), high = std::max(high, value);
    int exponent;
    powers_of_two = powers_of_two && value >= 1 && std::frexp(value, &exponent) == 0.5;
  }
  bool empty() const { return low > high; }
};

/// Values of which there are so few that each can have a tick: whole numbers such as epochs, or one value
/// alone.
class few_values {
 public:
  void include(double value) {
    if (values_.size() > most || std::binary_search(values_.begin(), values_.end(), value)) return;
    values_.insert(std::lower_bound(values_.begin(), values_.end(), value), value);
    whole_ = whole_ && std::abs(value) < 10000 && value == std::round(value);
  }
  /// None where round numbers say more.
  std::vector<double> ticks() const {
    return values_.size() == 1 || (whole_ && values_.size() <= most) ? values_ : std::vector<double>{};
  }

 private:
  static constexpr std::size_t most = 7;
  std::vector<double> values_;  // distinct, ascending; one more than `most` are too many
  bool whole_ = true;
};

class axis {
 public:
  /// [low, high] lies from `from` to `to` units. `round`: the ends move out to ticks. `ticks`, where there
  /// are any, stand in place of round numbers.
  axis(range values, bool logarithmic, double from, double to, int most, bool round,
       std::vector<double> ticks = {})
      : low_(values.low), high_(values.high), from_(from), to_(to), logarithmic_(logarithmic) {
    if (high_ - low_ <= 1e-9 * std::abs(high_)) {  // one value lies in the middle
      const double around = high_ == 0 ? 1 : 0.1 * std::abs(high_);
      low_ -= around, high_ += around;
    }
    if (round && !logarithmic) {
      const double step = round_step((high_ - low_) / most);
      low_ = step * std::floor(low_ / step + 1e-9), high_ = step * std::ceil(high_ / step - 1e-9);
    }
    if (!ticks.empty()) {
      ticks_ = std::move(ticks);
    } else if (logarithmic && values.powers_of_two && values.high > values.low) {
      const int every = 1 + std::ilogb(high_ / low_) / 9;
      for (double tick = low_; tick <= high_; tick = std::ldexp(tick, every)) ticks_.push_back(tick);
    } else {
      ticks_ = logarithmic ? logarithmic_ticks(low_, high_, most) : linear_ticks(low_, high_, most);
    }
    texts_ = tick_texts(ticks_, logarithmic);
  }

  bool shows(double value) const { return drawable(value) && (!logarithmic_ || value > 0); }
  double operator()(double value) const {
    const auto place = [this](double v) { return logarithmic_ ? std::log(v) : v; };  // ratios may overflow
    const double part = (place(value) - place(low_)) / (place(high_) - place(low_));
    return from_ + part * (to_ - from_);
  }
  bool logarithmic() const { return logarithmic_; }
  const std::vector<double>& ticks() const { return ticks_; }
  const std::vector<std::string>& texts() const { return texts_; }
  double widest_text() const {
    double widest = 0;
    for (const auto& text : texts_) widest = std::max(widest, text_width(text));
    return widest;
  }

 private:
  double low_, high_, from_, to_;
  bool logarithmic_;
  std::vector<double> ticks_;
  std::vector<std::string> texts_;
};

}  // namespace planlm::detail
