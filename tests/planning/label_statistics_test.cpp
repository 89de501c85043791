#include "catch.hpp"

#include <cmath>
#include <limits>
#include <planlm/planning/label_statistics.hpp>
#include <string>
#include <vector>

using namespace planlm;

namespace {

/// What the error says; "no error" if there is none.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}
bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

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
  label_documents view() const { return {labels, starts}; }
};

/// All sequences over three labels of at most `longest` labels.
std::vector<labels_type> sequences(std::size_t longest) {
  std::vector<labels_type> all{{}};
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i].size() < longest)
      for (std::int32_t a = 0; a < 3; ++a) {
        labels_type longer = all[i];
        longer.push_back(a);
        all.push_back(longer);
      }
  return all;
}

}  // namespace

TEST_CASE("a bigram critic with <eos> matches counts worked by hand") {
  const documents_data train{{0, 1, 0}, {1, 1}};
  const auto critic = label_critic::bigram(train.view(), 2, 0.5, document_end::predicted);
  REQUIRE(critic.outcomes() == 3);
  // <bos>: 0 once, 1 once, <eos> never; total 2 + 3 * 0.5
  REQUIRE(critic.probability(label_critic::bos, 0) == Approx(1.5 / 3.5));
  REQUIRE(critic.probability(label_critic::bos, critic.eos()) == Approx(0.5 / 3.5));
  // after 0: 1 once, <eos> once
  REQUIRE(critic.probability(0, 0) == Approx(0.5 / 3.5));
  REQUIRE(critic.probability(0, 1) == Approx(1.5 / 3.5));
  REQUIRE(critic.probability(0, critic.eos()) == Approx(1.5 / 3.5));
  // after 1: 0, 1 and <eos> once each
  for (std::int32_t next = 0; next < 3; ++next) REQUIRE(critic.probability(1, next) == Approx(1.0 / 3));

  const documents_data test{{1, 0}};
  const auto score = critic.score(test.view());
  REQUIRE(score.predictions == 3);
  REQUIRE(score.nats == Approx(-(std::log(1.5 / 3.5) + std::log(1.0 / 3) + std::log(1.5 / 3.5)) / 3));
  REQUIRE(score.perplexity() == Approx(std::exp(score.nats)));
}

TEST_CASE("a bigram critic without <eos> predicts labels alone") {
  const documents_data train{{0, 1, 0}, {1, 1}};
  const auto critic = label_critic::bigram(train.view(), 2, 0.5);
  REQUIRE(critic.outcomes() == 2);
  REQUIRE(critic.probability(0, 1) == Approx(1.5 / 2));  // the last 0 of the first document predicts nothing
  REQUIRE(critic.score(train.view()).predictions == 5);
}

TEST_CASE("fact 23: rows of the critic sum to 1, also for labels that were never seen") {
  const documents_data train{{0, 4, 4, 2}, {}, {3}};
  for (const auto end : {document_end::ignored, document_end::predicted})
    for (const double delta : {0.0, 1e-3, 1.0, 50.0}) {
      const auto critic = label_critic::bigram(train.view(), 6, delta, end);
      for (std::int32_t previous = label_critic::bos; previous < 6; ++previous) {
        double sum = 0;
        for (const double p : critic.row(previous)) sum += p;
        REQUIRE(sum == Approx(1).epsilon(1e-14));
      }
    }
}

TEST_CASE("fact 23: the perplexity of a uniform critic is its number of outcomes") {
  const documents_data nothing{};
  const documents_data test{{0, 1, 2, 3, 4}, {4, 4}, {}};
  const auto labels_only = label_critic::bigram(nothing.view(), 5, 1.0);
  REQUIRE(labels_only.score(test.view()).perplexity() == Approx(5));
  const auto with_end = label_critic::bigram(nothing.view(), 5, 1.0, document_end::predicted);
  REQUIRE(with_end.score(test.view()).perplexity() == Approx(6));
  REQUIRE(with_end.score(test.view()).predictions == 7 + 3);
}

