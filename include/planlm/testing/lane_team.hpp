/// Row kernels as a warp runs them, on host threads: what a device backend relies on, tested where there is
/// no device.
///
/// N threads share each row: lane l takes i = l, l + N, l + 2N, ... of every loop. A reduction meets all
/// lanes and hands the same value to each, but orders nothing else, like a warp shuffle: what one lane wrote
/// to memory another may read only after sync(). The values of a reduction travel in relaxed atomics that
/// carry their own round number, so a thread sanitizer reports the kernel that forgot its sync.
#pragma once
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>
#include <planlm/backend/concept.hpp>

namespace planlm::testing {

/// One lane of a team of N; models `Team`. Made by run_lanes.
template <int N>
class lane_team {
  static_assert(N >= 1 && (N & (N - 1)) == 0,
                "planlm::lane_team: the number of lanes must be a power of two");

 public:
  /// What the lanes of one team share.
  struct meeting {
    // Two halves of a value, each under its round number; rounds alternate between two sets of slots.
    std::array<std::array<std::array<std::atomic<std::uint64_t>, 2>, N>, 2> slots{};
    std::atomic<int> arrived{0};
    std::atomic<std::uint32_t> syncs{0};
  };
  lane_team(meeting& shared, int lane) : shared_(&shared), lane_(lane) {}

  template <class F>
  void for_each(index_t n, F f) const {
    for (index_t i = lane_; i < n; i += N) f(i);
  }
  template <class T, class F>
  T sum(index_t n, F f) const {
    T own{};
    for (index_t i = lane_; i < n; i += N) own += f(i);
    std::array<T, N> lane = exchange(own);
    for (int width = N / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    return lane[0];
  }
  /// n >= 1.
  template <class T, class F>
  T max(index_t n, F f) const {
    T own{};
    for (index_t i = lane_; i < n; i += N) {
      const T v = f(i);
      if (i < N || v > own) own = v;
    }
    const std::array<T, N> lane = exchange(own);
    T best = lane[0];
    for (int l = 1; l < N && l < n; ++l) best = lane[l] > best ? lane[l] : best;
    return best;
  }
  bool leader() const { return lane_ == 0; }
  /// Everything that any lane did before is seen by every lane after.
  void sync() const {
    const std::uint32_t round = shared_->syncs.load(std::memory_order_acquire);
    if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == N) {
      shared_->arrived.store(0, std::memory_order_relaxed);
      shared_->syncs.fetch_add(1, std::memory_order_release);
      return;
    }
    while (shared_->syncs.load(std::memory_order_acquire) == round) std::this_thread::yield();
  }

 private:
  // Every lane's value. A slot is written again two rounds later, when all lanes are known to have read it.
  template <class T>
  std::array<T, N> exchange(T own) const {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "planlm::lane_team: reduces 4 or 8 bytes");
    using bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
    const std::uint64_t value = std::bit_cast<bits>(own), round = ++round_;
    auto& slots = shared_->slots[round % 2];
    for (std::size_t half = 0; half < 2; ++half)
      slots[static_cast<std::size_t>(lane_)][half].store(round << 32 | (value >> (32 * half) & 0xFFFFFFFFu),
                                                         std::memory_order_relaxed);
    std::array<T, N> all;
    for (std::size_t l = 0; l < N; ++l) {
      std::uint64_t joined = 0;
      for (std::size_t half = 0; half < 2; ++half) {
        std::uint64_t seen = slots[l][half].load(std::memory_order_relaxed);
        while (seen >> 32 != round) {
          std::this_thread::yield();
          seen = slots[l][half].load(std::memory_order_relaxed);
        }
        joined |= (seen & 0xFFFFFFFFu) << (32 * half);
      }
      all[l] = std::bit_cast<T>(static_cast<bits>(joined));
    }
    return all;
  }

  meeting* shared_;
  int lane_;
  mutable std::uint32_t round_ = 0;
};
static_assert(Team<lane_team<4>>);

/// kernel(team, r) for r in [0, rows) by one team of N lanes, with no meeting between rows. The kernel must
/// not throw.
template <int N, class Kernel>
void run_lanes(index_t rows, const Kernel& kernel) {
  typename lane_team<N>::meeting shared;
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < N; ++lane)
    lanes.emplace_back([&shared, &kernel, rows, lane] {
      const Kernel own = kernel;
      const lane_team<N> team(shared, lane);
      for (index_t r = 0; r < rows; ++r) own(team, r);
    });
  for (std::thread& lane : lanes) lane.join();
}

}  // namespace planlm::testing
