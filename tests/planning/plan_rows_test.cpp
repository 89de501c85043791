#include <planlm/planning/plan_rows.hpp>

#include <vector>
#include <planlm/core/philox.hpp>

#include "../catch.hpp"

using namespace planlm;
using ints = std::vector<int>;

namespace {

/// The example of the header: "a b ." and "c d .", in one chunk, then a chunk that goes on with sentence 1 and reaches sentence 2.
struct example {
  ints tokens{0, 1, 2, 3, 4, 5, 4, 5}, targets{1, 2, 3, 4, 5, 6, 5, 7}, sentence{0, 0, 1, 1, 1, 2, 1, 2}, offsets{0, 6, 8};
  host_rows rows() const { return {tokens, targets, sentence, offsets}; }
};

}  // namespace

TEST_CASE("inserted rows stand before the row that predicts how their sentence begins, and where a chunk begins") {
  const example e;
  const rows_with_plans r = insert_plan_rows(e.rows(), 1);
  CHECK(r.tokens == ints{-1, 0, 1, -1, 2, 3, 4, -1, 5, -1, 4, -1, 5});
  CHECK(r.targets == ints{-1, 1, 2, -1, 3, 4, 5, -1, 6, -1, 5, -1, 7});
  CHECK(r.plan == ints{0, -1, -1, 1, -1, -1, -1, 2, -1, 1, -1, 2, -1});
  CHECK(r.row == ints{-1, 0, 1, -1, 2, 3, 4, -1, 5, -1, 6, -1, 7});
  CHECK(r.positions == ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3});
  CHECK(r.offsets == ints{0, 9, 13});
}

TEST_CASE("the rows of one plan follow each other and are numbered s P + j") {
  const rows_with_plans r = insert_plan_rows(example{}.rows(), 3);
  CHECK(ints(r.plan.begin(), r.plan.begin() + 11) == ints{0, 1, 2, -1, -1, 3, 4, 5, -1, -1, -1});
  CHECK(r.offsets == ints{0, 15, 23});
}

TEST_CASE("a prefix carries the plan of the chunk's first sentence and nothing more") {
  const rows_with_plans r = prefix_plan_rows(example{}.rows(), 2);
  CHECK(r.tokens == ints{-1, -1, 0, 1, 2, 3, 4, 5, -1, -1, 4, 5});
  CHECK(r.plan == ints{0, 1, -1, -1, -1, -1, -1, -1, 2, 3, -1, -1});
  CHECK(r.positions == ints{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3});
  CHECK(r.offsets == ints{0, 8, 12});
}

TEST_CASE("no rows per plan give the batch back, with no plan anywhere") {
  const example e;
  for (const rows_with_plans& r : {insert_plan_rows(e.rows(), 0), prefix_plan_rows(e.rows(), 0)}) {
    CHECK(r.tokens == e.tokens);
    CHECK(r.targets == e.targets);
    CHECK(r.plan == ints(8, -1));
    CHECK(r.positions == ints{0, 1, 2, 3, 4, 5, 0, 1});
    CHECK(r.offsets == e.offsets);
  }
}

TEST_CASE("rows of no sentence get no plan, empty chunks stay empty") {
  const ints tokens{7, 8, 9}, targets{8, 9, 1}, sentence{-1, -1, 4}, offsets{0, 0, 3};
  const rows_with_plans r = insert_plan_rows({tokens, targets, sentence, offsets}, 1);
  CHECK(r.tokens == ints{7, 8, -1, 9});
  CHECK(r.plan == ints{-1, -1, 4, -1});
  CHECK(r.offsets == ints{0, 0, 4});
  CHECK(prefix_plan_rows({tokens, targets, sentence, offsets}, 1).plan == r.plan);
}

TEST_CASE("rows of no sentence neither end a sentence nor begin one: its plan comes once") {
  const ints tokens{0, 1, 2, 3, 4, 5}, sentence{-1, 0, -1, 0, -1, 1}, offsets{0, 6};
  const host_rows batch{tokens, tokens, sentence, offsets};
  CHECK(insert_plan_rows(batch, 1).plan == ints{-1, 0, -1, -1, -1, -1, 1, -1});
  CHECK(prefix_plan_rows(batch, 1).plan == ints{-1, 0, -1, -1, -1, -1, -1});
}

TEST_CASE("facts 19 and 21: every target is used once, after the plan of its own sentence and before that of the next") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const philox random{seed};
    ints tokens, targets, sentence, offsets{0};
    int s = 0;
    for (int t = 0; t < 60; ++t) {
      tokens.push_back(t), targets.push_back(t + 1), sentence.push_back(s);
      s += random.below(4, static_cast<std::uint64_t>(t), 0) == 0;
      if (random.below(9, static_cast<std::uint64_t>(t), 1) == 0 || t == 59) offsets.push_back(t + 1);
    }
    for (const int per_plan : {1, 2}) {
      const rows_with_plans r = insert_plan_rows({tokens, targets, sentence, offsets}, per_plan);
      std::size_t next = 0;
      int latest = -1;
      for (std::size_t i = 0, chunk = 0; i < r.tokens.size(); ++i) {
        if (static_cast<int>(i) == r.offsets[chunk + 1]) ++chunk, latest = -1;
        if (r.plan[i] >= 0) {
          latest = r.plan[i];
          CHECK((r.tokens[i] == -1 && r.targets[i] == -1 && r.row[i] == -1));
        } else {
          CHECK((r.tokens[i] == tokens[next] && r.targets[i] == targets[next] && r.row[i] == static_cast<int>(next)));
          CHECK(latest == sentence[next] * per_plan + per_plan - 1);
          ++next;
        }
      }
      CHECK(next == tokens.size());
      CHECK(r.offsets.size() == offsets.size());
    }
  }
}

TEST_CASE("rows that disagree are refused") {
  const example e;
  CHECK_THROWS_WITH(insert_plan_rows(e.rows(), -1), "plan rows: -1 rows per plan, expected 0 or more");
  const ints few{0, 1};
  CHECK_THROWS_WITH(prefix_plan_rows({e.tokens, few, e.sentence, e.offsets}, 1),
                    "plan rows: 8 tokens, 2 targets, 8 sentence numbers and offsets that end at 8; all must agree");
  CHECK_THROWS_AS(insert_plan_rows({e.tokens, e.targets, e.sentence, {}}, 1), shape_error);
  CHECK_THROWS_AS(insert_plan_rows({e.tokens, e.targets, e.sentence, few}, 1), shape_error);
  const ints late{2, 8}, falling{0, 6, 3, 8};
  CHECK_THROWS_WITH(insert_plan_rows({e.tokens, e.targets, e.sentence, late}, 1), "plan rows: offsets that begin at 2, expected 0");
  CHECK_THROWS_WITH(prefix_plan_rows({e.tokens, e.targets, e.sentence, falling}, 1),
                    "plan rows: chunk 1 begins at row 6 and ends at 3; offsets must not fall");
}
