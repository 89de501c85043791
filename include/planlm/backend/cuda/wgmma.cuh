/// The Hopper matrix instruction wgmma.mma_async m64nNk16: bfloat16 operands, float32 sums, issued by a warpgroup of 128 threads.
///
/// B lies in shared memory; A in shared memory or in registers. A descriptor (hopper.cuh) says where an operand lies and whether its
/// contiguous dimension is k (not transposed) or m/n (transposed). The sums of thread t (warp w = t / 32 of the group, lane l = t % 32):
/// d[4 j + 2 h + e] is row 16 w + l / 4 + 8 h, column 8 j + 2 (l % 4) + e. A's registers hold pairs of neighbouring columns:
/// a[2 g + h] is row 16 w + l / 4 + 8 h, columns 8 g + 2 (l % 4) and the next: sums of columns 16 k to 16 k + 15, rounded
/// pairwise, are the A registers of step k of a following product.
///
/// The products run on after the call: neither d nor the operands may be written before wgmma_wait says that the product has ended.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstdint>

namespace planlm::hopper {

/// wgmma_m64<N>::multiply: d (64, N) = A (64, 16) B (16, N), plus d where `add`. begin: without d, whose registers are free until then.
template <int N>
struct wgmma_m64;

/// Before the first product, and whenever d or A's registers were written by ordinary instructions since.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Closes a group of products.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most `Pending` of the latest groups are unfinished.
template <int Pending = 0>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Tells the compiler that the values are new from here on: right after the wait for products that write them, and before products that read
/// or add to them, so that no ordinary use crosses the wait.
template <int Count>
__device__ __forceinline__ void pin(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int Count>
__device__ __forceinline__ void pin(std::uint32_t (&a)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

#define PLANLM_L8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define PLANLM_L16 PLANLM_L8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PLANLM_L24 PLANLM_L16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define PLANLM_L32 PLANLM_L24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define PLANLM_L40 PLANLM_L32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define PLANLM_L48 PLANLM_L40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define PLANLM_L56 PLANLM_L48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define PLANLM_L64 PLANLM_L56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define PLANLM_L72 PLANLM_L64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define PLANLM_L80 PLANLM_L72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define PLANLM_L88 PLANLM_L80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define PLANLM_L96 PLANLM_L88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define PLANLM_L104 PLANLM_L96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define PLANLM_L112 PLANLM_L104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define PLANLM_L120 PLANLM_L112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define PLANLM_L128 PLANLM_L120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define PLANLM_R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PLANLM_W4(i) "=f"(d[i]), "=f"(d[i + 1]), "=f"(d[i + 2]), "=f"(d[i + 3])
#define PLANLM_W8(i) PLANLM_W4(i), PLANLM_W4(i + 4)
#define PLANLM_W16(i) PLANLM_W8(i), PLANLM_W8(i + 8)
#define PLANLM_W32(i) PLANLM_W16(i), PLANLM_W16(i + 16)
#define PLANLM_R8(i) PLANLM_R4(i), PLANLM_R4(i + 4)
#define PLANLM_R16(i) PLANLM_R8(i), PLANLM_R8(i + 8)
#define PLANLM_R32(i) PLANLM_R16(i), PLANLM_R16(i + 16)
#define PLANLM_WGMMA(N, SUMS, NEW, LIST, A0, A1, A2, A3, A4, A5, A6)                                                                      \
  template <>                                                                                                                         \
  struct wgmma_m64<N> {                                                                                                               \
    template <bool TransposedA = false, bool TransposedB = false>                                                                     \
    __device__ __forceinline__ static void multiply(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int add = 1) {               \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " A2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST    \
                   "}, " A0 ", " A1 ", p, 1, 1, " A3 ", " A4 ";\n}\n"                                                                 \
                   : SUMS                                                                                                             \
                   : "l"(a), "l"(b), "r"(add), "n"(TransposedA ? 1 : 0), "n"(TransposedB ? 1 : 0));                                   \
    }                                                                                                                                 \
    template <bool TransposedA = false, bool TransposedB = false>                                                                     \
    __device__ __forceinline__ static void begin(float (&d)[N / 2], std::uint64_t a, std::uint64_t b) {                               \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST         \
                   "}, " A0 ", " A1 ", p, 1, 1, " A2 ", " A3 ";\n}\n"                                                                 \
                   : NEW                                                                                                              \
                   : "l"(a), "l"(b), "n"(TransposedA ? 1 : 0), "n"(TransposedB ? 1 : 0));                                             \
    }                                                                                                                                 \
    template <bool TransposedB = false>                                                                                               \
    __device__ __forceinline__ static void multiply(float (&d)[N / 2], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,          \
                                                    std::uint32_t a3, std::uint64_t b, int add = 1) {                                 \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " A5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST    \
                   "}, {" A0 ", " A1 ", " A2 ", " A3 "}, " A4 ", p, 1, 1, " A6 ";\n}\n"                                               \
                   : SUMS                                                                                                             \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(TransposedB ? 1 : 0));                                 \
    }                                                                                                                                 \
  };
#define PLANLM_SUMS PLANLM_R16(0)
#define PLANLM_NEW PLANLM_W16(0)
PLANLM_WGMMA(32, PLANLM_SUMS, PLANLM_NEW, PLANLM_L16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0)
#define PLANLM_NEW PLANLM_W32(0)
PLANLM_WGMMA(64, PLANLM_SUMS, PLANLM_NEW, PLANLM_L32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R16(32)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W16(32)
PLANLM_WGMMA(96, PLANLM_SUMS, PLANLM_NEW, PLANLM_L48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R32(32)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W32(32)
PLANLM_WGMMA(128, PLANLM_SUMS, PLANLM_NEW, PLANLM_L64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R32(32), PLANLM_R16(64)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W32(32), PLANLM_W16(64)
PLANLM_WGMMA(160, PLANLM_SUMS, PLANLM_NEW, PLANLM_L80, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R32(32), PLANLM_R16(64), PLANLM_R8(80)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W32(32), PLANLM_W16(64), PLANLM_W8(80)
PLANLM_WGMMA(176, PLANLM_SUMS, PLANLM_NEW, PLANLM_L88, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R32(32), PLANLM_R32(64)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W32(32), PLANLM_W32(64)
PLANLM_WGMMA(192, PLANLM_SUMS, PLANLM_NEW, PLANLM_L96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#define PLANLM_SUMS PLANLM_R32(0), PLANLM_R32(32), PLANLM_R32(64), PLANLM_R32(96)
#define PLANLM_NEW PLANLM_W32(0), PLANLM_W32(32), PLANLM_W32(64), PLANLM_W32(96)
PLANLM_WGMMA(256, PLANLM_SUMS, PLANLM_NEW, PLANLM_L128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
#undef PLANLM_SUMS
#undef PLANLM_NEW
#undef PLANLM_L8
#undef PLANLM_L16
#undef PLANLM_L24
#undef PLANLM_L32
#undef PLANLM_L40
#undef PLANLM_L48
#undef PLANLM_L56
#undef PLANLM_L64
#undef PLANLM_L72
#undef PLANLM_L80
#undef PLANLM_L88
#undef PLANLM_L96
#undef PLANLM_L104
#undef PLANLM_L112
#undef PLANLM_L120
#undef PLANLM_L128
#undef PLANLM_R4
#undef PLANLM_R8
#undef PLANLM_R16
#undef PLANLM_R32
#undef PLANLM_W4
#undef PLANLM_W8
#undef PLANLM_W16
#undef PLANLM_W32
#undef PLANLM_WGMMA

}  // namespace planlm::hopper
