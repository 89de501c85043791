// A step under each policy of fine-tuning allocates nothing once it has run.
#include <optional>
#include <vector>

#include <planlm/models/transformer_lm.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/low_rank.hpp>

#include "../catch.hpp"
#include "../counted_heap.hpp"
#include "../layers/checks.hpp"

using namespace planlm;

namespace {

std::vector<int> requests_per_step(tuning_policy how, int threads) {
  using B = cpu<float>;
  const transformer_lm<B> model{{11, 8, 12, 2, 2}};
  const std::vector<int> tokens{3, 9, 0, 10, 4, 4, 7, 1};
  const testing::packed rows{5, 3};
  const auto dh = testing::normal_values<float>(8 * 12, 1);
  context<B> cx{B::queue(threads)};
  const parameters base(cx, model, philox{1});
  tuned_weights lm{cx, model, base, how, philox{2}};
  std::optional<adamw<B>> optimiser;
  if (lm.trains()) optimiser.emplace(cx, lm.flat_weights().size(), adamw_options{});
  std::vector<int> requests;
  for (int step = 0; step < 6; ++step)
    requests.push_back(testing::heap_requests([&] {
      auto scope = cx.scope();
      auto [h, pullback] = model(cx, lm.weights(), {tokens.data(), tokens.size()}, rows.view<B>());
      if (!lm.trains()) return;
      pullback(const_tensor<B>(dh.data(), 8, 12), lm.gradients());
      lm.pull(cx);
      optimiser->step(cx, lm.flat_weights(), lm.flat_grads(), 1e-3);
      lm.merge(cx);
    }));
  return requests;
}

}  // namespace

TEST_CASE("after its first step a model under any policy of fine-tuning allocates nothing") {
  for (const int threads : {1, 2})
    for (const tuning_policy& how :
         {tuning_policy{frozen{}}, tuning_policy{low_rank_tuning{2, 8}}, tuning_policy{full_tuning{}}}) {
      CAPTURE(threads, how.index());
      const std::vector<int> requests = requests_per_step(how, threads);
      CHECK(requests[0] > 0);  // the counter works
      CHECK(std::vector<int>(requests.begin() + 1, requests.end()) == std::vector<int>(5));
    }
}
