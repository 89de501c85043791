// tiled_products and eigen_products through the backend that cuts them among threads, against a triple loop.
// g++ 12 warns about its own AVX-512 intrinsics once they are inlined (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <planlm/backend/cpu/eigen_products.hpp>
#pragma GCC diagnostic pop

#include <limits>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../../catch.hpp"

using namespace planlm;
using testing::normal_values;
using testing::same_bits;

static_assert(Backend<cpu<float>> && Backend<cpu<double>>);
static_assert(Backend<cpu<float, eigen_products>> && Backend<cpu<double, eigen_products>>);

namespace {

struct extents {
  index_t m, k, n;
};
const extents shapes[] = {{1, 1, 1},  {1, 7, 1},    {3, 0, 5},      {1, 300, 50}, {37, 1, 41},
                          {7, 13, 5}, {11, 17, 97}, {300, 97, 513}, {65, 257, 49}};

/// A matrix inside a larger buffer: rows `padding` further apart, NaN between them; stored transposed if
/// asked.
template <class T>
struct matrix {
  index_t rows, cols;
  bool turned;
  index_t stride;
  std::vector<T> values;

  matrix(index_t r, index_t c, bool transposed, index_t padding, std::uint64_t seed)
      : rows(r), cols(c), turned(transposed), stride((transposed ? r : c) + padding) {
    const index_t lines = turned ? cols : rows;
    values.assign(static_cast<std::size_t>(lines * stride + 1), std::numeric_limits<T>::quiet_NaN());
    const std::vector<T> drawn = normal_values<T>(rows * cols, seed);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) at(i, j) = drawn[static_cast<std::size_t>(i * cols + j)];
  }
  T& at(index_t i, index_t j) {
    return values[static_cast<std::size_t>(turned ? j * stride + i : i * stride + j)];
  }
  operand<T> view() { return {values.data(), rows, cols, turned ? 1 : stride, turned ? stride : 1}; }
  operand<const T> read_only() {
    return {values.data(), rows, cols, turned ? 1 : stride, turned ? stride : 1};
  }
  std::vector<T> dense() {
    std::vector<T> out;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) out.push_back(at(i, j));
    return out;
  }
};

/// alpha A B, + bias or + C.
template <class T>
std::vector<double> triple_loop(double alpha, matrix<T>& a, matrix<T>& b, matrix<T>* c,
                                const std::vector<T>* bias) {
  std::vector<double> out;
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t j = 0; j < b.cols; ++j) {
      double sum = 0;
      for (index_t k = 0; k < a.cols; ++k)
        sum += static_cast<double>(a.at(i, k)) * static_cast<double>(b.at(k, j));
      out.push_back(alpha * sum + (c ? static_cast<double>(c->at(i, j)) : 0.0) +
                    (bias ? static_cast<double>((*bias)[static_cast<std::size_t>(j)]) : 0.0));
    }
  return out;
}

/// The largest error over all shapes, transpositions, strides, destinations and modes.
template <class B>
double worst_product(int threads) {
  using T = typename B::real;
  typename B::queue queue(threads);
  double worst = 0;
  for (const extents s : shapes)
    for (int variant = 0; variant < 16; ++variant) {
      const bool turn_a = variant & 1, turn_b = variant & 2, turn_c = variant & 4;
      const index_t padding = variant & 8 ? 3 : 0;
      matrix<T> a(s.m, s.k, turn_a, padding, 1), b(s.k, s.n, turn_b, padding, 2);
      const T alpha = variant & 1 ? T(1) : T(0.7);
      for (const into mode : {into::replace, into::add}) {
        matrix<T> c(s.m, s.n, turn_c, padding, 3);
        const auto expected =
            triple_loop<T>(static_cast<double>(alpha), a, b, mode == into::add ? &c : nullptr, nullptr);
        if (mode == into::replace)
          for (index_t i = 0; i < s.m; ++i)
            for (index_t j = 0; j < s.n; ++j) c.at(i, j) = std::numeric_limits<T>::quiet_NaN();
        const std::size_t gaps = c.values.size() - static_cast<std::size_t>(s.m * s.n);
        B::gemm(queue, alpha, a.read_only(), b.read_only(), c.view(), mode);
        worst = std::max(worst, testing::largest_error(c.dense(), expected));
        std::size_t untouched = 0;
        for (const T v : c.values) untouched += v != v;
        if (untouched != gaps) worst = INFINITY;  // wrote between the rows
      }
      for (const into mode : {into::replace, into::add}) {
        if (turn_c) continue;  // a bias runs along the rows of a plain destination
        matrix<T> c(s.m, s.n, false, padding, 3);
        const std::vector<T> bias = normal_values<T>(s.n, 4);
        const auto expected =
            triple_loop<T>(static_cast<double>(alpha), a, b, mode == into::add ? &c : nullptr, &bias);
        B::gemm_bias(queue, alpha, a.read_only(), b.read_only(), view<const T, 1>(bias.data(), s.n), c.view(),
                     mode);
        worst = std::max(worst, testing::largest_error(c.dense(), expected));
      }
    }
  return worst;
}

