#include <planlm/training/schedule.hpp>

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

struct no_schedule {};
struct user_schedule {
  double operator()(index_t step) const { return step == 0 ? 0.25 : 0.75; }
};

}  // namespace

static_assert(Schedule<constant_rate> && Schedule<linear_decay> && Schedule<cosine_decay>);
static_assert(Schedule<warmup<cosine_decay>> && Schedule<warmup<>> && Schedule<warmup_stable_decay>);
static_assert(Schedule<user_schedule> && !Schedule<no_schedule> && !Schedule<int>);

TEST_CASE(
    "linear decay starts at 1, spends no step of the run at its final factor, and stays there afterwards") {
  const linear_decay to_zero(4);
  CHECK(to_zero(0) == 1.0);
  CHECK(to_zero(1) == 0.75);
  CHECK(to_zero(2) == 0.5);
  CHECK(to_zero(3) == 0.25);  // the last step of a run of four
  CHECK(to_zero(4) == 0.0);
  CHECK(to_zero(1000) == 0.0);

  const linear_decay to_half(4, 0.5);
  CHECK(to_half(0) == 1.0);
  CHECK(to_half(3) == 0.625);
  CHECK(to_half(4) == 0.5);
}

TEST_CASE("cosine decay passes through the hand-worked points") {
  const cosine_decay to_zero(4);
  CHECK(to_zero(0) == 1.0);
  CHECK(to_zero(1) == Approx(0.853553390593274));  // (1 + cos 45 degrees) / 2
  CHECK(to_zero(2) == Approx(0.5));
  CHECK(to_zero(3) == Approx(0.146446609406726));
  CHECK(to_zero(4) == 0.0);

  const cosine_decay to_tenth(2, 0.1);
  CHECK(to_tenth(0) == 1.0);
  CHECK(to_tenth(1) == Approx(0.55));
  CHECK(to_tenth(2) == 0.1);
}

TEST_CASE("warm-up rises in equal strides from above 0 to the start of the schedule it wraps") {
  const warmup rise(4, linear_decay(2));
  CHECK(rise(0) == Approx(0.2));
  CHECK(rise(1) == Approx(0.4));
  CHECK(rise(3) == Approx(0.8));
  CHECK(rise(4) == 1.0);  // the inner schedule's step 0
  CHECK(rise(5) == 0.5);
  CHECK(rise(6) == 0.0);

  const warmup around_users(1, user_schedule{});
  CHECK(around_users(0) == 0.125);
  CHECK(around_users(1) == 0.25);
  CHECK(around_users(2) == 0.75);
}

TEST_CASE("warm-up of 0 steps changes nothing") {
  const linear_decay alone(7, 0.2);
  const warmup wrapped(0, alone);
  for (index_t step = 0; step < 10; ++step) CHECK(wrapped(step) == alone(step));
}

TEST_CASE("warmup_stable_decay is a rise, a plateau and a linear decay, end to end") {
  const warmup_stable_decay schedule(1, 2, 2, 0.0);
  CHECK(schedule(0) == 0.5);
  CHECK(schedule(1) == 1.0);
  CHECK(schedule(2) == 1.0);
  CHECK(schedule(3) == 1.0);  // the decay's own step 0
  CHECK(schedule(4) == 0.5);
  CHECK(schedule(5) == 0.0);

  const warmup_stable_decay only_decay(0, 0, 4);
  for (index_t step = 0; step < 6; ++step) CHECK(only_decay(step) == linear_decay(4)(step));
}

TEST_CASE("every decay falls from 1 and stays between its final factor and 1") {
  const linear_decay linear(17, 0.05);
  const cosine_decay cosine(17, 0.05);
  const warmup_stable_decay stable(0, 5, 12, 0.05);
  for (index_t step = 0; step < 30; ++step) {
    CHECK(linear(step + 1) <= linear(step));
    CHECK(cosine(step + 1) <= cosine(step));
    CHECK(stable(step + 1) <= stable(step));
    for (const double factor : {linear(step), cosine(step), stable(step)}) {
      CHECK(factor >= 0.05);
      CHECK(factor <= 1.0);
    }
  }
  CHECK(constant_rate{}(0) == 1.0);
  CHECK(constant_rate{}(1000000) == 1.0);
}

TEST_CASE("a schedule refuses settings out of range with the number and the range") {
  CHECK(message_of([] { linear_decay(0); }) == "linear_decay: steps = 0, expected at least 1");
  CHECK(message_of([] { cosine_decay(-3); }) == "cosine_decay: steps = -3, expected at least 1");
  CHECK(message_of([] { linear_decay(3, 1.5); }) == "linear_decay: final_factor = 1.500000, expected 0 to 1");
  CHECK(message_of([] { cosine_decay(3, -0.5); }) ==
        "cosine_decay: final_factor = -0.500000, expected 0 to 1");
  CHECK(message_of([] { linear_decay(3, std::nan("")); }).find("final_factor = nan") != std::string::npos);
  CHECK(message_of([] { warmup<>(-1); }) == "warmup: steps = -1, expected at least 0");
  CHECK(message_of([] { warmup_stable_decay(0, -2, 5); }) ==
        "warmup_stable_decay: stable_steps = -2, expected at least 0");
  CHECK(message_of([] { warmup_stable_decay(0, 2, 0); }) ==
        "warmup_stable_decay: decay_steps = 0, expected at least 1");
  CHECK(message_of([] { constant_rate{}(-1); }) == "constant_rate: step = -1, expected at least 0");
  CHECK(message_of([] { warmup<>(3)(-1); }) == "warmup: step = -1, expected at least 0");
}

TEST_CASE("fact 28: the published warm-up rises from a rate of 0 at step 0, here over 20 steps to 1e-4") {
  const warmup_from_zero rise(20);
  CHECK(rise(0) == 0.0);
  CHECK(1e-4 * rise(1) == Approx(5e-6).epsilon(1e-15));
  CHECK(1e-4 * rise(10) == Approx(5e-5).epsilon(1e-15));
  CHECK(1e-4 * rise(20) == 1e-4);
  CHECK(rise(50) == 1.0);
}

TEST_CASE("golden K: the published warm-up over 100 steps, then a linear decay that ends at step 1000") {
  const warmup_from_zero rate(100, linear_decay(900));
  CHECK(rate(0) == 0.0);
  CHECK(rate(50) == 0.5);
  CHECK(rate(100) == 1.0);
  CHECK(rate(550) == 0.5);
  CHECK(rate(1000) == 0.0);
  CHECK_THROWS_AS(warmup_from_zero(-1), error);
  CHECK_THROWS_AS(rate(-1), error);
}
