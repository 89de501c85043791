#include <planlm/planning/plan_injection.hpp>

#include <vector>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

namespace {
const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }
}  // namespace

TEST_CASE("a plan is added to the rows of its sentence, and its gradient is the sum over them") {
  context<B> cx;
  const values x = normal_values(10, 17), u = normal_values(6, 18), dx = normal_values(10, 19);
  const std::vector<int> sentence{0, 2, 2, 0, 2};  // sentence 1 has no row
  const plan_injection<B> inject{matrix(u, 3), {sentence.data(), sentence.size()}};
  auto [y, pullback] = inject(cx, matrix(x, 5));
  values expected = x, sums(6);
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t i = 0; i < 2; ++i) {
      expected[2 * t + i] += u[2 * static_cast<std::size_t>(sentence[t]) + i];
      sums[2 * static_cast<std::size_t>(sentence[t]) + i] += dx[2 * t + i];
    }
  CHECK(largest_error(cx.read(y), expected) < 1e-15);
  const auto du = cx.make_zero(3, 2);
  CHECK(same_bits(cx.read(pullback(matrix(dx, 5), du)), dx));
  CHECK(largest_error(cx.read(du), sums) < 1e-15);
  CHECK(same_bits(cx.read(pullback(matrix(dx, 5), tensor<B>{})), dx));
}

TEST_CASE("a plan of two vectors lies in one row, vector after vector; rows without a plan are left alone") {
  context<B> cx;
  const values x{1, 2, 3, 4, 5, 6, 7, 8}, u{10, 20, 30, 40, 50, 60, 70, 80}, dx{1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int> plan{3, -1, 0, 3};  // the second vector of sentence 1, none, the first of sentence 0
  auto [y, pullback] = plan_injection<B>{matrix(u, 2), {plan.data(), plan.size()}}(cx, matrix(x, 4));
  CHECK(cx.read(y) == values{71, 82, 3, 4, 15, 26, 77, 88});
  const auto du = cx.make_zero(2, 4);
  pullback(matrix(dx, 4), du);
  CHECK(cx.read(du) == values{5, 6, 0, 0, 0, 0, 8, 10});
}
