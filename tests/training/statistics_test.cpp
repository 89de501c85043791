#include <cstring>
#include <planlm/training/statistics.hpp>

#include "../catch.hpp"

using namespace planlm;

namespace {

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}

/// A test set with documents of 1 to 40 tokens and losses around 4.5 nats per token plus noise.
std::vector<document_loss> documents_with_noise(std::size_t count, std::uint32_t stream, double shift = 0) {
  const philox lengths{7, 0, 100}, noise{7, 0, stream};
  std::vector<document_loss> documents;
  for (std::size_t i = 0; i < count; ++i) {
    const index_t tokens = 1 + lengths.below(40, i, 0);
    const double per_token = 4.5 + shift + 0.3 * noise.normal(i, 0) / std::sqrt(static_cast<double>(tokens));
    documents.push_back({per_token * static_cast<double>(tokens), tokens});
  }
  return documents;
}

bool same_bits(const interval_estimate& a, const interval_estimate& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

TEST_CASE("perplexity is exp of the token mean, not a mean of perplexities (pitfall 15)") {
  // One long easy document and one short hard one.
  const std::vector<document_loss> documents = {{90.0, 90}, {30.0, 10}};
  CHECK(nats_per_token(documents) == Approx(1.2));
  CHECK(perplexity(documents) == Approx(std::exp(1.2)));
  const double mean_of_perplexities = (std::exp(1.0) + std::exp(3.0)) / 2;
  CHECK(perplexity(documents) < mean_of_perplexities / 3);

  // A uniform model over V words has perplexity V.
  CHECK(perplexity(document_loss{50 * std::log(17.0), 50}) == Approx(17.0));
}

TEST_CASE("a loss over no tokens is refused") {
  CHECK(message_of([] { perplexity(document_loss{}); }) == "nats_per_token: 0 tokens, expected at least 1");
  CHECK_THROWS_AS(nats_per_token(std::vector<document_loss>{}), error);
}

TEST_CASE("the bootstrap's value is the difference of the two token means") {
  const std::vector<document_loss> a = {{10, 4}, {9, 3}, {2, 1}}, b = {{8, 4}, {9, 3}, {3, 1}};
  const interval_estimate d = paired_bootstrap(a, b, 100, 1);
  CHECK(d.value == Approx(1.0 / 8));
  CHECK(d.value == Approx(nats_per_token(a) - nats_per_token(b)));
}

TEST_CASE("the bootstrap of a list with itself is exactly 0") {
  const auto a = documents_with_noise(50, 1);
  const interval_estimate d = paired_bootstrap(a, a, 500, 3);
  CHECK(d.value == 0.0);
  CHECK(d.lower == 0.0);
  CHECK(d.upper == 0.0);
  CHECK(d.standard_error == 0.0);
  CHECK_FALSE(d.significant());
}

TEST_CASE("a constant shift per token is found exactly, with an interval of width 0") {
  const std::vector<document_loss> b = {{6, 4}, {9, 3}, {2.5, 1}, {30, 12}, {17, 8}};
  std::vector<document_loss> a = b;
  for (document_loss& d : a) d.nll += 0.25 * static_cast<double>(d.tokens);  // exact in binary
  const interval_estimate d = paired_bootstrap(a, b, 300, 9);
  CHECK(d.value == 0.25);
  CHECK(d.lower == 0.25);
  CHECK(d.upper == 0.25);
  CHECK(d.standard_error == 0.0);
  CHECK(d.significant());
}

TEST_CASE("the interval contains the plug-in estimate and turns around when the lists are swapped") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto a = documents_with_noise(80, 1), b = documents_with_noise(80, 2, 0.02);
    const interval_estimate d = paired_bootstrap(a, b, 400, seed),
                            swapped = paired_bootstrap(b, a, 400, seed);
    CHECK(d.lower < d.value);
    CHECK(d.value < d.upper);
    CHECK(swapped.value == -d.value);
    CHECK(swapped.lower == Approx(-d.upper));
    CHECK(swapped.upper == Approx(-d.lower));
    CHECK(swapped.standard_error == Approx(d.standard_error));
  }
}

TEST_CASE("the standard error with equal document lengths is that of a mean") {
  // Differences +1 and -1 per token, half each: resample means have deviation sqrt(1 / n).
  std::vector<document_loss> a, b;
  for (int i = 0; i < 100; ++i) {
    a.push_back({i % 2 == 0 ? 6.0 : 4.0, 1});
    b.push_back({5.0, 1});
  }
  const interval_estimate d = paired_bootstrap(a, b, 4000, 5);
  CHECK(d.value == 0.0);
  CHECK(d.standard_error == Approx(0.1).epsilon(0.05));
  CHECK(d.lower == Approx(-0.196).margin(0.021));  // resample means move in strides of 0.02
  CHECK(d.upper == Approx(0.196).margin(0.021));
}

