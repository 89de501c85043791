#include <planlm/backend/context.hpp>

#include <planlm/backend/buffer.hpp>
#include <planlm/backend/cpu/cpu.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;

namespace {

view<double, 1> counted(context<B>& cx, index_t n, double first) {
  auto v = cx.make(n);
  for (index_t i = 0; i < n; ++i) v[i] = first + static_cast<double>(i);
  return v;
}
std::vector<double> count_from(double first, index_t n) {
  std::vector<double> v;
  for (index_t i = 0; i < n; ++i) v.push_back(first + static_cast<double>(i));
  return v;
}

}  // namespace

TEST_CASE("what is kept moves to the start of its scope, whether it overlaps its new place or not") {
  context<B> cx;
  counted(cx, 40, 0);
  const std::size_t before = cx.memory().used_bytes();
  struct layout {
    index_t in_front, size;
  };
  for (const layout l : {layout{0, 100}, {1000, 100}, {33, 1000}, {100, 101}}) {
    CAPTURE(l.in_front, l.size);
    auto outer = cx.scope();
    view<double, 1> kept;
    {
      auto scope = cx.scope();
      if (l.in_front) counted(cx, l.in_front, -1e6);
      const auto r = counted(cx, l.size, 7);
      counted(cx, 500, -2e6);
      kept = scope.keep(r);
      CHECK(cx.read(kept) == count_from(7, l.size));
    }
    CHECK(cx.memory().used_bytes() == before + (static_cast<std::size_t>(l.size) * 8 + 255) / 256 * 256);
    counted(cx, 2000, -3e6);  // must not touch what was kept
    CHECK(cx.read(kept) == count_from(7, l.size));
  }
  CHECK(cx.memory().used_bytes() == before);
}

TEST_CASE("what is kept survives a scope that grew the arena from nothing") {
  context<B> cx;
  const index_t n = 400000;  // three blocks
  auto scope = cx.scope();
  counted(cx, n, -1e6);
  const auto r = counted(cx, n, 7);
  counted(cx, n, -2e6);
  const auto kept = scope.keep(r);
  CHECK(cx.read(kept) == count_from(7, n));
}

TEST_CASE("what is kept may start in a block later than its scope did") {
  context<B> cx;
  auto outer = cx.scope();
  counted(cx, 120000, 0);  // 8 bytes each: little is left of the first megabyte
  view<double, 1> kept;
  {
    auto scope = cx.scope();
    counted(cx, 20000, -1e6);              // starts the second block
    const auto r = counted(cx, 60000, 7);  // overlaps its new place, the start of the second block
    kept = scope.keep(r);
  }
  CHECK(cx.read(kept) == count_from(7, 60000));
  counted(cx, 60000, -2e6);
  CHECK(cx.read(kept) == count_from(7, 60000));
}

TEST_CASE("within scratch memory a scope keeps and releases there, and activations stay where they are") {
  context<B> cx;
  auto outer = cx.scope();
  const auto activation = counted(cx, 300, 1);
  const std::size_t used = cx.memory().used_bytes();
  {
    auto scratch = cx.scratch();
    const auto kept = scratch.run([&] {
      counted(cx, 10, -1e6);
      auto scope = cx.scope();
      counted(cx, 33, -2e6);
      return scope.keep(counted(cx, 1000, 7));  // overlaps its new place
    });
    CHECK(cx.read(kept) == count_from(7, 1000));
    CHECK(cx.memory().used_bytes() == used);
    CHECK(cx.scratch_memory().used_bytes() == 256 + 8192);
    CHECK_THROWS_AS(scratch.run([&] { return scratch.run([] { return 1; }); }), error);
    CHECK(counted(cx, 5, 0).data >= activation.data + 300);  // back among the activations
  }
  CHECK(cx.scratch_memory().used_bytes() == 0);
  CHECK(cx.read(activation) == count_from(1, 300));
}

TEST_CASE("keeping what was made before the scope copies it") {
  context<B> cx;
  const auto outside = counted(cx, 10, 1);
  auto scope = cx.scope();
  const auto kept = scope.keep(outside);
  CHECK(kept.data != outside.data);
  CHECK(cx.read(kept) == count_from(1, 10));
}

TEST_CASE("a scope can leave everything to the scope around it") {
  context<B> cx;
  auto outer = cx.scope();
  view<double, 1> made;
  {
    auto inner = cx.scope();
    made = counted(cx, 10, 1);
    inner.keep_all();
  }
  counted(cx, 10, -1);
  CHECK(cx.read(made) == count_from(1, 10));
}

TEST_CASE("upload, read and zeroed memory hold what they should") {
  context<B> cx;
  const std::vector<double> host{1, 2, 3, 4, 5, 6};
  CHECK(cx.read(cx.upload(host)) == host);
  CHECK(cx.upload(std::span<const double>(host), 3, 2)(2, 1) == 6);
  CHECK_THROWS_AS(cx.upload(std::span<const double>(host), 4, 2), shape_error);
  CHECK(cx.read_one(cx.upload(host)) == 1);
  CHECK(cx.read(cx.make_zero(2, 2)) == std::vector<double>(4));
  CHECK(cx.read(cx.upload(std::vector<int>{})).empty());
  const buffer<B> owned(cx, 5);
  CHECK(cx.read(owned.values()) == std::vector<double>(5));
  CHECK(buffer<B>().size() == 0);
}
