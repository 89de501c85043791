/// Aligned host memory.
///
/// Large blocks come from the system and go back to it: an allocator that keeps freed blocks for later would hold weights, activations or a step's
/// temporaries twice. Where the system offers pages of 2 MiB they lie in those, since a product that walks down the columns of a matrix meets
/// another page with every row. What is never touched takes no memory. A build that checks addresses asks its own allocator for all of it.
#pragma once
#include <cstddef>
#include <new>
#if defined(__SANITIZE_ADDRESS__)
#define PLANLM_CHECKS_ADDRESSES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PLANLM_CHECKS_ADDRESSES 1
#endif
#endif
#if defined(__linux__) && !defined(PLANLM_CHECKS_ADDRESSES)
#define PLANLM_MAPS_MEMORY 1
#include <sys/mman.h>
#include <cstdint>
#else
#define PLANLM_MAPS_MEMORY 0
#endif

namespace planlm {

struct host_allocator {
  static constexpr std::size_t alignment = 256, large = std::size_t{4} << 20;
  static constexpr bool maps = PLANLM_MAPS_MEMORY;  // whether large blocks are the system's

  /// Errors: std::bad_alloc.
  static void* allocate(std::size_t bytes) {
#if PLANLM_MAPS_MEMORY
    if (bytes >= large) return map(bytes);
#endif
    return ::operator new(bytes, std::align_val_t{alignment});
  }
  /// `bytes` as they were asked for.
  static void deallocate(void* p, [[maybe_unused]] std::size_t bytes) {
#if PLANLM_MAPS_MEMORY
    if (bytes >= large) {
      ::munmap(p, rounded(bytes));
      return;
    }
#endif
    ::operator delete(p, std::align_val_t{alignment});
  }

 private:
#if PLANLM_MAPS_MEMORY
  // `unit` is a multiple of every system's small page: what is left of the last large page takes small ones.
  static constexpr std::size_t page = std::size_t{2} << 20, unit = std::size_t{64} << 10;
  static std::size_t rounded(std::size_t bytes) { return (bytes + unit - 1) / unit * unit; }
  static void* map(std::size_t bytes) {
    const std::size_t size = rounded(bytes);
    if (size < bytes || size + page < size) throw std::bad_alloc{};
    void* const all = ::mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc{};
    const std::size_t before = (page - reinterpret_cast<std::uintptr_t>(all) % page) % page;
    std::byte* const p = static_cast<std::byte*>(all) + before;
    if (before > 0) ::munmap(all, before);
    if (before < page) ::munmap(p + size, page - before);
    ::madvise(p, size / page * page, MADV_HUGEPAGE);  // a wish
    return p;
  }
#endif
};

}  // namespace planlm
