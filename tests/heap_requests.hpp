/// How often a piece of a test asks the heap for memory. Counts in a program of which one file includes
/// counted_heap.hpp.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace planlm::testing {

inline std::atomic<bool> counting{false};
inline std::atomic<int> allocations{0};

[[gnu::noinline]] inline void* counted(std::size_t bytes, std::size_t alignment) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = nullptr;
  if (alignment <= alignof(std::max_align_t))
    p = std::malloc(bytes ? bytes : 1);
  else
    p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!p) throw std::bad_alloc{};
  return p;
}

[[gnu::noinline]] inline void release(void* p) { std::free(p); }

/// How often f() asked the heap for memory.
template <class F>
int heap_requests(const F& f) {
  allocations = 0;
  counting = true;
  f();
  counting = false;
  return allocations;
}

}  // namespace planlm::testing
