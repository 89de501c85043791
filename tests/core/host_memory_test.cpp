#include <planlm/core/host_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <new>
#include <string>

#include "../catch.hpp"

namespace {

using planlm::host_allocator;
constexpr std::size_t megabyte = 1 << 20;

// Resident bytes of this process; 0 where the system does not say.
std::size_t resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmRSS:", 0) == 0) return static_cast<std::size_t>(std::stoul(line.substr(6))) * 1024;
  return 0;
}

}  // namespace

TEST_CASE("small and large blocks are aligned, and whole up to their last byte") {
  for (const std::size_t bytes : {std::size_t{1}, megabyte, host_allocator::large - 1, host_allocator::large, host_allocator::large + 1,
                                  7 * megabyte + 12345}) {
    CAPTURE(bytes);
    auto* p = static_cast<unsigned char*>(host_allocator::allocate(bytes));
    CHECK(reinterpret_cast<std::uintptr_t>(p) % host_allocator::alignment == 0);
    p[0] = 1;
    p[bytes - 1] = 7;
    CHECK(p[bytes - 1] == 7);
    host_allocator::deallocate(p, bytes);
  }
}

TEST_CASE("what cannot be had is said, not handed out") {
  if (!host_allocator::maps) return;
  CHECK_THROWS_AS(host_allocator::allocate(~std::size_t{0} - 100), std::bad_alloc);
  CHECK_THROWS_AS(host_allocator::allocate(~std::size_t{0} / 4), std::bad_alloc);
}

TEST_CASE("large blocks that are freed go back to the system, and untouched ones take nothing") {
  const std::size_t before = resident();
  if (before == 0 || !host_allocator::maps) {
    WARN("left out: large blocks are not the system's here, or it does not say how much memory is resident");
    return;
  }
  const std::size_t bytes = 64 * megabyte;
  auto* p = static_cast<unsigned char*>(host_allocator::allocate(bytes));
  CHECK(resident() < before + bytes / 4);
  for (std::size_t i = 0; i < bytes; i += 4096) p[i] = 1;
  const std::size_t full = resident();
  host_allocator::deallocate(p, bytes);
  CHECK(full >= before + bytes - megabyte);
  CHECK(resident() < before + bytes / 4);
}