TEST_CASE("the cross-entropy of an unsmoothed unigram on its own labels is their entropy") {
  const documents_data train{{0, 1, 0, 3}, {3, 0, 0}};
  const auto counts = label_counts(train.labels, 4);
  REQUIRE(counts == std::vector<index_t>{4, 1, 0, 2});
  const auto critic = label_critic::unigram(train.view(), 4, 0.0);
  REQUIRE(critic.score(train.view()).nats == Approx(label_entropy(counts)));
  REQUIRE(critic.probability(label_critic::bos, 0) == critic.probability(3, 0));
}

TEST_CASE("label entropy is ln K for equal counts and 0 for one label or none") {
  REQUIRE(label_entropy(std::vector<index_t>{7, 7, 7, 7}) == Approx(std::log(4.0)));
  REQUIRE(label_entropy(std::vector<index_t>{0, 9, 0}) == 0);
  REQUIRE(label_entropy(std::vector<index_t>{0, 0}) == 0);
  REQUIRE(label_entropy(std::vector<index_t>{1, 3}) ==
          Approx(-0.25 * std::log(0.25) - 0.75 * std::log(0.75)));
}

TEST_CASE("delta comes from the validation documents") {
  const documents_data train{{0, 1, 0, 1, 0, 1}};
  const documents_data same{{0, 1, 0, 1}}, other{{0, 0, 2, 2}};
  const std::vector<double> candidates{0.0, 0.1, 10.0};
  REQUIRE(choose_delta(train.view(), same.view(), 3, candidates) == 0.0);
  REQUIRE(choose_delta(train.view(), other.view(), 3, candidates) == 10.0);
  REQUIRE(label_critic::bigram(train.view(), 3, 0.0).score(other.view()).nats ==
          std::numeric_limits<double>::infinity());
  REQUIRE_THROWS_AS(choose_delta(train.view(), same.view(), 3, {}), shape_error);
}

TEST_CASE("labels out of range, offsets that do not fit and a negative delta are refused") {
  const documents_data high{{0, 5}}, good{{0, 1}};
  REQUIRE(contains(message_of([&] { label_critic::bigram(high.view(), 5, 1.0); }),
                   "label 1 is 5, expected 0 to 4 (called from "));
  REQUIRE(contains(message_of([&] { label_critic::bigram(good.view(), 2, 1.0).score(high.view()); }),
                   "label 1 is 5"));
  const std::vector<index_t> falling{0, 2, 1, 2}, early{0, 1}, late{1, 2};
  for (const auto& starts : {falling, early, late})
    REQUIRE(contains(message_of([&] {
                       label_critic::bigram(label_documents{good.labels, starts}, 2, 1.0);
                     }),
                     "offsets must ascend from 0 to the number of labels"));
  REQUIRE_THROWS_AS(label_critic::bigram(good.view(), 2, -1.0), shape_error);
  REQUIRE_THROWS_AS(label_critic::bigram(good.view(), 0, 1.0), shape_error);
}

TEST_CASE("fact 24: Levenshtein distance is a metric and the distance to the empty sequence is the length") {
  REQUIRE(levenshtein(labels_type{1, 2, 3, 3, 4, 5}, labels_type{6, 2, 3, 3, 2, 5, 7}) ==
          3);  // kitten, sitting
  REQUIRE(levenshtein(labels_type{1, 2}, labels_type{2, 1}) == 2);
  const auto all = sequences(3);
  const std::size_t n = all.size();
  REQUIRE(n == 40);
  std::vector<index_t> d(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) d[i * n + j] = levenshtein(all[i], all[j]);
  bool identity = true, symmetry = true, triangle = true, empty = true;
  for (std::size_t i = 0; i < n; ++i) {
    empty = empty && d[i * n] == static_cast<index_t>(all[i].size());
    for (std::size_t j = 0; j < n; ++j) {
      identity = identity && (d[i * n + j] == 0) == (i == j);
      symmetry = symmetry && d[i * n + j] == d[j * n + i];
      for (std::size_t k = 0; k < n; ++k) triangle = triangle && d[i * n + k] <= d[i * n + j] + d[j * n + k];
    }
  }
  REQUIRE(identity);
  REQUIRE(symmetry);
  REQUIRE(triangle);
  REQUIRE(empty);
}
