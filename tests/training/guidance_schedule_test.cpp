#include <planlm/training/guidance_schedule.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace planlm;
using numbers = std::vector<index_t>;

TEST_CASE("fact F23, golden A16: guidance of prompts is trained before the first of 12000 updates and six times in the first half") {
  const auto schedule = guidance_schedule::for_share(12000, 1000);
  CHECK(schedule.again(12000) == numbers{1000, 2000, 3000, 4000, 5000, 6000});
  CHECK(schedule.rounds(12000) == 7);
}

TEST_CASE("fact F23, golden A16: guidance of summaries is trained again every half epoch, whole updates, of the first two") {
  const auto after = [](index_t updates_per_epoch) {
    return guidance_schedule::for_epochs(updates_per_epoch).again(5 * updates_per_epoch);
  };
  CHECK(after(8973) == numbers{4486, 8972, 13458, 17944});
  CHECK(after(6377) == numbers{3188, 6376, 9564, 12752});
  CHECK(after(100) == numbers{50, 100, 150, 200});
  CHECK(after(101) == numbers{50, 100, 150, 200});
  CHECK(guidance_schedule::for_epochs(8973).rounds(5 * 8973) == 5);
}

TEST_CASE("due, rounds and again say the same of every run") {
  for (const auto& schedule : {guidance_schedule(1, 0), guidance_schedule(1, 5), guidance_schedule(3, 7), guidance_schedule(3, 9),
                               guidance_schedule(4, 100), guidance_schedule::once()})
    for (index_t updates = 0; updates < 30; ++updates) {
      CAPTURE(schedule.period(), schedule.until(), updates);
      numbers due;
      for (index_t done = 0; done < updates; ++done)
        if (schedule.due(done)) due.push_back(done);
      CHECK(static_cast<index_t>(due.size()) == schedule.rounds(updates));
      if (!due.empty()) due.erase(due.begin());
      CHECK(due == schedule.again(updates));
    }
}

TEST_CASE("once is one round, whatever the length of the run") {
  CHECK(guidance_schedule::once().rounds(1) == 1);
  CHECK(guidance_schedule::once().rounds(100000) == 1);
  CHECK(guidance_schedule::for_share(10, 2, 0).again(10).empty());
}

TEST_CASE("alternation trains guidance before the update at which it is due, and not after the last one") {
  std::string order;
  alternate(guidance_schedule(2, 4), 6, [&](index_t round) { order += "g" + std::to_string(round); },
            [&](index_t update) { order += " " + std::to_string(update) + " "; });
  CHECK(order == "g0 0  1 g1 2  3 g2 4  5 ");
  order.clear();
  alternate(guidance_schedule(2, 4), 4, [&](index_t round) { order += "g" + std::to_string(round); },
            [&](index_t update) { order += " " + std::to_string(update) + " "; });
  CHECK(order == "g0 0  1 g1 2  3 ");
}

TEST_CASE("alternation that goes on after any number of updates does what was left") {
  const auto written = [](index_t first, index_t last) {
    std::string order;
    alternate(guidance_schedule(3, 7), last, [&](index_t round) { order += "g" + std::to_string(round); },
              [&](index_t update) { order += " " + std::to_string(update) + " "; }, first);
    return order;
  };
  for (index_t cut = 0; cut <= 10; ++cut) CHECK(written(0, cut) + written(cut, 10) == written(0, 10));
}

TEST_CASE("a guidance schedule refuses settings out of range with the numbers") {
  CHECK_THROWS_WITH(guidance_schedule(0, 5), "guidance_schedule: period = 0, expected at least 1");
  CHECK_THROWS_WITH(guidance_schedule(1, -5), "guidance_schedule: until = -5, expected at least 0");
  CHECK_THROWS_WITH(guidance_schedule::for_share(10, 2, 1.5), "guidance_schedule: share = 1.500000, expected 0 to 1");
  CHECK_THROWS_WITH(guidance_schedule::for_epochs(1),
                    "guidance_schedule: 0.500000 of an epoch of 1 updates is not one update; take a larger share");
  CHECK_THROWS_AS(guidance_schedule::for_epochs(10, NAN), error);
  CHECK_THROWS_AS(guidance_schedule(1, 1).due(-1), error);
  CHECK_THROWS_AS(guidance_schedule(1, 1).rounds(-1), error);
}
