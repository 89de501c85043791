/// What is filled in by --task letters: up to three letters between three and three, under a language model
/// of letters, so that the posterior of all 1 + 27 + 27^2 + 27^3 candidates is known.
///
///   p_n(c | h) = (count(h c) + 5 p_(n-1)(c | h')) / (count(h) + 5),  p_0 = 1 / 27,  n = 1 .. 4
/// that is, the interpolated 4-gram whose own counts weigh count(h) / (count(h) + 5).
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>
#include <planlm/core/philox.hpp>

namespace train_infill_sampler {

using letter = std::uint8_t;  // 0: space, 1 .. 26: a .. z
inline constexpr int letter_count = 27;

/// Lower-cased; whatever is no letter of a .. z is a space, and spaces that follow each other are one.
std::vector<letter> letters_of(std::string_view text);
std::string text_of(std::span<const letter> letters);

/// Candidates and their prefixes as numbers: all strings of length 0, then 1, 2, 3, each in the order of the
/// alphabet.
struct candidates {
  static constexpr int longest = 3;
  static constexpr std::array<int, 5> first{0, 1, 28, 757, 20440};
  static constexpr int open = first[3], count = first[4];  // prefixes that can go on; all
  static constexpr int child(int prefix, int length, int next) {
    return first[static_cast<std::size_t>(length) + 1] +
           (prefix - first[static_cast<std::size_t>(length)]) * letter_count + next;
  }
  static constexpr int length(int candidate) {
    return candidate < first[1] ? 0 : candidate < first[2] ? 1 : candidate < first[3] ? 2 : 3;
  }
  /// Its letters, `length` of them.
  static std::array<letter, 3> spelled(int candidate);
};

class letter_model {
 public:
  explicit letter_model(std::span<const letter> text);
  /// log p(next | the three letters before).
  double log_p(int a, int b, int c, int next) const {
    return log_p_[row(a, b, c) + static_cast<std::size_t>(next)];
  }
  int draw(int a, int b, int c, double uniform) const;
  double bits_per_letter(std::span<const letter> text) const;

 private:
  static std::size_t row(int a, int b, int c) {
    return static_cast<std::size_t>((a * letter_count + b) * letter_count + c) * letter_count;
  }
  std::vector<double> log_p_;
};

/// A gap and what is known of it: log p(z after | before) of every candidate z, and the posterior p(z |
/// before, after).
struct gap {
  std::array<letter, 3> before, after;
  std::vector<double> log_reward, posterior;  // (candidates::count)
  double entropy = 0, log_z = 0;              // nats
};
gap make_gap(const letter_model& lm, std::array<letter, 3> before, std::array<letter, 3> after);
/// Gaps of a text whose posterior has an entropy in [least, most]: places and widths are drawn. Errors:
/// input_error if they cannot be found.
std::vector<gap> find_gaps(const letter_model& lm, std::span<const letter> text, int count, double least,
                           double most, planlm::philox random);

}  // namespace train_infill_sampler
