#include <planlm/objectives/policy_terms.hpp>

#include "sentences.hpp"

using namespace objectives_test;

TEST_CASE("log q minus log R at every prefix is the published u, fact 1") {
  const policy_batch b = published_sentences();
  context<B> cx;
  planlm::testing::poison(cx);
  CHECK(gap(cx.read(policy_residuals(cx, b.terms())), {5, 3, 2.8, 2.8, 1.4, 5.3, 3.9, 0, 0, 0, 4.8, 4.1, 3, 2.6, 0}) < 1e-14);
}

TEST_CASE("the log-probability of whole sentences is the published one, fact 14") {
  const policy_batch b = published_sentences();
  context<B> cx;
  planlm::testing::poison(cx);
  const auto& f = golden("F_modified_subtb_next_sentence").at("get_termination_vals");
  CHECK(gap(cx.read(object_log_probability(cx, b.terms())), {-4.7, -1.7, -2.6}) < 1e-14);
  CHECK(gap(cx.read(object_log_probability(cx, b.terms())), f.at("log_q_terminal").get<numbers>()) < 1e-14);
  CHECK(b.length == f.at("gen_len").get<std::vector<int>>());
}

TEST_CASE("prefixes that may not end have no residual, and a certain stop has log-probability 0") {
  policy_batch b = policy_batch::random({3, 1, 4}, 5, 1, 2, 4);
  context<B> cx;
  planlm::testing::poison(cx);
  const numbers u = cx.read(policy_residuals(cx, b.terms())), q = cx.read(object_log_probability(cx, b.terms()));
  CHECK((u[0] == 0 && u[1] == 0 && u[4] == 0 && u[5] == 0 && u[6] == 0));
  CHECK(std::abs(u[2] - (b.taken[0] + b.taken[1] + b.stop[2] - b.reward[2])) < 1e-14);
  CHECK(q[1] == 0);  // one action where two are the least
  CHECK(std::abs(q[2] - (b.taken[8] + b.taken[9] + b.taken[10] + b.taken[11])) < 1e-14);
  CHECK(std::abs(u[14] - (q[2] - b.reward[14])) < 1e-14);
}

TEST_CASE("terms whose shapes or lengths do not fit are told in one line") {
  policy_batch b = policy_batch::random({2, 1}, 3, 2);
  context<B> cx;
  b.shortest = 3, b.longest = 2;
  CHECK_THROWS_WITH(policy_residuals(cx, b.terms()), "policy_residuals: lengths from 3 to 2, expected 0 <= shortest <= longest");
  b.shortest = 0, b.longest = 2;
  b.reward.pop_back(), b.reward.pop_back();
  CHECK_THROWS_WITH(policy_residuals(cx, b.terms()), "policy_residuals: reward is (2, 2), expected (2, 3)");
}
