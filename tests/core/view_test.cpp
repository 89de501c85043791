#include <planlm/core/view.hpp>

#include "../catch.hpp"

using namespace planlm;

// What must not compile: host memory for device memory, const for mutable, another rank or element type.
static_assert(!std::convertible_to<view<float, 2, host_memory>, view<float, 2, device_memory>>);
static_assert(!std::convertible_to<view<const float, 2>, view<float, 2>>);
static_assert(!std::convertible_to<view<float, 2>, view<float, 1>>);
static_assert(!std::convertible_to<view<float, 2>, view<double, 2>>);
static_assert(!std::constructible_from<view<float, 2>, float*, int>);
static_assert(std::is_trivially_copyable_v<view<double, 4, device_memory>>);

TEST_CASE("a view numbers its elements row by row") {
  int data[24];
  for (int i = 0; i < 24; ++i) data[i] = i;
  const view<int, 3> cube(data, 2, 3, 4);
  CHECK(cube.size() == 24);
  CHECK(cube.rows() == 6);
  CHECK(cube.cols() == 4);
  CHECK(cube.extent(1) == 3);
  CHECK(cube.row(5)[3] == 23);

  const view<int, 2> matrix = as_matrix(cube);
  CHECK(matrix.extent(0) == 6);
  CHECK(matrix(4, 1) == 17);
  matrix(4, 1) = -1;
  CHECK(cube[17] == -1);
  CHECK(flat(cube).extent(0) == 24);

  const view<int, 2> middle = row_range(matrix, 2, 4);
  CHECK(middle.rows() == 2);
  CHECK(middle(0, 0) == 8);
}

TEST_CASE("a vector is one row: its rows are 1 and its columns its size") {
  int data[5] = {};
  const view<int, 1> v(data, 5);
  CHECK(v.rows() == 1);
  CHECK(v.cols() == 5);
}

TEST_CASE("an empty view is false and has no elements") {
  const view<float, 2> nothing;
  CHECK_FALSE(nothing);
  CHECK(nothing.size() == 0);
  float data[1];
  CHECK(view<float, 2>(data, 1, 1));
}

TEST_CASE("views of mutable elements convert to views of constant ones with the same memory and extents") {
  float data[6] = {};
  const view<float, 2> mutable_view(data, 2, 3);
  const view<const float, 2> read_only = mutable_view;
  CHECK(read_only.data == data);
  CHECK(same_shape(read_only, mutable_view));
  CHECK_FALSE(same_shape(read_only, view<float, 2>(data, 3, 2)));
}
