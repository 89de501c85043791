#include <cmath>
#include <cstdint>
#include <limits>
#include <planlm/metrics/plan_following.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {

using labels_type = std::vector<std::int32_t>;

struct documents_data {
  labels_type labels;
  std::vector<index_t> starts{0};
  documents_data(std::initializer_list<labels_type> documents) {
    for (const auto& d : documents) {
      labels.insert(labels.end(), d.begin(), d.end());
      starts.push_back(static_cast<index_t>(labels.size()));
    }
  }
  operator label_documents() const { return {labels, starts}; }
};

}  // namespace

TEST_CASE("the following rate counts sentences whose label is the planned one") {
  const auto result = followed_plan(labels_type{0, 1, 2, 1}, labels_type{0, 2, 2, 1});
  CHECK(result.followed == 3);
  CHECK(result.sentences == 4);
  CHECK(result.rate() == 0.75);
  CHECK(followed_plan(labels_type{}, labels_type{}).rate() == 0);
  CHECK_THROWS_AS(followed_plan(labels_type{0}, labels_type{0, 1}), shape_error);
}

TEST_CASE("a sentence's own label is the nearest centroid, the lowest of two as near") {
  const std::vector<float> centroids{0, 0, 2, 0, 0, 2}, vectors{1.9f, 0.1f, 0.5f, 0.4f, 0.1f, 3, 1, 0};
  // own labels 1, 0, 2 and, half-way, 0
  CHECK(followed_plan(labels_type{1, 0, 2, 0}, vectors, centroids, 2).rate() == 1);
  CHECK(followed_plan(labels_type{1, 1, 1, 1}, vectors, centroids, 2).followed == 1);
  CHECK(followed_plan(labels_type{0, 2, 0, 0}, vectors, centroids, 2, 2).rate() == 0.25);
  CHECK_THROWS_AS(followed_plan(labels_type{0}, vectors, centroids, 2), shape_error);
  CHECK_THROWS_AS(followed_plan(labels_type{1, 0, 2, 0}, vectors, centroids, 3), shape_error);
  CHECK_THROWS_AS(followed_plan(labels_type{0}, std::vector<float>{std::nanf(""), 0}, centroids, 2),
                  numeric_error);
}

TEST_CASE("edit distances are means over documents, normalised by the true length of each") {
  const documents_data generated{{0, 1, 2}, {}, {5}}, truth{{0, 2}, {1, 1}, {5, 5, 5, 5}};
  // one deletion, two insertions, three insertions;  1/2, 2/2, 3/4
  const auto distance = label_edit_distance(generated, truth);
  CHECK(distance.edits == Approx(2));
  CHECK(distance.normalised == Approx(0.75));
  CHECK(distance.documents == 3);
  // the other way round the true lengths are 3, 0 (taken as 1) and 1
  CHECK(label_edit_distance(truth, generated).edits == Approx(2));
  CHECK(label_edit_distance(truth, generated).normalised == Approx((1.0 / 3 + 2 + 3) / 3));
  CHECK(label_edit_distance(truth, truth).edits == 0);
  const documents_data nothing{};
  CHECK(label_edit_distance(nothing, nothing).normalised == 0);
  CHECK(label_edit_distance(label_documents{}, label_documents{}).documents == 0);
}

TEST_CASE("edit distances refuse documents that do not pair up or offsets that lie") {
  const documents_data one{{0}}, two{{0}, {1}};
  CHECK_THROWS_AS(label_edit_distance(one, two), shape_error);
  const labels_type labels{1, 2, 3};
  for (const std::vector<index_t>& starts : {std::vector<index_t>{0, 4}, {2, 1}, {-1, 3}})
    CHECK_THROWS_AS(label_edit_distance({labels, starts}, one), shape_error);
}

TEST_CASE("latent perplexity is that of a bigram with both ends, worked by hand") {
  const documents_data train{{0, 1}, {0, 1}, {1}}, known{{0, 1}}, unknown{{1, 0}};
  // delta 1: <bos> -> 0, 1, <eos>: 3/6 2/6 1/6;  0 -> 1/5 3/5 1/5;  1 -> 1/6 1/6 4/6
  const auto smooth = latent_critic(train, unknown, 2);
  REQUIRE(smooth.delta() == 1);
  // 3/6 * 3/5 * 4/6 = 1/5 over three predictions
  CHECK(smooth.score(known).predictions == 3);
  CHECK(smooth.score(known).perplexity() == Approx(std::cbrt(5.0)).epsilon(1e-12));
  // delta 0: <bos> -> 2/3 1/3 0;  0 -> 0 1 0;  1 -> 0 0 1
  const auto sharp = latent_critic(train, known, 2);
  REQUIRE(sharp.delta() == 0);
  CHECK(sharp.score(known).perplexity() == Approx(std::cbrt(1.5)).epsilon(1e-12));
  CHECK(std::isinf(sharp.score(unknown).perplexity()));
}

TEST_CASE("delta comes from the candidates given") {
  const documents_data train{{0, 1}, {0, 1}, {1}}, unknown{{1, 0}};
  const std::vector<double> deltas{0.01, 0.5};
  CHECK(latent_critic(train, unknown, 2, deltas).delta() == 0.5);
}

TEST_CASE("text made of the training text's own transitions has the latent perplexity of training text") {
  const documents_data train{{0, 1, 2}, {0, 1, 2}}, same{{0, 1, 2}}, shuffled{{2, 1, 0}};
  const auto critic = latent_critic(train, same, 3);
  CHECK(critic.score(same).perplexity() == Approx(1));
  CHECK(critic.score(shuffled).perplexity() > critic.score(train).perplexity());
}

TEST_CASE("label usage worked by hand") {
  const auto usage = usage_of_labels(labels_type{0, 3, 0, 1}, 4);
  CHECK(usage.counts == std::vector<index_t>{2, 1, 0, 1});
  CHECK(usage.shares == std::vector<double>{0.5, 0.25, 0, 0.25});
  CHECK(usage.entropy == Approx(1.5 * std::log(2.0)));  // 1/2 ln 2 + 2 * 1/4 ln 4
  CHECK(usage.perplexity == Approx(std::pow(2.0, 1.5)));
  CHECK(usage.used == 3);
  CHECK_THROWS_AS(usage_of_labels(labels_type{4}, 4), shape_error);
}

TEST_CASE("label usage lies between one label and all of them") {
  CHECK(usage_of_labels(labels_type{2, 2, 2}, 4).perplexity == Approx(1));
  CHECK(usage_of_labels(labels_type{3, 2, 1, 0, 0, 1, 2, 3}, 4).perplexity == Approx(4));
  const auto none = usage_of_labels(labels_type{}, 4);
  CHECK(none.shares == std::vector<double>(4, 0.0));
  CHECK(none.perplexity == 0);
  CHECK(none.used == 0);
}
