/// Memory of a backend with an owner.
#pragma once
#include <cstddef>
#include <utility>
#include <planlm/backend/context.hpp>

namespace planlm {

/// `size` values of T in the backend's memory, zero at first. Movable, not copyable.
template <Backend B, class T = typename B::real>
class buffer {
 public:
  buffer() = default;
  buffer(context<B>& cx, index_t size) : size_(size) {
    if (size == 0) return;
    data_ = static_cast<T*>(B::allocate(bytes()));
    B::zero(cx.queue(), data_, bytes());
  }
  buffer(buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~buffer() {
    if (data_) B::deallocate(data_, bytes());
  }
  index_t size() const { return size_; }
  view<T, 1, typename B::space> values() const { return {data_, size_}; }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }
  T* data_ = nullptr;
  index_t size_ = 0;
};

}  // namespace planlm
