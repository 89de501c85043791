#include <planlm/ops/kv_cache.hpp>

#include <vector>
#include <planlm/backend/cpu/cpu.hpp>

#include "../catch.hpp"
#include "../counted_heap.hpp"

using namespace planlm;

TEST_CASE("a cache asks for no memory once its longest extend has run") {
  using B = cpu<float>;
  context<B> cx;
  kv_cache<B> cache(cx, 1, {2, 2, 4, true}, 3, 100);
  const std::vector<int> slots{0, 2}, counts{5, 7};
  const auto steps = [&] {
    auto scope = cx.scope();
    cache.extend(cx, slots, counts);
    cache.step(cx, slots);
    cache.standing(cx, slots);
    cache.advanced(slots, 2);
  };
  CHECK(testing::heap_requests(steps) > 0);
  CHECK(testing::heap_requests(steps) == 0);
  CHECK(cache.length(0) == 16);
  CHECK(cache.length(1) == 0);
  CHECK(cache.length(2) == 20);
}
