#include <planlm/ops/prepend.hpp>

#include <vector>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using values = std::vector<double>;
using ints = std::vector<int>;

namespace {

/// Offsets as kernels see them, which must be those of the host.
ints offsets(context<B>& cx, const sequences<B>& seq) {
  const ints host(seq.host_offsets, seq.host_offsets + seq.offsets.size());
  CHECK(cx.read(seq.offsets) == host);
  return host;
}
const_tensor<B> pairs(const values& v) { return {v.data(), v.size() / 2, 2}; }
indices<B> list(const ints& v) { return {v.data(), v.size()}; }

}  // namespace

TEST_CASE("sequences grow, are copied, and are stacked with each copy longer than the one before") {
  context<B> cx;
  const testing::packed three{2, 1, 3};
  const auto seq = three.view<B>();
  CHECK(offsets(cx, ops::lengthened(cx, seq, 0)) == ints{0, 2, 3, 6});
  CHECK(offsets(cx, ops::lengthened(cx, seq, 2)) == ints{0, 4, 7, 12});
  CHECK(offsets(cx, ops::lengthened(cx, seq, 1, 2)) == ints{0, 3, 5, 9, 12, 14, 18});
  CHECK(offsets(cx, ops::lengthened(cx, seq, 0, 3, 1)) == ints{0, 2, 3, 6, 9, 11, 15, 19, 22, 27});
  CHECK(offsets(cx, ops::lengthened(cx, seq, 1, 2, 2)) == ints{0, 3, 5, 9, 14, 18, 24});
}

TEST_CASE("even sequences have offsets and positions") {
  context<B> cx;
  const auto seq = ops::even_sequences(cx, 3, 2);
  CHECK(offsets(cx, seq) == ints{0, 2, 4, 6});
  CHECK(cx.read(seq.positions) == ints{0, 1, 0, 1, 0, 1});
}

TEST_CASE("a row of a table and a shift go in front of every sequence, of copies and of chosen sources") {
  context<B> cx;
  testing::poison(cx);
  const testing::packed two{2, 1};
  const auto seq = two.view<B>();
  const values x{1, 2, 3, 4, 5, 6}, table{10, 20, 30, 40}, shift{0.5, 0.25};
  const const_tensor<B, 1> s(shift.data(), 2);
  const ints ids{1, -1};
  CHECK(cx.read(ops::prepend_rows(cx, pairs(x), seq, pairs(table), list(ids), s, ops::lengthened(cx, seq, 1))) ==
        values{30.5, 40.25, 1, 2, 3, 4, 0.5, 0.25, 5, 6});
  const ints four{1, -1, 0, 1};
  const auto copies = ops::lengthened(cx, seq, 1, 2);
  const auto twice = ops::prepend_rows(cx, pairs(x), seq, pairs(table), list(four), s, copies);
  CHECK(cx.read(twice) == values{30.5, 40.25, 1, 2, 3, 4, 0.5, 0.25, 5, 6, 10.5, 20.25, 1, 2, 3, 4, 30.5, 40.25, 5, 6});
  // From the copies: sequence 0 goes on from the second copy of its own, sequence 1 from the first.
  const ints sources{2, 1};
  CHECK(cx.read(ops::prepend_rows(cx, const_tensor<B>(twice), copies, pairs(table), list(ids), s, ops::lengthened(cx, seq, 2), list(sources))) ==
        values{30.5, 40.25, 10.5, 20.25, 1, 2, 3, 4, 0.5, 0.25, 0.5, 0.25, 5, 6});
}

TEST_CASE("the pullback of prepending parts the fronts from the rows behind, to which it adds") {
  context<B> cx;
  testing::poison(cx);
  const testing::packed two{2, 1};
  const values dy{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, base{100, 200, 300, 400, 500, 600};
  const auto d = ops::prepend_rows_pullback(cx, pairs(dy), two.view<B>(), ops::lengthened(cx, two.view<B>(), 1), pairs(base));
  CHECK(cx.read(d.dfront) == values{1, 2, 7, 8});
  CHECK(cx.read(d.dx) == values{103, 204, 305, 406, 509, 610});
}

TEST_CASE("where there is no sequence nothing is lengthened nor prepended to") {
  context<B> cx;
  const testing::packed none{}, two{2, 1};
  const auto empty = none.view<B>(), seq = two.view<B>();
  const values x{1, 2, 3, 4, 5, 6}, shift{0.5, 0.25};
  const ints ids{0, 0};
  CHECK_THROWS_WITH(ops::lengthened(cx, empty, 1), "lengthened: 0 sequences, expected at least one");
  CHECK_THROWS_AS(ops::lengthened(cx, sequences<B>{}, 1), shape_error);
  CHECK_THROWS_AS(ops::lengthened(cx, seq, 1, 0), shape_error);
  CHECK_THROWS_AS(ops::even_sequences(cx, 0, 2), shape_error);
  const auto longer = ops::lengthened(cx, seq, 1);
  const auto prepend = [&](const sequences<B>& from, const sequences<B>& to) {
    return ops::prepend_rows(cx, pairs(x), from, pairs(x), list(ids), const_tensor<B, 1>(shift.data(), 2), to);
  };
  CHECK_THROWS_AS(prepend(empty, longer), shape_error);
  CHECK_THROWS_AS(prepend(seq, empty), shape_error);
  CHECK_THROWS_AS(ops::prepend_rows_pullback(cx, pairs(x), empty, empty, pairs(x)), shape_error);
}

TEST_CASE("a team of lanes prepends the same bits, and parts them") {
  context<B> cx;
  const testing::packed ragged{9, 1, 40};
  const auto seq = ragged.view<B>();
  const index_t width = 13;
  const auto longer = ops::lengthened(cx, seq, 1);
  const values x = testing::normal_values(50 * width, 1), table = testing::normal_values(4 * width, 2), shift = testing::normal_values(width, 3);
  const ints ids{3, -1, 2};
  const auto y = ops::prepend_rows(cx, const_tensor<B>(x.data(), 50, width), seq, const_tensor<B>(table.data(), 4, width), list(ids),
                                   const_tensor<B, 1>(shift.data(), width), longer);
  values by_lanes(static_cast<std::size_t>(y.size()));
  testing::run_lanes<8>(3, ops::kernel::prepend_rows<double>{x.data(), seq.offsets.data, table.data(), ids.data(), shift.data(), nullptr,
                                                             by_lanes.data(), longer.offsets.data, 3, width});
  CHECK(testing::same_bits(by_lanes, cx.read(y)));
  const auto d = ops::prepend_rows_pullback(cx, const_tensor<B>(y), seq, longer, const_tensor<B>(x.data(), 50, width));
  values dx(x.size()), dfront(static_cast<std::size_t>(3 * width));
  testing::run_lanes<8>(3, ops::kernel::prepend_rows_pullback<double>{y.data, longer.offsets.data, x.data(), dx.data(), dfront.data(),
                                                                      seq.offsets.data, width});
  CHECK(testing::same_bits(dx, cx.read(d.dx)));
  CHECK(testing::same_bits(dfront, cx.read(d.dfront)));
}
