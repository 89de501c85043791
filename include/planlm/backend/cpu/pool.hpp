/// The threads of a CPU queue.
#pragma once
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>
#include <planlm/core/config.hpp>

namespace planlm::cpu_detail {

/// Runs `task(i)` for i in [0, count) on the calling thread and `threads - 1` others. Which thread runs a task never changes a result,
/// because no two tasks write the same place.
class thread_pool {
 public:
  explicit thread_pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& w : workers_) w.join();
  }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// `task(i, member)`: member in [0, size()) tells the thread's private scratch memory.
  template <class Task>
  void run(index_t count, const Task& task) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (index_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    call_ = [](const void* t, index_t i, int member) { (*static_cast<const Task*>(t))(i, member); };
    task_ = &task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    drain(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) pause(spins);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  static void pause(int spins) {
    if (spins < 4096) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
  void drain(int member) {
    try {
      for (;;) {
        const index_t i = next_.fetch_add(1, std::memory_order_relaxed);
        if (i >= count_) return;
        call_(task_, i, member);
      }
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_.store(count_, std::memory_order_relaxed);
    }
  }
  void work(int member) {
    unsigned seen = 0;
    for (;;) {
      // A step is a stream of short tasks: spin for some microseconds before going to sleep.
      for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < 4096; ++spins) pause(spins);
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load()) return;
      drain(member);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<unsigned> generation_{0};
  std::atomic<index_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  index_t count_ = 0;
  void (*call_)(const void*, index_t, int) = nullptr;
  const void* task_ = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace planlm::cpu_detail