TEST_CASE("a 95 % interval covers the true difference in about 95 % of test sets") {
  int covered = 0;
  const int sets = 200;
  for (int set = 0; set < sets; ++set) {
    const auto stream = static_cast<std::uint32_t>(1000 + 2 * set);
    const auto a = documents_with_noise(60, stream), b = documents_with_noise(60, stream + 1);
    const interval_estimate d = paired_bootstrap(a, b, 300, 11);
    covered += d.lower <= 0 && 0 <= d.upper;
  }
  CHECK(covered >= 180);  // 95 % less three binomial deviations and the small-sample shortfall of percentiles
  CHECK(covered < 200);
}

TEST_CASE("a wider level gives a wider interval") {
  const auto a = documents_with_noise(80, 1), b = documents_with_noise(80, 2);
  const interval_estimate half = paired_bootstrap(a, b, 1000, 4, 0.5),
                          most = paired_bootstrap(a, b, 1000, 4, 0.99);
  CHECK(most.lower < half.lower);
  CHECK(most.upper > half.upper);
  CHECK(most.standard_error == half.standard_error);
}

TEST_CASE("the bootstrap repeats bit for bit and draws what the counter-based generator says") {
  const auto a = documents_with_noise(7, 1), b = documents_with_noise(7, 2);
  CHECK(same_bits(paired_bootstrap(a, b, 200, 42), paired_bootstrap(a, b, 200, 42)));
  CHECK_FALSE(same_bits(paired_bootstrap(a, b, 200, 42), paired_bootstrap(a, b, 200, 43)));

  // Two rounds written out: the interval at level 1 - 1e-12 is their minimum and maximum.
  const philox random{42};
  double round[2];
  for (std::uint32_t r = 0; r < 2; ++r) {
    double difference = 0, tokens = 0;
    for (std::uint32_t i = 0; i < 7; ++i) {
      const std::uint32_t d = random.below(7, r, i);
      difference += a[d].nll - b[d].nll;
      tokens += static_cast<double>(a[d].tokens);
    }
    round[r] = difference / tokens;
  }
  const interval_estimate two = paired_bootstrap(a, b, 2, 42, 1 - 1e-12);
  CHECK(two.lower == Approx(std::min(round[0], round[1])));
  CHECK(two.upper == Approx(std::max(round[0], round[1])));
  CHECK(two.standard_error == Approx(std::abs(round[0] - round[1]) / std::sqrt(2.0)));
}

TEST_CASE("over seeds, the value is the mean of the differences of single seeds") {
  std::vector<std::vector<document_loss>> a, b;
  double mean = 0;
  for (std::uint32_t s = 0; s < 3; ++s) {
    a.push_back(documents_with_noise(40, 10 + s));
    b.push_back(documents_with_noise(40, 20 + s));
    mean += paired_bootstrap(a[s], b[s], 10, 1).value / 3;
  }
  const interval_estimate pooled = paired_bootstrap_over_seeds(a, b, 500, 1);
  CHECK(pooled.value == Approx(mean));
  CHECK(pooled.lower < pooled.value);
  CHECK(pooled.upper > pooled.value);
  // Noise that is independent between seeds averages out.
  CHECK(pooled.standard_error < paired_bootstrap(a[0], b[0], 500, 1).standard_error);
}

TEST_CASE("over seeds, documents are drawn once for all of them") {
  // The same run counted three times must not look like three times the evidence.
  const auto a = documents_with_noise(40, 1), b = documents_with_noise(40, 2);
  const interval_estimate one = paired_bootstrap(a, b, 300, 8);
  const interval_estimate three =
      paired_bootstrap_over_seeds(std::vector{a, a, a}, std::vector{b, b, b}, 300, 8);
  CHECK(three.value == Approx(one.value));
  CHECK(three.lower == Approx(one.lower));
  CHECK(three.upper == Approx(one.upper));
  CHECK(three.standard_error == Approx(one.standard_error));
}

