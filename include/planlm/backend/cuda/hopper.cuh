/// What kernels for Hopper (sm_90a) are written in: barriers that count bytes, bulk tensor copies, operand descriptors of wgmma, register hand-over.
///
/// Tiles in shared memory have one form here, the 128-byte swizzle: panels of 64 bfloat16 columns; a panel is its rows one after another,
/// 128 bytes each, and byte b of row r lies at 128 r + (b ^ 16 (r % 8)). A tile begins at a multiple of 1024 bytes. Tensor maps made here
/// write that form, the descriptors made here read it:
///   k_major(tile)               the operand's k runs along the columns (A as (m, k), B as (n, k)):  rows are m or n
///   mn_major(tile, panel bytes) k runs along the rows (A as (k, m), B as (k, n)), say wgmma's Transposed: columns are m or n
/// The next 16 of k: k_major + k_step inside a panel of 64, then the next panel; mn_major + mn_step. Eight rows are 1024 bytes.
///
/// Everything here may only be called where __CUDA_ARCH_FEAT_SM90_ALL is defined: kernels have an empty body elsewhere.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstdint>
#include <cstdio>
#include <string>
#include <cuda.h>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/error.cuh>
#include <planlm/backend/cuda/wgmma.cuh>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm::hopper {

inline constexpr int panel_columns = 64;  // of bfloat16: 128 bytes, one swizzle period
inline constexpr int row_bytes = 128;

__device__ __forceinline__ std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

/// Byte offset of 16-byte unit `unit` (0 to 7) of row `row` of a panel.
PLANLM_HD constexpr std::uint32_t swizzled(std::uint32_t row, std::uint32_t unit) { return row * 128 + ((unit ^ (row & 7)) << 4); }

// Operand descriptors: address / 16 in bits 0-13, leading offset / 16 in 16-29, stride offset / 16 in 32-45, 128-byte swizzle = 1 in 62-63.
inline constexpr std::uint32_t k_step = 32 >> 4, mn_step = 2048 >> 4, eight_rows = 1024 >> 4;
__device__ __forceinline__ std::uint64_t descriptor(std::uint32_t address, std::uint32_t leading, std::uint32_t stride) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{stride >> 4} << 32) | (std::uint64_t{leading >> 4} << 16) | ((address & 0x3FFFFu) >> 4);
}
/// The descriptor of an operand `units` of 16 bytes further on: the address never carries into the fields above, so neither does the addition.
__device__ __forceinline__ std::uint64_t further(std::uint64_t d, std::uint32_t units) {
  return (d & 0xFFFFFFFF00000000u) | (static_cast<std::uint32_t>(d) + units);
}
/// Stride: from eight rows to the next eight. The leading offset is not read.
__device__ __forceinline__ std::uint64_t k_major(std::uint32_t address) { return descriptor(address, 16, 1024); }
/// Stride: from eight rows (of k) to the next eight; leading: from 64 columns (of m or n) to the next 64.
__device__ __forceinline__ std::uint64_t mn_major(std::uint32_t address, std::uint32_t panel_bytes) {
  return descriptor(address, panel_bytes, 1024);
}

/// A barrier in shared memory: a phase ends when `arrivals` arrivals and all announced bytes have come. Phases alternate parity, from 0.
using barrier = std::uint64_t;

