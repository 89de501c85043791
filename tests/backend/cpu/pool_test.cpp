#include <planlm/backend/cpu/pool.hpp>

#include <array>
#include <stdexcept>

#include "../../catch.hpp"

using namespace planlm;
using cpu_detail::thread_pool;

TEST_CASE("a pool runs every task once, with a member number below its size, however often it is used") {
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    thread_pool pool(threads);
    CHECK(pool.size() == threads);
    bool once = true, members = true;
    for (int round = 0; round < 500; ++round) {
      const index_t count = round % 7;
      std::array<std::atomic<int>, 7> runs{};
      std::atomic<bool> in_range{true};
      pool.run(count, [&](index_t i, int member) {
        runs[static_cast<std::size_t>(i)].fetch_add(1);
        if (member < 0 || member >= threads) in_range = false;
      });
      for (index_t i = 0; i < 7; ++i) once = once && runs[static_cast<std::size_t>(i)] == (i < count ? 1 : 0);
      members = members && in_range;
    }
    CHECK(once);
    CHECK(members);
  }
}

TEST_CASE("what tasks wrote is seen by the caller without further synchronisation") {
  thread_pool pool(3);
  std::vector<int> values(1000);
  for (int round = 1; round <= 50; ++round) {
    pool.run(1000, [&](index_t i, int) { values[static_cast<std::size_t>(i)] += 1; });
    CHECK(values == std::vector<int>(1000, round));
  }
}

TEST_CASE("an exception of a task reaches the caller, and the pool stays usable") {
  for (const int threads : {1, 2, 3})
    for (const index_t count : {1, 2, 100}) {
      CAPTURE(threads, count);
      thread_pool pool(threads);
      for (int round = 0; round < 20; ++round) {
        const auto failing = [&](index_t i, int) {
          if (i == count - 1) throw std::runtime_error("task " + std::to_string(i));
        };
        CHECK_THROWS_WITH(pool.run(count, failing), "task " + std::to_string(count - 1));
        std::atomic<int> runs{0};
        pool.run(10, [&](index_t, int) { runs.fetch_add(1); });
        CHECK(runs == 10);
      }
      CHECK_THROWS_AS(pool.run(count, [](index_t, int) { throw 7; }), int);
    }
}
