/// A bump allocator with marks and rewinds.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/core/host_memory.hpp>

namespace planlm {

/// Grows block by block while the first step runs; when it is next empty it becomes one block of the size that step needed, and from then
/// on nothing is allocated. `Allocator` has static `allocate(bytes)` and `deallocate(pointer, bytes)`.
/// Errors: memory_error when the limit would be exceeded, with the sizes and the remedy.
template <class Allocator>
class arena {
 public:
  struct position {
    std::size_t block = 0, offset = 0;
  };

  explicit arena(std::size_t limit = ~std::size_t{0}) : limit_(limit) {}
  arena(const arena&) = delete;
  arena& operator=(const arena&) = delete;
  ~arena() { release(); }

  /// Uninitialised bytes, aligned to 256.
  void* bump(std::size_t bytes) {
    bytes = rounded(bytes);
    while (at_.block < blocks_.size() && at_.offset + bytes > blocks_[at_.block].bytes) {
      blocks_[at_.block].used = at_.offset;
      at_ = {at_.block + 1, 0};
    }
    if (at_.block == blocks_.size()) grow(bytes);
    void* p = blocks_[at_.block].data + at_.offset;
    at_.offset += bytes;
    peak_ = std::max(peak_, used_bytes());
    return p;
  }
  position mark() const { return at_; }
  void rewind(position p) {
    at_ = p;
    if (at_.block == 0 && at_.offset == 0 && blocks_.size() > 1) unite();
  }
  /// The same, but all blocks stay where they are: until the next bump, what was made after `p` can still be read.
  void rewind_in_place(position p) { at_ = p; }
  /// The address that bump(bytes) would return after rewinding in place to `p`; 0 if it would ask for memory.
  std::size_t address(position p, std::size_t bytes) const {
    bytes = rounded(bytes);
    while (p.block < blocks_.size() && p.offset + bytes > blocks_[p.block].bytes) p = {p.block + 1, 0};
    return p.block < blocks_.size() ? reinterpret_cast<std::size_t>(blocks_[p.block].data) + p.offset : 0;
  }

  /// Without what was left free at the ends of blocks.
  std::size_t used_bytes() const {
    std::size_t sum = at_.offset;
    for (std::size_t i = 0; i < at_.block; ++i) sum += blocks_[i].used;
    return sum;
  }
  std::size_t peak_bytes() const { return peak_; }
  void reset_peak() { peak_ = used_bytes(); }
  /// How often memory was asked from the system.
  std::size_t allocations() const { return allocations_; }

 private:
  struct block {
    std::byte* data;
    std::size_t bytes, used;  // used: when the next block was begun
  };
  static std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }
  void add_block(std::size_t bytes) {
    blocks_.reserve(blocks_.size() + 1);
    blocks_.push_back({static_cast<std::byte*>(Allocator::allocate(bytes)), bytes, 0});
    ++allocations_;
  }
  void grow(std::size_t bytes) {
    std::size_t held = 0;
    for (const block& b : blocks_) held += b.bytes;
    std::size_t size = std::max({bytes, held / 2, std::size_t{1} << 20});
    if (held + size > limit_) size = bytes;
    if (held + size > limit_)
      throw memory_error("activation arena: " + std::to_string(bytes) + " bytes more are needed, " + std::to_string(held) +
                         " are held and the limit is " + std::to_string(limit_) +
                         "; raise the limit, use a smaller batch or wrap blocks in recompute");
    add_block(size);
    at_.offset = 0;
  }
  void release() {
    for (const block& b : blocks_) Allocator::deallocate(b.data, b.bytes);
    blocks_.clear();
  }
  // Called when nothing is in use, and at the end of a scope, where nothing may be thrown: memory that cannot be had in one piece is asked for
  // again, piece by piece, by the next bump, which reports.
  void unite() noexcept {
    release();
    try {
      add_block(rounded(peak_));
    } catch (...) {
    }
  }

  std::size_t limit_;
  std::vector<block> blocks_;
  position at_;
  std::size_t peak_ = 0, allocations_ = 0;
};

}  // namespace planlm
