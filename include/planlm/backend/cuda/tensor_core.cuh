/// The instructions of sm_80 that tiles of bf16 are made of, one function each: mma.sync, ldmatrix, cp.async.
///
/// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
///   A (16 x 16): a[0] = (g, 2t), a[1] = (g + 8, 2t), a[2] = (g, 2t + 8), a[3] = (g + 8, 2t + 8), each with its right neighbour
///   B (16 x 8):  b0 = rows 2t and 2t + 1 of column g, b1 = rows 2t + 8 and 2t + 9
///   C (16 x 8):  c[0], c[1] = (g, 2t), (g, 2t + 1); c[2], c[3] = the same of row g + 8
/// So two neighbouring C tiles, packed, are an A fragment: a product's result is the next product's operand without leaving registers.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cuda_runtime.h>

namespace planlm::cuda_detail {

/// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char planlm_dynamic_shared[];
  return planlm_dynamic_shared;
}
__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

/// Four 8 x 8 tiles; lane l gives the address of row l % 8 of tile l / 8 (16 bytes, aligned) and gets row g, columns 2t and 2t + 1 of each.
__device__ inline void ldmatrix(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// The same with each tile transposed: rows 2t and 2t + 1 of column g.
__device__ inline void ldmatrix_transposed(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// C += A B.
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// Two floats rounded to bf16, the first in the low half.
__device__ inline unsigned pack_bf16(float low, float high) {
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Starts a copy of 16 bytes from global to shared memory; zeros where `valid` is false (then nothing is read).
__device__ inline void copy_16(unsigned to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(valid ? 16 : 0)
               : "memory");
}
/// The same for 8 bytes.
__device__ inline void copy_8(unsigned to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid ? 8 : 0)
               : "memory");
}
/// Closes a group of copies; `copies_wait<n>` waits until at most the n newest groups of this thread are under way.
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Newest>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Newest) : "memory");
}

/// 2^x, relative error below 2^-22; results below 2^-126 are zero.
struct exp2_approximate {
  __device__ float operator()(float x) const {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
};

}  // namespace planlm::cuda_detail
