/// The queue of work, the arena of activations and the random numbers of one training or inference process.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <planlm/backend/concept.hpp>
#include <planlm/core/arena.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>

namespace planlm {

/// First argument of every layer. Owns the backend's queue (threads, stream, handles) and the memory of one step.
template <Backend B>
class context {
 public:
  using backend = B;
  using real = typename B::real;
  using space = typename B::space;

  /// `limit`: bytes of activations, and of temporaries, that may be held; exceeding it is a memory_error.
  explicit context(typename B::queue queue = typename B::queue{}, std::size_t limit = ~std::size_t{0})
      : queue_(std::move(queue)), values_(limit), scratch_(limit) {}
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  typename B::queue& queue() { return queue_; }

  /// Uninitialised values of the backend's number type: `make(rows, cols)`.
  template <class... E>
  auto make(E... extents) {
    return make_of<real>(extents...);
  }
  template <class T, class... E>
  view<T, sizeof...(E), space> make_of(E... extents) {
    view<T, sizeof...(E), space> v(static_cast<T*>(nullptr), extents...);
    v.data = static_cast<T*>(target_->bump(static_cast<std::size_t>(v.size()) * sizeof(T)));
    return v;
  }
  /// The same, all zero.
  template <class... E>
  auto make_zero(E... extents) {
    auto v = make_of<real>(extents...);
    B::zero(queue_, v.data, static_cast<std::size_t>(v.size()) * sizeof(real));
    return v;
  }
  /// Room in host memory for `count` pullbacks whose life ends with the scope.
  template <class T>
  T* make_pullbacks(index_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "planlm::context: what lives in the arena is never destroyed");
    return static_cast<T*>(pullbacks_.bump(static_cast<std::size_t>(count) * sizeof(T)));
  }
  /// A copy of host data in the arena.
  template <class T, class... E>
  view<T, sizeof...(E), space> upload(std::span<const T> host, E... extents) {
    auto v = make_of<T>(extents...);
    if (static_cast<std::size_t>(v.size()) != host.size())
      throw shape_error("context::upload: " + std::to_string(host.size()) + " values do not fill the " +
                        std::to_string(v.size()) + " of the extents given");
    B::upload(queue_, v.data, host.data(), host.size_bytes());
    return v;
  }
  template <class T>
  view<T, 1, space> upload(const std::vector<T>& host) {
    return upload(std::span<const T>(host), static_cast<index_t>(host.size()));
  }
  /// Waits for the device and returns the values. Only functions named read or download wait.
  template <class T, int R>
  std::vector<std::remove_const_t<T>> read(view<T, R, space> v) {
    std::vector<std::remove_const_t<T>> host(static_cast<std::size_t>(v.size()));
    B::download(queue_, host.data(), v.data, host.size() * sizeof(T));
    B::synchronize(queue_);
    return host;
  }
  /// Waits for the device and returns the first value of `v`.
  template <class T>
  std::remove_const_t<T> read_one(view<T, 1, space> v) {
    std::remove_const_t<T> host{};
    B::download(queue_, &host, v.data, sizeof(T));
    B::synchronize(queue_);
    return host;
  }

  /// Everything made after this object ends with it, except what is kept.
  class scope_guard {
   public:
    explicit scope_guard(context& cx) : cx_(cx), target_(cx.target_), values_(target_->mark()), pullbacks_(cx.pullbacks_.mark()) {}
    scope_guard(const scope_guard&) = delete;
    scope_guard& operator=(const scope_guard&) = delete;
    ~scope_guard() {
      target_->rewind(values_);
      cx_.pullbacks_.rewind(pullbacks_);
    }
    /// Nothing is released after all: what was made belongs to the surrounding scope.
    void keep_all() {
      values_ = target_->mark();
      pullbacks_ = cx_.pullbacks_.mark();
    }
    /// Moves `r` to the start of the scope and releases all else made in it: at most two copies on the device.
    template <class T, int R>
    view<std::remove_const_t<T>, R, space> keep(view<T, R, space> r) {
      using value = std::remove_const_t<T>;
      const std::size_t bytes = static_cast<std::size_t>(r.size()) * sizeof(T);
      const void* from = r.data;
      const std::size_t begin = target_->address(values_, bytes);
      const auto source = reinterpret_cast<std::size_t>(r.data);
      if (begin != source && source < begin + bytes && begin < source + bytes) {  // overlapping: go through free space
        void* free_space = target_->bump(bytes);
        B::copy(cx_.queue_, free_space, from, bytes);
        from = free_space;
      }
      target_->rewind_in_place(values_);
      cx_.pullbacks_.rewind(pullbacks_);
      view<value, R, space> kept;
      for (int axis = 0; axis < R; ++axis) kept.extents[axis] = r.extents[axis];
      kept.data = static_cast<value*>(target_->bump(bytes));
      if (kept.data != from) B::copy(cx_.queue_, kept.data, from, bytes);
      values_ = target_->mark();
      return kept;
    }

   private:
    context& cx_;
    arena<B>* target_;  // where values are made while this scope is the innermost
    typename arena<B>::position values_;
    arena<host_allocator>::position pullbacks_;
  };
  [[nodiscard]] scope_guard scope() { return scope_guard{*this}; }

  /// Temporaries that must not lie between values that are kept: what `run` makes is gone when this object is.
  class scratch_guard {
   public:
    explicit scratch_guard(context& cx) : cx_(cx), mark_(cx.scratch_.mark()) {}
    scratch_guard(const scratch_guard&) = delete;
    scratch_guard& operator=(const scratch_guard&) = delete;
    ~scratch_guard() { cx_.scratch_.rewind(mark_); }
    /// Everything that f() makes in the context comes from scratch memory.
    /// Not within another run: its values would lie under those of the inner one.
    template <class F>
    auto run(const F& f) {
      if (cx_.target_ == &cx_.scratch_) throw error("context::scratch: run within run; make the inner values in the outer one");
      const redirection back{cx_, std::exchange(cx_.target_, &cx_.scratch_)};
      return f();
    }

   private:
    struct redirection {
      context& cx;
      arena<B>* before;
      ~redirection() { cx.target_ = before; }
    };
    context& cx_;
    typename arena<B>::position mark_;
  };
  [[nodiscard]] scratch_guard scratch() { return scratch_guard{*this}; }

  /// Memory of activations.
  arena<B>& memory() { return values_; }
  /// Memory of temporaries between them.
  arena<B>& scratch_memory() { return scratch_; }

  /// Randomness of dropout, Gumbel noise and sampling; the training loop sets its step.
  philox random{};
  /// Whether dropout drops and Gumbel noise is added.
  bool training = true;

 private:
  typename B::queue queue_;
  arena<B> values_, scratch_;
  arena<host_allocator> pullbacks_;
  arena<B>* target_ = &values_;
};

}  // namespace planlm
