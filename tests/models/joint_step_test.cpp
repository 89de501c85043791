// A whole joint training step: the same bits on any number of threads, and no heap allocation once it has run.
#include <vector>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>

#include "../catch.hpp"
#include "../counted_heap.hpp"
#include "joint.hpp"

using namespace planlm;

namespace {

/// A batch long enough that every operation is cut between threads: 173 rows in six chunks, 20 sentences, 301 tokens.
struct long_batch {
  testing::packed chunks{37, 37, 40, 1, 29, 29};
  testing::packed contexts{1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8};
  std::vector<int> tokens, targets, sentence;
  static constexpr index_t vocabulary = 301, sentences = 20;
  long_batch() {
    const philox random{8};
    for (std::uint32_t t = 0; t < 173; ++t) {
      tokens.push_back(static_cast<int>(random.below(301, t, 0)));
      targets.push_back(static_cast<int>(random.below(301, t, 1)));
      sentence.push_back(static_cast<int>(t * 20 / 173));
    }
  }
};

struct run_record {
  std::vector<float> weights, planner_weights, losses;
  std::vector<int> heap, arena;  // allocations of each step
};

/// Five joint steps: planner, language model, loss, both pullbacks, clipping and AdamW.
template <class Model, class Mix>
run_record five_steps(int threads, Mix mix) {
  using B = cpu<float>;
  const long_batch batch;
  const index_t labels = 33, label_width = 24;
  const Model model({long_batch::vocabulary, 40, 48, 4, 3}, labels, label_width, 1);
  const planner<B> plan{label_width, labels, 2, 50, 1};
  context<B> cx{typename B::queue(threads)};
  cx.random = philox{11};
  parameters<Model> theta(cx, model, philox{1});
  parameters<planner<B>> phi(cx, plan, philox{2});
  adamw<B> of_model(cx, theta.flat_weights().size(), {.weight_decay = 0.01}, decay_of_matrices(theta.slots()));
  adamw<B> of_planner(cx, phi.flat_weights().size());
  const std::vector<float> z = testing::normal_values<float>(batch.contexts.rows() * label_width, 3);
  const auto indices_of = [](const std::vector<int>& v) { return indices<B>(v.data(), v.size()); };
  const planned_rows<B> rows{indices_of(batch.tokens), indices_of(batch.targets), indices_of(batch.sentence),
                             batch.chunks.view<B>(), long_batch::sentences};

  run_record record;
  record.losses.reserve(5), record.heap.reserve(5), record.arena.reserve(5);
  std::vector<float> loss(1);
  for (std::uint32_t step = 0; step < 5; ++step) {
    const auto arena_before = static_cast<int>(cx.memory().allocations());
    testing::allocations = 0;
    testing::counting = true;
    {
      auto scope = cx.scope();
      cx.random.step = step;
      auto [s, planner_pullback] = plan(cx, phi.weights, const_tensor<B>(z.data(), batch.contexts.rows(), label_width),
                                        batch.contexts.view<B>());
      auto [h, pullback] = model(cx, theta.weights, rows, const_tensor<B>(s), mix);
      const auto token_loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.lm.token.table),
                                                        rows.targets, const_tensor<B, 1>{}, 1.f / 173, theta.grads.lm.token.table);
      const const_tensor<B> dz = pullback(token_loss.dhidden, theta.grads);
      planner_pullback(dz, phi.grads);
      const auto clip = clip_global_norm(cx, 0.5, theta.flat_grads(), phi.flat_grads());
      of_model.step(cx, theta.flat_weights(), theta.flat_grads(), 1e-2, clip.factor);
      of_planner.step(cx, phi.flat_weights(), phi.flat_grads(), 1e-2, clip.factor);
      B::download(cx.queue(), loss.data(), token_loss.total.data, sizeof(float));
      B::synchronize(cx.queue());
    }
    testing::counting = false;
    record.heap.push_back(testing::allocations);
    record.arena.push_back(static_cast<int>(cx.memory().allocations()) - arena_before);
    record.losses.push_back(loss[0]);
  }
  record.weights = cx.read(theta.flat_weights());
  record.planner_weights = cx.read(phi.flat_weights());
  return record;
}

using model_type = planner_lm<cpu<float>>;
using other_model = planner_lm<cpu<float>, at_feed_forward_input, label_adapter<cpu<float>, zero_gate<cpu<float>>>, no_positions<cpu<float>>, rotary>;

template <class Model, class Mix>
void check_same_bits(Mix mix) {
  const run_record once = five_steps<Model>(1, mix), again = five_steps<Model>(1, mix), two = five_steps<Model>(2, mix);
  CHECK(once.losses[4] < once.losses[0]);
  for (const run_record& other : {again, two}) {
    CHECK(testing::same_bits(once.losses, other.losses));
    CHECK(testing::same_bits(once.weights, other.weights));
    CHECK(testing::same_bits(once.planner_weights, other.planner_weights));
  }
  const run_record three = five_steps<Model>(3, mix);
  CHECK(testing::same_bits(once.weights, three.weights));
}
template <class Model, class Mix>
void check_no_allocation(Mix mix) {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    const run_record run = five_steps<Model>(threads, mix);
    CHECK(run.heap[0] > 0);  // the counter counts
    CHECK(std::vector<int>(run.heap.begin() + 2, run.heap.end()) == std::vector<int>{0, 0, 0});
    CHECK(std::vector<int>(run.arena.begin() + 2, run.arena.end()) == std::vector<int>{0, 0, 0});
  }
}

}  // namespace

TEST_CASE("five joint steps give the same bits in two runs and on one, two and three threads") {
  check_same_bits<model_type>(mixture{});
  check_same_bits<model_type>(gumbel_softmax{});
  check_same_bits<other_model>(straight_through{});
}

TEST_CASE("from its third step on a joint training step allocates nothing, neither on the heap nor in the arena") {
  check_no_allocation<model_type>(mixture{});
  check_no_allocation<model_type>(top_k{});
  check_no_allocation<other_model>(gumbel_softmax{});
}