TEST_CASE("the bootstrap refuses two lists that are not one test set") {
  const std::vector<document_loss> a = {{10, 4}, {9, 3}}, longer = {{10, 4}, {9, 3}, {1, 1}},
                                   retokenized = {{10, 4}, {9, 5}}, empty_document = {{10, 4}, {0, 0}},
                                   broken = {{10, 4}, {std::nan(""), 3}};
  CHECK_THROWS_AS(paired_bootstrap(a, longer, 10, 1), shape_error);
  CHECK(message_of([&] { paired_bootstrap(a, longer, 10, 1); }) ==
        "paired_bootstrap: 2 documents against 3, expected the same test set in both lists");
  CHECK(message_of([&] { paired_bootstrap(a, retokenized, 10, 1); }) ==
        "paired_bootstrap: document 1 has 3 tokens in the first list and 5 in the second, expected the same "
        "test set in both");
  CHECK(message_of([&] { paired_bootstrap(empty_document, empty_document, 10, 1); }) ==
        "paired_bootstrap: document 1 has 0 tokens, expected at least 1");
  CHECK_THROWS_AS(paired_bootstrap(a, broken, 10, 1), numeric_error);
  CHECK(message_of([&] { paired_bootstrap(a, broken, 10, 1); }) ==
        "paired_bootstrap: loss of document 1 is nan, not a finite number");
  CHECK_THROWS_AS(paired_bootstrap({}, {}, 10, 1), error);
  CHECK(message_of([&] { paired_bootstrap(a, a, 1, 1); }) ==
        "paired_bootstrap: resamples = 1, expected 2 to 2^32 - 1");
  CHECK(message_of([&] { paired_bootstrap(a, a, 10, 1, 95); }).find("level = 95") != std::string::npos);
  CHECK(
      message_of([&] {
        paired_bootstrap_over_seeds(std::vector{a, longer}, std::vector{a, longer}, 10, 1);
      }) ==
      "paired_bootstrap: seed 1 has 3 documents, seed 0 has 2, expected the same test set under every seed");
  const std::vector<std::vector<document_loss>> two_seeds = {a, a}, one_seed(1, a);
  CHECK_THROWS_AS(paired_bootstrap_over_seeds(two_seeds, one_seed, 10, 1), shape_error);
}

TEST_CASE("planner metrics of two sentences worked by hand") {
  planner_metrics metrics;
  const double l2 = std::log(2.0);
  metrics.accumulate(std::vector<double>{l2, 0.0, 0.0}, 0);  // p = 1/2 1/4 1/4, right, rank 1
  metrics.accumulate(std::vector<double>{l2, 0.0, 0.0}, 2);  // rank 3: ties go to the lower label
  CHECK(metrics.sentences() == 2);
  CHECK(metrics.accuracy() == 0.5);
  CHECK(metrics.mean_rank() == 2.0);
  CHECK(metrics.cross_entropy() == Approx((l2 + 2 * l2) / 2));
  CHECK(metrics.entropy() == Approx(1.5 * l2));
}

TEST_CASE("a planner that knows nothing has entropy ln K, one that is certain has 0") {
  planner_metrics flat, certain, one_label;
  flat.accumulate(std::vector<float>(64, 3.0f), 5);
  CHECK(flat.entropy() == Approx(std::log(64.0)));
  CHECK(flat.cross_entropy() == Approx(std::log(64.0)));
  CHECK(flat.mean_rank() == 6.0);
  CHECK(flat.accuracy() == 0.0);

  certain.accumulate(std::vector<float>{0.0f, 900.0f, 0.0f}, 1);  // exp(900) alone would overflow
  CHECK(certain.entropy() == Approx(0.0).margin(1e-300));
  CHECK(certain.cross_entropy() == 0.0);
  certain.accumulate(std::vector<float>{0.0f, 900.0f, 0.0f}, 0);
  CHECK(certain.cross_entropy() == Approx(450.0));

  one_label.accumulate(std::vector<float>{-2.0f}, 0);
  CHECK(one_label.accuracy() == 1.0);
  CHECK(one_label.entropy() == 0.0);
}

TEST_CASE("adding a constant to the logits leaves the planner metrics alone (fact 6)") {
  planner_metrics plain, shifted;
  for (std::uint64_t row = 0; row < 30; ++row) {
    std::vector<double> logits(9), moved(9);
    for (std::uint32_t k = 0; k < 9; ++k) {
      logits[k] = philox{3}.normal(row, k);
      moved[k] = logits[k] + 100;
    }
    plain.accumulate(logits, static_cast<index_t>(row % 9));
    shifted.accumulate(moved, static_cast<index_t>(row % 9));
  }
  CHECK(shifted.accuracy() == plain.accuracy());
  CHECK(shifted.mean_rank() == plain.mean_rank());
  CHECK(shifted.cross_entropy() == Approx(plain.cross_entropy()));
  CHECK(shifted.entropy() == Approx(plain.entropy()));
}

