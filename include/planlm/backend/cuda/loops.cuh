/// The loops of a backend as kernels: over indices, over rows, and sums of columns.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/elements.cuh>
#include <planlm/backend/cuda/rows.cuh>
