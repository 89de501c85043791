// Counts every heap allocation of this program while asked to: a training step in steady state makes none.
#include <planlm/layers/compose.hpp>
#include <planlm/layers/transformer_block.hpp>

#include "../catch.hpp"
#include "../counted_heap.hpp"
#include "checks.hpp"

using namespace planlm;

namespace {

template <class T, class Model>
std::vector<int> allocations_per_step(const Model& model, int threads) {
  using C = cpu<T>;
  const testing::packed ragged{70, 1, 33};
  const index_t rows = ragged.rows();
  context<C> cx{typename C::queue(threads)};
  parameters theta(cx, model, philox{1});
  const std::vector<T> x = testing::normal_values<T>(rows * 48, 1),
                       dy = testing::normal_values<T>(rows * 48, 2);
  std::vector<int> counts(8);  // which thread takes which task differs from step to step
  for (int& count : counts) {
    testing::allocations = 0;
    testing::counting = true;
    {
      auto scope = cx.scope();
      auto [y, pullback] =
          model(cx, theta.weights, const_tensor<C>(cx.upload(std::span<const T>(x), rows, 48)),
                ragged.template view<C>());
      pullback(const_tensor<C>(cx.upload(std::span<const T>(dy), rows, 48)), theta.grads);
    }
    testing::counting = false;
    count = testing::allocations;
  }
  return counts;
}

}  // namespace

TEST_CASE("after its first step a stack of transformer blocks allocates nothing") {
  const auto check = [](const std::vector<int>& counts) {
    CHECK(counts[0] > 0);  // the counter works
    CHECK(std::vector<int>(counts.begin() + 1, counts.end()) == std::vector<int>(7));
  };
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    check(allocations_per_step<float>(stack{4, transformer_block<cpu<float>>(48, 4, true, 200)}, threads));
    check(allocations_per_step<double>(
        stack{4, transformer_block<cpu<double>, rms_norm<cpu<double>>, ops::silu, rotary>(48, 4, true, 200)},
        threads));
    check(allocations_per_step<float>(stack{4, recompute{transformer_block<cpu<float>>(48, 4, false, 200)}},
                                      threads));
  }
}