template <class T>
std::vector<T> rows_of(const std::vector<T>& dense, index_t cols, index_t begin, index_t end) {
  return {dense.begin() + begin * cols, dense.begin() + end * cols};
}

/// alpha A B + bias, then += alpha A B, then += alpha A B + bias: all ways to write a destination.
template <class T>
std::vector<T> thrice(int threads, operand<const T> a, operand<const T> b, const std::vector<T>& bias,
                      T alpha) {
  using B = cpu<T>;
  typename B::queue queue(threads);
  std::vector<T> c(static_cast<std::size_t>(a.rows * b.cols));
  const operand<T> to{c.data(), a.rows, b.cols, b.cols, 1};
  B::gemm_bias(queue, alpha, a, b, view<const T, 1>(bias.data(), b.cols), to, into::replace);
  B::gemm(queue, alpha, a, b, to, into::add);
  B::gemm_bias(queue, alpha, a, b, view<const T, 1>(bias.data(), b.cols), to, into::add);
  return c;
}

template <class T>
void check_bits() {
  for (const extents s : {extents{300, 97, 513}, {70, 600, 50}, {301, 33, 193}})
    for (const bool turn_b : {false, true})
      for (const T alpha : {T(1), T(0.7)}) {
        CAPTURE(s.m, s.k, s.n, turn_b, alpha);
        matrix<T> a(s.m, s.k, false, 0, 1), b(s.k, s.n, turn_b, 0, 2);
        const std::vector<T> bias = normal_values<T>(s.n, 4);
        const auto whole = thrice(1, a.read_only(), b.read_only(), bias, alpha);
        CHECK(same_bits(thrice(2, a.read_only(), b.read_only(), bias, alpha), whole));
        CHECK(same_bits(thrice(3, a.read_only(), b.read_only(), bias, alpha), whole));
        bool rows_alone = true, blocks = true;
        for (const index_t row : {index_t{0}, index_t{1}, index_t{5}, s.m / 2, s.m - 1}) {
          operand<const T> one = a.read_only();
          one.data += row * one.row_stride;
          for (one.rows = 1; one.rows <= std::min<index_t>(5, s.m - row); ++one.rows)
            rows_alone = rows_alone && same_bits(thrice(1, one, b.read_only(), bias, alpha),
                                                 rows_of(whole, s.n, row, row + one.rows));
          one.rows = std::min<index_t>(13, s.m - row);
          blocks = blocks && same_bits(thrice(2, one, b.read_only(), bias, alpha),
                                       rows_of(whole, s.n, row, row + one.rows));
        }
        CHECK(rows_alone);
        CHECK(blocks);
        bool columns = true;  // the first n columns alone
        for (const index_t n : {index_t{1}, index_t{7}, index_t{47}, s.n - 1}) {
          operand<const T> left = b.read_only();
          left.cols = n;
          const auto part = thrice(1, a.read_only(), left, bias, alpha);
          for (index_t i = 0; i < s.m; ++i)
            columns = columns && std::memcmp(part.data() + i * n, whole.data() + i * s.n,
                                             static_cast<std::size_t>(n) * sizeof(T)) == 0;
        }
        CHECK(columns);
      }
}

}  // namespace

TEST_CASE("tiled products agree with a triple loop at odd shapes, strides and transpositions") {
  for (const int threads : {1, 3}) {
    CHECK(worst_product<cpu<double>>(threads) < 1e-12);
    CHECK(worst_product<cpu<float>>(threads) < 1e-4);
  }
}

TEST_CASE("Eigen's products agree with a triple loop at odd shapes, strides and transpositions") {
  for (const int threads : {1, 3}) {
    CHECK(worst_product<cpu<double, eigen_products>>(threads) < 1e-12);
    CHECK(worst_product<cpu<float, eigen_products>>(threads) < 1e-4);
  }
}

TEST_CASE(
    "an element of a tiled product has the same bits for any threads, rows or columns beside it: double") {
  check_bits<double>();
}
TEST_CASE(
    "an element of a tiled product has the same bits for any threads, rows or columns beside it: float") {
  check_bits<float>();
}

TEST_CASE("batched products equal one product each, into plain and transposed destinations") {
  using B = cpu<double>;
  const index_t m = 5, k = 7, n = 9, count = 4;
  const std::vector<double> a = normal_values(count * m * k, 1), b = normal_values(count * k * n, 2);
  for (const int threads : {1, 2, 3})
    for (const bool turned : {false, true}) {
      CAPTURE(threads, turned);
      B::queue queue(threads);
      std::vector<double> batched(static_cast<std::size_t>(count * m * n), 1.0), single = batched;
      const auto to = [&](std::vector<double>& c, index_t i) {
        return operand<double>{c.data() + i * m * n, m, n, turned ? 1 : n, turned ? m : 1};
      };
      B::gemm_batched(queue, 0.7, {a.data(), m, k, k, 1}, m * k, {b.data(), k, n, n, 1}, k * n,
                      to(batched, 0), m * n, count, into::add);
      for (index_t i = 0; i < count; ++i)
        B::gemm(queue, 0.7, {a.data() + i * m * k, m, k, k, 1}, {b.data() + i * k * n, k, n, n, 1},
                to(single, i), into::add);
      CHECK(same_bits(batched, single));
    }
}
