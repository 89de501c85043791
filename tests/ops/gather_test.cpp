#include <planlm/ops/gather.hpp>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<float>;

TEST_CASE("gathering picks rows, gives zeros for negative numbers, and adds where asked") {
  context<B> cx;
  const std::vector<float> table{1, 2, 3, 4}, x{10, 20, 30, 40, 50, 60};
  const std::vector<int> ids{1, -1, 0};
  const const_tensor<B> t = cx.upload(std::span<const float>(table), 2, 2),
                        base = cx.upload(std::span<const float>(x), 3, 2);
  CHECK(cx.read(ops::gather_rows(cx, t, indices<B>(cx.upload(ids)))) == std::vector<float>{3, 4, 0, 0, 1, 2});
  CHECK(cx.read(ops::add_gathered_rows(cx, base, t, indices<B>(cx.upload(ids)))) ==
        std::vector<float>{13, 24, 30, 40, 51, 62});
  CHECK(ops::gather_rows(cx, t, indices<B>(cx.upload(std::vector<int>{}))).size() == 0);
}

TEST_CASE("segment sums skip negative segments and leave empty ones at zero") {
  context<B> cx;
  testing::poison(cx);
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int> segment{2, 0, -1, 2};
  CHECK(cx.read(ops::segment_sum(cx, const_tensor<B>(cx.upload(std::span<const float>(x), 4, 2)),
                                 indices<B>(cx.upload(segment)), 4)) ==
        std::vector<float>{3, 4, 0, 0, 8, 10, 0, 0});
}

TEST_CASE("the segment sum is the adjoint of gathering") {
  using D = cpu<double>;
  context<D> cx;
  const index_t rows = 50, cols = 67, count = 7;
  std::vector<int> ids;
  for (index_t r = 0; r < rows; ++r) ids.push_back(static_cast<int>(r * 5 % (count + 1)) - 1);
  const std::vector<double> table = testing::normal_values(count * cols, 1),
                            dy = testing::normal_values(rows * cols, 2);
  const auto y =
      cx.read(ops::gather_rows(cx, const_tensor<D>(cx.upload(std::span<const double>(table), count, cols)),
                               indices<D>(cx.upload(ids))));
  const auto dt =
      cx.read(ops::segment_sum(cx, const_tensor<D>(cx.upload(std::span<const double>(dy), rows, cols)),
                               indices<D>(cx.upload(ids)), count));
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) left += y[i] * dy[i];
  for (std::size_t i = 0; i < dt.size(); ++i) right += table[i] * dt[i];
  CHECK(left == Approx(right).epsilon(1e-12));
}

TEST_CASE("segment sums have the same bits with 1, 2 and 3 threads") {
  const index_t rows = 500, cols = 200;
  const std::vector<float> x = testing::normal_values<float>(rows * cols, 2);
  std::vector<int> ids;
  for (index_t r = 0; r < rows; ++r) ids.push_back(static_cast<int>(r % 3));
  const auto sums = [&](int threads) {
    context<B> cx{B::queue(threads)};
    return cx.read(ops::segment_sum(cx, const_tensor<B>(cx.upload(std::span<const float>(x), rows, cols)),
                                    indices<B>(cx.upload(ids)), 3));
  };
  CHECK(testing::same_bits(sums(2), sums(1)));
  CHECK(testing::same_bits(sums(3), sums(1)));
}
