// blas_products through the backend that cuts them among threads, against tiled_products.
#include <planlm/backend/cpu/blas_products.hpp>

#include <vector>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../../catch.hpp"

using namespace planlm;
using testing::normal_values;

static_assert(Backend<cpu<float, blas_products>> && Backend<cpu<double, blas_products>>);

namespace {

/// The largest difference from tiled_products over shapes, transpositions, modes and biases.
template <class T>
double worst(int threads) {
  typename cpu<T>::queue tiled(threads);
  typename cpu<T, blas_products>::queue blas(threads);
  double most = 0;
  struct extents {
    index_t m, k, n;
  };
  for (const extents s : {extents{1, 1, 1}, {3, 0, 5}, {1, 300, 50}, {37, 1, 41}, {7, 13, 5}, {300, 97, 513}, {65, 257, 49}})
    for (int variant = 0; variant < 16; ++variant) {
      const bool turn_a = variant & 1, turn_b = variant & 2, with_bias = variant & 4;
      const into mode = variant & 8 ? into::add : into::replace;
      const std::vector<T> a = normal_values<T>(s.m * s.k, 1), b = normal_values<T>(s.k * s.n, 2), bias = normal_values<T>(s.n, 4);
      std::vector<T> c = normal_values<T>(s.m * s.n, 3), expected = c;
      const operand<const T> left{a.data(), s.m, s.k, turn_a ? 1 : s.k, turn_a ? s.m : 1};
      const operand<const T> right{b.data(), s.k, s.n, turn_b ? 1 : s.n, turn_b ? s.k : 1};
      const auto product = [&]<class B>(typename B::queue& q, std::vector<T>& to) {
        const operand<T> out{to.data(), s.m, s.n, s.n, 1};
        if (with_bias)
          B::gemm_bias(q, T(0.7), left, right, view<const T, 1>(bias.data(), s.n), out, mode);
        else
          B::gemm(q, T(0.7), left, right, out, mode);
      };
      product.template operator()<cpu<T>>(tiled, expected);
      product.template operator()<cpu<T, blas_products>>(blas, c);
      most = std::max(most, testing::largest_error(c, std::vector<double>(expected.begin(), expected.end())));
    }
  return most;
}

}  // namespace

TEST_CASE("products of the BLAS agree with tiled products at odd shapes, transpositions, modes and biases") {
  for (const int threads : {1, 3}) {
    CHECK(worst<double>(threads) < 1e-12);
    CHECK(worst<float>(threads) < 1e-4);
  }
}

TEST_CASE("blas_products refuse an operand without an axis of neighbours") {
  const std::vector<float> a(64, 1.0f);
  std::vector<float> c(16);
  cpu<float, blas_products>::queue queue(1);
  CHECK_THROWS_AS((cpu<float, blas_products>::gemm(queue, 1, {a.data(), 4, 4, 8, 2}, {a.data(), 4, 4, 4, 1}, {c.data(), 4, 4, 4, 1},
                                                   into::replace)),
                  shape_error);
}
