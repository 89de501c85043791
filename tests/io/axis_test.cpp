#include <cmath>
#include <planlm/io/axis.hpp>

#include "../catch.hpp"

using namespace planlm::detail;

namespace {

range between(double low, double high) {
  range r;
  r.include(low), r.include(high);
  r.powers_of_two = false;
  return r;
}
std::vector<std::string> texts(double low, double high, bool logarithmic = false) {
  return axis(between(low, high), logarithmic, 0, 100, 5, false).texts();
}
using strings = std::vector<std::string>;

}  // namespace

TEST_CASE("ticks are round numbers with the digits they need") {
  CHECK(texts(0, 10) == strings{"0", "2", "4", "6", "8", "10"});
  CHECK(texts(0.13, 0.41) == strings{"0.2", "0.3", "0.4"});
  CHECK(texts(-1, 1) == strings{"−1.0", "−0.5", "0.0", "0.5", "1.0"});
  CHECK(texts(0, 24000) == strings{"0", "5k", "10k", "15k", "20k"});
  CHECK(texts(0, 3e6) == strings{"0", "1M", "2M", "3M"});
  CHECK(texts(0, 4000) == strings{"0", "1,000", "2,000", "3,000", "4,000"});
  CHECK(texts(1e-8, 3e-8) == strings{"1e-08", "1.5e-08", "2e-08", "2.5e-08", "3e-08"});
}

TEST_CASE("ticks of any span are few, ascend and lie on the axis") {
  for (double power = -12; power < 12; ++power)
    for (double span = 1; span < 10; span += 0.37)
      for (bool logarithmic : {false, true}) {
        const double low = 3.3 * std::pow(10.0, power), high = low * (1 + span);
        const axis a(between(low, high), logarithmic, 10, 110, 5, false);
        INFO("from " << low << " to " << high << (logarithmic ? ", logarithmic" : ""));
        CHECK(a.ticks().size() >= 1);
        CHECK(a.ticks().size() <= 7);
        for (std::size_t i = 0; i < a.ticks().size(); ++i) {
          CHECK(a(a.ticks()[i]) >= 10 - 1e-6);
          CHECK(a(a.ticks()[i]) <= 110 + 1e-6);
          if (i > 0) CHECK(a.ticks()[i] > a.ticks()[i - 1]);
        }
      }
}

TEST_CASE("a logarithmic axis has 1-2-5 over few decades and powers of ten over many") {
  CHECK(texts(1, 20, true) == strings{"1", "2", "5", "10", "20"});
  CHECK(texts(0.001, 1000, true) == strings{"0.01", "1", "100"});
  CHECK(texts(20, 30, true) == strings{"20", "22", "24", "26", "28", "30"});
  const axis a(between(1, 100), true, 0, 200, 5, false);
  CHECK(a(10) == Approx(100));
  CHECK_FALSE(a.shows(0));
  CHECK_FALSE(a.shows(-1));
}

TEST_CASE("where all values are powers of two, so are the ticks of a logarithmic axis") {
  range paths;
  for (double n = 1; n <= 64; n *= 2) paths.include(n);
  CHECK(axis(paths, true, 0, 100, 5, false).texts() == strings{"1", "2", "4", "8", "16", "32", "64"});
  CHECK(axis(paths, false, 0, 100, 5, false).texts() == strings{"20", "40", "60"});
}

TEST_CASE("few whole numbers have a tick each, and one value has one") {
  const auto ticks = [](const std::vector<double>& values) {
    few_values few;
    for (const double v : values) few.include(v);
    return few.ticks();
  };
  using numbers = std::vector<double>;
  CHECK(ticks({4, 1, 2, 3, 2, 1}) == numbers{1, 2, 3, 4});
  CHECK(ticks({1, 2, 3, 4, 5, 6, 7}).size() == 7);
  CHECK(ticks({1, 2, 3, 4, 5, 6, 7, 8}).empty());
  CHECK(ticks({1, 1.5}).empty());
  CHECK(ticks({1, 24000}).empty());  // far apart: round numbers say more
  CHECK(ticks({2.7, 2.7}) == numbers{2.7});
  CHECK(ticks({}).empty());
  CHECK(axis(between(1, 4), true, 0, 100, 5, false, {1, 2, 3, 4}).texts() == strings{"1", "2", "3", "4"});
}

TEST_CASE("a rounded axis starts and ends at ticks; one value lies in the middle") {
  const axis rounded(between(2.2, 9.7), false, 0, 100, 5, true);
  CHECK(rounded.ticks().front() == 2);
  CHECK(rounded.ticks().back() == 10);
  CHECK(axis(between(5, 5), false, 0, 100, 5, false)(5) == Approx(50));
  CHECK(axis(between(0, 0), false, 0, 100, 5, false)(0) == Approx(50));
  CHECK_FALSE(axis(between(0, 0), false, 0, 100, 5, false).shows(std::nan("")));
}
