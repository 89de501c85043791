/// Replaces operator new by one that counts (heap_requests.hpp): one file of each test program includes it.
#pragma once
#include <cstddef>
#include <new>

#include "heap_requests.hpp"

void* operator new(std::size_t bytes) { return planlm::testing::counted(bytes, 1); }
void* operator new[](std::size_t bytes) { return planlm::testing::counted(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t a) {
  return planlm::testing::counted(bytes, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t bytes, std::align_val_t a) {
  return planlm::testing::counted(bytes, static_cast<std::size_t>(a));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return planlm::testing::counted(bytes, 1);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return planlm::testing::counted(bytes, 1);
}
void operator delete(void* p, const std::nothrow_t&) noexcept { planlm::testing::release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { planlm::testing::release(p); }
void operator delete(void* p) noexcept { planlm::testing::release(p); }
void operator delete[](void* p) noexcept { planlm::testing::release(p); }
void operator delete(void* p, std::size_t) noexcept { planlm::testing::release(p); }
void operator delete[](void* p, std::size_t) noexcept { planlm::testing::release(p); }
void operator delete(void* p, std::align_val_t) noexcept { planlm::testing::release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { planlm::testing::release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { planlm::testing::release(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { planlm::testing::release(p); }
