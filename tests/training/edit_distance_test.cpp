#include <planlm/training/edit_distance.hpp>

#include <algorithm>
#include <string>
#include <vector>
#include <planlm/core/philox.hpp>

#include "../catch.hpp"

using namespace planlm;

namespace {

std::vector<int> letters(const std::string& word) { return {word.begin(), word.end()}; }
index_t distance_of(const std::string& a, const std::string& b) { return edit_distance(letters(a), letters(b)); }

/// The whole table.
index_t by_table(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<std::vector<index_t>> d(a.size() + 1, std::vector<index_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i)
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) d[i][j] = static_cast<index_t>(i + j);
      else d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
    }
  return d[a.size()][b.size()];
}

}  // namespace

TEST_CASE("kitten becomes sitting by three edits") {
  CHECK(distance_of("kitten", "sitting") == 3);
  CHECK(distance_of("sitting", "kitten") == 3);
  CHECK(distance_of("flaw", "lawn") == 2);
  CHECK(distance_of("ab", "ba") == 2);
  CHECK(distance_of("abc", "abc") == 0);
}

TEST_CASE("from nothing to a list it takes as many edits as the list has tokens") {
  CHECK(distance_of("", "") == 0);
  CHECK(distance_of("", "abc") == 3);
  CHECK(distance_of("abc", "") == 3);
  CHECK(distance_of("xabcx", "xx") == 3);
}

TEST_CASE("beyond a bound the distance is the bound") {
  const auto a = letters("kitten"), b = letters("sitting");
  for (index_t bound = 0; bound <= 8; ++bound) CHECK(edit_distance(a, b, bound) == std::min<index_t>(3, bound));
  CHECK(edit_distance(a, letters("kitten and more"), 4) == 4);
  CHECK(edit_distance(a, b, -1) == 0);
}

TEST_CASE("with any bound the distance is that of the whole table") {
  const philox random{5};
  for (std::uint32_t pair = 0; pair < 3000; ++pair) {
    const auto word = [&](std::uint32_t which) {
      std::vector<int> w(random.below(13, pair, which));
      for (std::size_t i = 0; i < w.size(); ++i)
        w[i] = static_cast<int>(random.below(1 + pair % 4, pair, 100 * (which + 1) + static_cast<std::uint32_t>(i)));
      return w;
    };
    const auto a = word(0), b = word(1);
    const index_t whole = by_table(a, b);
    CAPTURE(a, b);
    REQUIRE(edit_distance(a, b) == whole);
    for (index_t bound = 1; bound < 15; ++bound) REQUIRE(edit_distance(a, b, bound) == std::min(whole, bound));
  }
}
