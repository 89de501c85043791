// Counts every heap allocation of this program while asked to: a training step in steady state makes none.
#include <atomic>
#include <cstdlib>
#include <new>

#include <planlm/layers/compose.hpp>
#include <planlm/layers/transformer_block.hpp>

#include "../catch.hpp"
#include "checks.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<int> allocations{0};

[[gnu::noinline]] void* counted(std::size_t bytes, std::size_t alignment) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = nullptr;
  if (alignment <= alignof(std::max_align_t))
    p = std::malloc(bytes ? bytes : 1);
  else
    p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!p) throw std::bad_alloc{};
  return p;
}

[[gnu::noinline]] void release(void* p) { std::free(p); }

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, 1); }
void* operator new[](std::size_t bytes) { return counted(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t a) {
  return counted(bytes, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t bytes, std::align_val_t a) {
  return counted(bytes, static_cast<std::size_t>(a));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, 1); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, 1); }
void operator delete(void* p, const std::nothrow_t&) noexcept { release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { release(p); }
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete[](void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { release(p); }

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
    allocations = 0;
    counting = true;
    {
      auto scope = cx.scope();
      auto [y, pullback] =
          model(cx, theta.weights, const_tensor<C>(cx.upload(std::span<const T>(x), rows, 48)),
                ragged.template view<C>());
      pullback(const_tensor<C>(cx.upload(std::span<const T>(dy), rows, 48)), theta.grads);
    }
    counting = false;
    count = allocations;
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
