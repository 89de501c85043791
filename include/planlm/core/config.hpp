/// The one macro of the library's own code, and the language it needs.
#pragma once
#include <cstdint>

static_assert(__cplusplus >= 202002L,
              "planlm needs C++20: compile with -std=c++20 (CMake 3.25 drops it silently for CUDA; add it by hand)");

/// Marks a function that runs on the host and, under nvcc, on the device.
#if defined(__CUDACC__)
#define PLANLM_HD __host__ __device__
#else
#define PLANLM_HD
#endif

namespace planlm {

/// Extents, offsets and row numbers. Signed, so that differences are safe.
using index_t = std::int64_t;

/// Where CMakeLists.txt reads it too.
inline constexpr const char* version = "0.1.0";

}  // namespace planlm
