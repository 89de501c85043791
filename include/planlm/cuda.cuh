/// Everything for an NVIDIA GPU: models, training, the backend. For .cu files; link cuBLAS.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <planlm/backend/cuda/cuda.cuh>
#include <planlm/backend/cuda/graph.cuh>
#include <planlm/planlm.hpp>