TEST_CASE("fact 18: the planner's cross-entropy has gradient p_k less 1 at the oracle label") {
  const std::vector<double> logits = {0.3, -1.2, 2.0, 0.7};
  const index_t label = 1;
  const auto loss = [&](std::vector<double> s) {
    planner_metrics metrics;
    metrics.accumulate(s, label);
    return metrics.cross_entropy();
  };
  double sum = 0;
  for (const double s : logits) sum += std::exp(s);
  for (std::size_t k = 0; k < logits.size(); ++k) {
    std::vector<double> up = logits, down = logits;
    up[k] += 1e-5;
    down[k] -= 1e-5;
    const double expected = std::exp(logits[k]) / sum - (static_cast<index_t>(k) == label ? 1 : 0);
    CHECK((loss(up) - loss(down)) / 2e-5 == Approx(expected).margin(1e-9));
  }
}

TEST_CASE("planner metrics name the sentence with a label out of range or a logit that is not finite") {
  planner_metrics metrics;
  metrics.accumulate(std::vector<float>{0.0f, 1.0f}, 0);
  CHECK(message_of([&] {
          metrics.accumulate(std::vector<float>{0.0f, 1.0f}, 2);
        }) == "planner_metrics: label 2 of sentence 1, expected 0 to 1");
  CHECK(message_of([&] {
          metrics.accumulate(std::vector<float>{0.0f, 1.0f}, -1);
        }) == "planner_metrics: label -1 of sentence 1, expected 0 to 1");
  CHECK(message_of([&] {
          metrics.accumulate(std::vector<double>{0.0, std::nan("")}, 1);
        }) == "planner_metrics: logit 1 of sentence 1 is nan, not a finite number");
  CHECK(metrics.sentences() == 1);
  CHECK_THROWS_AS(planner_metrics{}.accuracy(), error);
}

TEST_CASE("Student's quantile agrees with printed tables") {
  CHECK(student_t_quantile(0.95, 1) == Approx(12.7062047364).epsilon(1e-9));
  CHECK(student_t_quantile(0.95, 2) == Approx(4.3026527297).epsilon(1e-9));
  CHECK(student_t_quantile(0.95, 4) == Approx(2.7764451052).epsilon(1e-9));
  CHECK(student_t_quantile(0.99, 4) == Approx(4.6040948713).epsilon(1e-9));
  CHECK(student_t_quantile(0.95, 9) == Approx(2.2621571628).epsilon(1e-9));
  CHECK(student_t_quantile(0.95, 29) == Approx(2.0452296421).epsilon(1e-9));
  CHECK(student_t_quantile(0.5, 1) == Approx(1.0));  // Cauchy: quartiles at +-1
  CHECK(student_t_quantile(0.95, 1000000) == Approx(1.95996635682).epsilon(1e-8));  // nearly normal
  CHECK_THROWS_AS(student_t_quantile(0.95, 0), error);
  CHECK_THROWS_AS(student_t_quantile(1.0, 3), error);
}

TEST_CASE("the summary of three seeds is worked by hand") {
  const sample_summary s = summarize(std::vector<double>{1.0, 2.0, 6.0});
  CHECK(s.count == 3);
  CHECK(s.mean == Approx(3.0));
  CHECK(s.standard_deviation == Approx(std::sqrt(7.0)));
  CHECK(s.standard_error == Approx(std::sqrt(7.0 / 3.0)));
  CHECK(s.upper == Approx(3.0 + 4.3026527297 * std::sqrt(7.0 / 3.0)));
  CHECK(s.lower == Approx(3.0 - 4.3026527297 * std::sqrt(7.0 / 3.0)));
}

TEST_CASE("equal values have deviation 0, one value has an unbounded interval, none and NaN are refused") {
  const sample_summary equal = summarize(std::vector<double>{0.1, 0.1, 0.1});
  CHECK(equal.mean == 0.1);
  CHECK(equal.standard_deviation == 0.0);
  CHECK(equal.lower == 0.1);
  CHECK(equal.upper == 0.1);

  const sample_summary one = summarize(std::vector<double>{4.5});
  CHECK(one.mean == 4.5);
  CHECK(std::isnan(one.standard_deviation));
  CHECK(std::isinf(one.lower));
  CHECK(std::isinf(one.upper));

  CHECK(message_of([] { summarize(std::vector<double>{}); }) == "summarize: no values, expected at least 1");
  CHECK(message_of([] {
          summarize(std::vector<double>{1.0, INFINITY});
        }) == "summarize: value 1 is inf, not a finite number");
}
