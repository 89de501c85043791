/// Vector registers of the machine that is compiled for, through the vector extension of g++ and clang.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>
#include <planlm/core/config.hpp>

// Everything that depends on the instruction set lives in an inline namespace named after it: translation units compiled for different
// instruction sets then get different symbols, and the linker cannot hand one of them the other's code. nvcc's front end cannot pass the
// shuffle below through to g++, so its host code has a plain loop there, and a namespace of its own for the same reason.
#if defined(__CUDACC__)
#define PLANLM_CPU_ABI host_of_cuda
#elif defined(__AVX512F__)
#define PLANLM_CPU_ABI avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define PLANLM_CPU_ABI avx2
#else
#define PLANLM_CPU_ABI baseline
#endif

namespace planlm::inline PLANLM_CPU_ABI {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <class Real>
struct simd {
  typedef Real type __attribute__((vector_size(vector_bytes)));
  /// The same, loadable from any element's address.
  typedef Real unaligned __attribute__((vector_size(vector_bytes), aligned(alignof(Real)), may_alias));
  static constexpr int width = vector_bytes / static_cast<int>(sizeof(Real));

  static type load(const Real* p) { return *reinterpret_cast<const unaligned*>(p); }
  static void store(Real* p, type v) { *reinterpret_cast<unaligned*>(p) = v; }

  /// Keeps the compiler from fusing what made `v` with what is done with it: a rounded product stays one, whatever is inlined where.
  static void settle(type& v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__x86_64__)
    asm("" : "+x"(v));
#else
    asm("" : "+m"(v));
#endif
  }

  /// Transposes a width x width block of registers in place, by log2(width) rounds of perfect shuffles.
  static void transpose(type (&r)[width]) {
#if defined(__CUDACC__)
    for (int i = 0; i < width; ++i)
      for (int j = 0; j < i; ++j) {
        const Real t = r[i][j];
        r[i][j] = r[j][i];
        r[j][i] = t;
      }
#else
    transpose_rounds(r, std::make_integer_sequence<int, width>{});
#endif
  }

#if !defined(__CUDACC__)
 private:
  template <int... I>
  static void transpose_rounds(type (&r)[width], std::integer_sequence<int, I...>) {
    for (int round = 1; round < width; round *= 2) {
      type t[width];
      for (int i = 0; i < width / 2; ++i) {
        t[2 * i] = __builtin_shufflevector(r[i], r[i + width / 2], (I % 2 ? width + I / 2 : I / 2)...);
        t[2 * i + 1] = __builtin_shufflevector(r[i], r[i + width / 2],
                                               (I % 2 ? width + width / 2 + I / 2 : width / 2 + I / 2)...);
      }
      for (int i = 0; i < width; ++i) r[i] = t[i];
    }
  }
#endif
};

}  // namespace planlm::inline PLANLM_CPU_ABI
