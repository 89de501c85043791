#include <planlm/core/arena.hpp>

#include <cstdint>
#include <new>
#include <string>

#include "../catch.hpp"

using namespace planlm;

namespace {

constexpr std::size_t megabyte = std::size_t{1} << 20;

/// Counts what is held, so that a leak or a second release shows.
struct counting_allocator {
  static inline std::size_t held = 0;
  static void* allocate(std::size_t bytes) {
    held += bytes;
    return host_allocator::allocate(bytes);
  }
  static void deallocate(void* p, std::size_t bytes) {
    held -= bytes;
    host_allocator::deallocate(p, bytes);
  }
};

/// Gives blocks of a megabyte, never a larger one.
struct crumbling_allocator {
  static void* allocate(std::size_t bytes) {
    if (bytes > megabyte) throw std::bad_alloc{};
    return host_allocator::allocate(bytes);
  }
  static void deallocate(void* p, std::size_t bytes) { host_allocator::deallocate(p, bytes); }
};

}  // namespace

TEST_CASE("an arena hands out aligned, disjoint memory and takes it back by mark") {
  arena<host_allocator> memory;
  auto* a = static_cast<char*>(memory.bump(1));
  auto* b = static_cast<char*>(memory.bump(300));
  CHECK(reinterpret_cast<std::uintptr_t>(a) % 256 == 0);
  CHECK(b == a + 256);
  const auto mark = memory.mark();
  auto* c = static_cast<char*>(memory.bump(10));
  CHECK(c == b + 512);
  CHECK(memory.used_bytes() == 1024);
  memory.rewind(mark);
  CHECK(memory.used_bytes() == 768);
  CHECK(memory.bump(10) == c);
  CHECK(memory.peak_bytes() == 1024);
}

TEST_CASE("an arena grows by blocks, becomes one block when it is next empty, and then allocates no more") {
  {
    arena<counting_allocator> memory;
    const auto step = [&] {
      const auto start = memory.mark();
      for (int i = 0; i < 5; ++i) {
        auto* p = static_cast<char*>(memory.bump(megabyte));
        p[0] = p[megabyte - 1] = 'x';
      }
      memory.rewind(start);
    };
    step();
    const std::size_t after_first = memory.allocations();
    CHECK(after_first > 2);
    CHECK(counting_allocator::held == memory.peak_bytes());
    for (int i = 0; i < 3; ++i) step();
    CHECK(memory.allocations() == after_first);
  }
  CHECK(counting_allocator::held == 0);
}

TEST_CASE("an arena that cannot become one block goes on block by block") {
  arena<crumbling_allocator> memory;
  const auto start = memory.mark();
  const auto step = [&] {
    memory.bump(megabyte), memory.bump(megabyte);
    memory.rewind(start);  // ends a scope: must not throw
  };
  step();
  const std::size_t after_first = memory.allocations();
  CHECK(after_first == 2);
  step();
  CHECK(memory.allocations() == after_first + 2);
  CHECK_THROWS_AS(memory.bump(2 * megabyte), std::bad_alloc);
  CHECK_NOTHROW(memory.bump(megabyte));
}

TEST_CASE("what is left free at the ends of blocks is not counted, and not asked for again") {
  arena<counting_allocator> memory;
  const auto start = memory.mark();
  const std::size_t size = 3 * megabyte / 4;  // one in a block of a megabyte
  memory.bump(size), memory.bump(size);
  const auto inside = memory.mark();
  memory.bump(size);
  CHECK(memory.used_bytes() == 3 * size);
  memory.rewind(inside);
  CHECK(memory.used_bytes() == 2 * size);
  memory.bump(size);
  CHECK(memory.peak_bytes() == 3 * size);
  CHECK(counting_allocator::held > 3 * size);
  memory.rewind(start);
  CHECK(counting_allocator::held == 3 * size);
}

TEST_CASE("an arena that was not empty keeps its blocks and their addresses") {
  arena<host_allocator> memory;
  auto* first = static_cast<char*>(memory.bump(100));
  first[0] = 'k';
  const auto mark = memory.mark();
  void* big = memory.bump(3 * megabyte);
  memory.rewind(mark);
  CHECK(first[0] == 'k');
  const std::size_t before = memory.allocations();
  CHECK(memory.bump(3 * megabyte) == big);
  CHECK(memory.allocations() == before);
}

TEST_CASE("an arena at its limit says what is needed, what is held and what to do") {
  arena<host_allocator> memory(2 * megabyte);
  memory.bump(megabyte);
  const auto mark = memory.mark();
  CHECK_THROWS_AS(memory.bump(megabyte + 256), memory_error);
  try {
    memory.bump(3 * megabyte);
  } catch (const memory_error& e) {
    const std::string what = e.what();
    CHECK(what.find("3145728 bytes more are needed, 1048576 are held and the limit is 2097152") !=
          std::string::npos);
    CHECK(what.find("recompute") != std::string::npos);
    CHECK(what.find('\n') == std::string::npos);
  }
  memory.rewind(mark);
  CHECK_NOTHROW(memory.bump(megabyte));  // exactly what is left
}

TEST_CASE("the peak of an arena can be measured anew") {
  arena<host_allocator> memory;
  const auto start = memory.mark();
  memory.bump(5000);
  memory.rewind(start);
  CHECK(memory.peak_bytes() == 5120);
  memory.reset_peak();
  CHECK(memory.peak_bytes() == 0);
  memory.bump(100);
  CHECK(memory.peak_bytes() == 256);
}
