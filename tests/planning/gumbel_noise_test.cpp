#include <planlm/planning/gumbel_noise.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

TEST_CASE("the logarithm without branches is the library's to 2 units in the last place, near 1 too") {
  const auto error = [](double x) {
    const double exact = std::log(x), ours = mixing_kernel::positive_log(x);
    return exact == 0 ? std::abs(ours) * 0x1p53 : std::abs(ours - exact) / std::abs(exact) * 0x1p52;
  };
  double worst = 0;
  for (int i = 0; i < 1 << 16; ++i) {
    worst = std::max(worst, error((i + 0.5) * 0x1p-16));
    worst = std::max(worst, error(1 - (i + 0.5) * 0x1p-24));
    worst = std::max(worst, error((i + 0.5) * 0x1p-12));
  }
  for (const double x : {0x1p-24, 0x1p-1022, 0x1p1023, 1.0, std::sqrt(0.5), std::sqrt(2.0), 17.0}) worst = std::max(worst, error(x));
  CHECK(worst <= 2.5);
}

TEST_CASE("noise is minus the scaled log of minus the log of each label's own draw, whatever the number of labels") {
  const philox random{5, 2, 9};
  for (const index_t cols : {1, 3, 63, 64, 65, 200}) {
    CAPTURE(cols);
    std::vector<float> z(static_cast<std::size_t>(3 * cols), 0.25f), y(z.size() + 1, -7.0f);
    const mixing_kernel::add_gumbel<float> add{z.data(), y.data(), cols, 0.5, random};
    for (index_t r = 0; r < 3; ++r) add(serial_team{}, r);
    for (std::size_t i = 0; i < z.size(); ++i) {
      const double u = random.uniform(i / static_cast<std::size_t>(cols), static_cast<std::uint32_t>(i % static_cast<std::size_t>(cols)));
      CHECK(y[i] == Approx(0.25 - 0.5 * std::log(-std::log(u))).epsilon(1e-6).margin(1e-7));
    }
    CHECK(y.back() == -7.0f);
  }
}