__device__ __forceinline__ void barrier_init(barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
/// By the thread that initialised, before the block's threads meet.
__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
/// Arrives and announces `bytes` of copies.
__device__ __forceinline__ void barrier_expect(barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool barrier_try(barrier* b, int parity) {
  std::uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(shared_address(b)), "r"(parity)
      : "memory");
  return done != 0;
}
/// Waits for the end of the phase of that parity. Watched waits give up after about 20 ms, say which and go on: for checks.
template <bool Watched = false>
__device__ __forceinline__ void barrier_wait(barrier* b, int parity, const char* what = "") {
  if constexpr (Watched) {
    const long long begin = clock64();
    while (!barrier_try(b, parity))
      if (clock64() - begin > 40'000'000) {
        printf("planlm: waited too long for %s, parity %d, block %d thread %d\n", what, parity, int(blockIdx.x), int(threadIdx.x));
        return;
      }
  } else {
    while (!barrier_try(b, parity)) {
    }
  }
}

/// Starts the copy of a box whose first element has the coordinates given, innermost first; outside the tensor zeros are written.
__device__ __forceinline__ void copy_tile(void* tile, const CUtensorMap& map, barrier* b, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   shared_address(tile)),
               "l"(&map), "r"(shared_address(b)), "r"(column), "r"(row)
               : "memory");
}
__device__ __forceinline__ void copy_panels(void* tile, const CUtensorMap& map, barrier* b, int row, int panel) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                   shared_address(tile)),
               "l"(&map), "r"(shared_address(b)), "r"(0), "r"(row), "r"(panel)
               : "memory");
}
/// `bytes` contiguous bytes, a multiple of 16, both addresses aligned to 16.
__device__ __forceinline__ void copy_bytes(void* to, const void* from, int bytes, barrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes), "r"(shared_address(b))
               : "memory");
}
/// Shared memory to tensor: starts it; store_wait before the tile is written again, store_done before the kernel relies on the store.
__device__ __forceinline__ void store_tile(const CUtensorMap& map, const void* tile, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(shared_address(tile)),
               "r"(column), "r"(row)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ __forceinline__ void store_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void store_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// Shared memory written by ordinary stores becomes visible to wgmma and bulk copies: each writing thread, before the threads meet.
__device__ __forceinline__ void shared_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Hands registers back or claims them, for all warps of a warpgroup; a multiple of 8.
template <int Count>
__device__ __forceinline__ void registers_down_to() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ __forceinline__ void registers_up_to() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

/// Hardware barriers 1 to 15 (0 is __syncthreads) among `threads` threads: meet, or arrive without waiting.
__device__ __forceinline__ void group_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void group_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

/// What the warp's first lane has: the compiler then keeps values made from it in the registers that a warp has once.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(~0u, x, 0); }

/// Two floats as bfloat16, the first in the lower half.
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
/// 2^x; 0 for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

namespace detail {
/// The driver's function, asked for at run time: programs need not link libcuda.
inline auto encoder() {
  static const auto f = [] {
    void* p = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    cuda_detail::check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found), "cuTensorMapEncodeTiled");
#else
    cuda_detail::check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &p, cudaEnableDefault, &found), "cuTensorMapEncodeTiled");
#endif
    if (!p || found != cudaDriverEntryPointSuccess) throw error("cuda: the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(p);
  }();
  return f;
}
inline CUtensorMap encode(int rank, const void* data, const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box) {
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(rank), const_cast<void*>(data), dims, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::string what = "cuda: cuTensorMapEncodeTiled: status " + std::to_string(int(status)) + ", dimensions";
    for (int i = 0; i < rank; ++i) (what += " ") += std::to_string(dims[i]);
    what += ", strides in bytes";
    for (int i = 0; i + 1 < rank; ++i) (what += " ") += std::to_string(strides[i]);
    throw error(what);
  }
  return map;
}
}  // namespace detail

/// (rows, cols) of bfloat16, `stride` elements (a multiple of 8) from row to row; copy_tile moves one panel of `box_rows` <= 256 rows.
inline CUtensorMap tile_map(const bfloat16* data, index_t rows, index_t cols, index_t stride, int box_rows) {
  const cuuint64_t dims[2] = {cuuint64_t(cols), cuuint64_t(rows)}, strides[1] = {cuuint64_t(stride) * 2};
  const cuuint32_t box[2] = {panel_columns, cuuint32_t(box_rows)};
  return detail::encode(2, data, dims, strides, box);
}
/// The same with cols a multiple of 64, seen as (cols / 64, rows, 64): copy_panels moves `box_panels` panels of `box_rows` rows at once.
inline CUtensorMap panels_map(const bfloat16* data, index_t rows, index_t cols, index_t stride, int box_rows, int box_panels) {
  const cuuint64_t dims[3] = {panel_columns, cuuint64_t(rows), cuuint64_t(cols / panel_columns)};
  const cuuint64_t strides[2] = {cuuint64_t(stride) * 2, row_bytes};
  const cuuint32_t box[3] = {panel_columns, cuuint32_t(box_rows), cuuint32_t(box_panels)};
  return detail::encode(3, data, dims, strides, box);
}

}  // namespace planlm::hopper
