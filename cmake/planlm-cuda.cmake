# planlm::cuda: planlm with cuBLAS and C++20 for nvcc, for sources that include <planlm/cuda.cuh>. Part of the build and of the
# installed package. Creates the target where the CUDA toolkit is, or leaves it out and says in `planlm_cuda_missing` why.
# It needs no CUDA language: a project names that itself, with the architectures it wants.

set(planlm_cuda_missing "")
find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND)
  set(planlm_cuda_missing "missing the CUDA toolkit (found by nvcc on the PATH, or -DCUDAToolkit_ROOT=FOLDER)")
elseif(CUDAToolkit_VERSION VERSION_LESS 12.4)
  set(planlm_cuda_missing "the CUDA toolkit in ${CUDAToolkit_BIN_DIR} is ${CUDAToolkit_VERSION}, needed is 12.4 or newer")
elseif(NOT TARGET CUDA::cublas OR NOT TARGET CUDA::cublasLt)
  set(planlm_cuda_missing "missing cuBLAS and cuBLASLt beside the CUDA toolkit in ${CUDAToolkit_BIN_DIR}")
elseif(NOT TARGET planlm::cuda)
  add_library(planlm::cuda INTERFACE IMPORTED GLOBAL)
  set_property(TARGET planlm::cuda PROPERTY INTERFACE_LINK_LIBRARIES
    planlm::planlm CUDA::cublas CUDA::cublasLt)
  # By hand: CMake before 3.25.2 does not know that nvcc can do C++20, and drops CUDA_STANDARD 20 without a word.
  set_property(TARGET planlm::cuda PROPERTY INTERFACE_COMPILE_OPTIONS $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>)
endif()
