#include <planlm/objectives/policy_trajectory_balance.hpp>

#include "sentences.hpp"

using namespace objectives_test;

namespace {
template <class G = squared>
auto balance(const G& g = {}) {
  return [g](context<B>& cx, const policy_terms<B>& z, view<const double, 1> flow) { return policy_trajectory_balance<G>{g}(cx, z, flow); };
}
const auto variance = [](context<B>& cx, const policy_terms<B>& z, view<const double, 1>) { return policy_log_partition_variance{}(cx, z); };
}  // namespace

TEST_CASE("trajectory balance of a policy squares log Z plus log q minus log R of whole sentences") {
  policy_batch b = published_sentences();
  b.flow = {-2};
  const policy_outcome o = evaluate(b, balance());
  // u_n = 1.4, 3.9, 2.6
  CHECK(std::abs(o.total - (0.36 + 3.61 + 0.36) / 3) < 1e-13);
  CHECK(gap(o.each, {0.36, 3.61, 0.36}) < 1e-13);
  CHECK(gap(o.dtaken, {-0.4, -0.4, -0.4, -0.4, 3.8 / 3, 0, 0, 0, 0.4, 0.4, 0.4, 0}) < 1e-13);
  CHECK(gap(o.dstop, {0, 0, 0, 0, -0.4, 0, 3.8 / 3, 0, 0, 0, 0, 0, 0, 0.4, 0}) < 1e-13);
  CHECK(std::abs(o.dflow[0] - 3.8 / 3) < 1e-13);
}

TEST_CASE("trajectory balance of a policy exceeds its log-partition variance by the square of what log Z is off by") {
  policy_batch b = published_sentences();
  b.flow = {-2};
  const double mean = (1.4 + 3.9 + 2.6) / 3;
  CHECK(std::abs(evaluate(b, balance()).total - evaluate(b, variance).total - (mean - 2) * (mean - 2)) < 1e-13);
}

TEST_CASE("losses of whole rows have the gradients of their values, read no padding, and leave forbidden rows and certain stops alone") {
  for (const index_t shortest : {0, 2}) {
    CAPTURE(shortest);
    const policy_batch b = policy_batch::random({4, 0, 3, 1, 5, 2, 2}, 6, 500, shortest, 5);
    CHECK(gradient_gap(b, balance()) < 1e-7);
    CHECK(gradient_gap(b, balance(shifted_cosh{})) < 1e-7);
    CHECK(gradient_gap(b, balance(linex{0.5})) < 1e-7);
    CHECK(gradient_gap(b, variance) < 1e-7);
    for (const policy_outcome& o : {evaluate(b, balance()), evaluate(b, variance)}) {
      CHECK(o.dstop[4 * 6 + 5] == 0);
      CHECK(o.dtaken[4 * 5 + 4] != 0);
      if (shortest > 0) CHECK((o.each[1] == 0 && o.each[3] == 0 && o.dtaken[3 * 5] == 0));
    }
  }
}

TEST_CASE("a row with an action that could not be taken makes a loss that is not finite, one that leaves it out does not") {
  policy_batch b = policy_batch::random({3, 2, 4}, 5, 505);
  b.group = {0, 0, 0}, b.groups = 1, b.flow = {0.5};
  b.taken[4] = -std::numeric_limits<double>::infinity();
  CHECK_FALSE(std::isfinite(evaluate(b, balance()).total));
  CHECK_FALSE(std::isfinite(evaluate(b, variance).total));
  b.length[1] = 0, b.shortest = 1, b.longest = 5;  // too short to be an object
  CHECK(std::isfinite(evaluate(b, balance()).total));
  CHECK(std::isfinite(evaluate(b, variance).total));
}

TEST_CASE("a prompt with one row has no variance, and rows that all stop at once have their stops for objects") {
  policy_batch b = policy_batch::random({3, 2, 1}, 4, 510);
  b.group = {0, 1, 0};
  CHECK(evaluate(b, variance).each[1] == 0);
  CHECK(evaluate(b, variance).dtaken[3] == 0);
  policy_batch stops = policy_batch::random({0, 0}, 1, 520);
  stops.group = {0, 0}, stops.groups = 1, stops.flow = {0};
  stops.stop = {-1, -2}, stops.reward = {-4, -3};
  const policy_outcome o = evaluate(stops, variance);  // u = 3 and 1
  CHECK(std::abs(o.total - 1) < 1e-15);
  CHECK(gap(o.dstop, {1, -1}) < 1e-15);
  CHECK(std::abs(evaluate(stops, balance()).total - 5) < 1e-14);
}
