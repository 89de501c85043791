/// Ctrl-C as a question the training loop asks: finish the step, save, stop.
///
///   interrupt_guard interrupt;
///   while (step < steps && !interrupt.requested()) { ... }
///
/// The first SIGINT or SIGTERM sets a flag; the second ends the program at once, as if there were no guard. A
/// signal that was ignored when the guard came (a job started with nohup) stays ignored. The destructor puts
/// the old handlers back.
///
/// State: a signal handler is a plain function and receives nothing but the number of the signal, so the flag
/// must have static storage. It is the only such object here, lock-free, and private to this header.
///
/// Errors: planlm::error for a second guard while one is alive.
#pragma once
#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <planlm/core/error.hpp>

namespace planlm {

class interrupt_guard {
 public:
  interrupt_guard() {
    if (alive_.exchange(true)) throw error("interrupt_guard: one is alive already, expected one at a time");
    received_ = 0;
    for (std::size_t i = 0; i < signals.size(); ++i) {
      struct sigaction action = {};
      action.sa_handler = handle;
      action.sa_flags = SA_RESTART;  // a write in progress goes on
      ::sigemptyset(&action.sa_mask);
      ::sigaction(signals[i], nullptr, &previous_[i]);
      if (previous_[i].sa_handler == SIG_IGN) continue;
      ::sigaction(signals[i], &action, nullptr);
    }
  }
  ~interrupt_guard() {
    for (std::size_t i = 0; i < signals.size(); ++i) ::sigaction(signals[i], &previous_[i], nullptr);
    alive_ = false;
  }
  interrupt_guard(const interrupt_guard&) = delete;
  interrupt_guard& operator=(const interrupt_guard&) = delete;

  /// Whether a signal has come since the guard was made.
  bool requested() const { return received_ != 0; }
  /// Its number, 0 when none has come. A program stopped by it conventionally exits with 128 + signal().
  int signal() const { return received_; }

 private:
  static constexpr std::array<int, 2> signals = {SIGINT, SIGTERM};

  static void handle(int number) {
    int none = 0;
    if (received_.compare_exchange_strong(none, number)) return;
    std::signal(number, SIG_DFL);
    std::raise(number);  // delivered as this handler returns
  }

  static inline std::atomic<int> received_ = 0;
  static inline std::atomic<bool> alive_ = false;
  static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

  std::array<struct sigaction, 2> previous_ = {};
};

}  // namespace planlm
