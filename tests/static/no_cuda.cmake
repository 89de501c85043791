# A .cpp with everything that is not CUDA reaches no CUDA header, by whatever way; a .cpp with planlm/cuda.cuh is told what that header is for.
#   cmake -DCOMPILER=... -DINCLUDES=... -DWORK=... -P no_cuda.cmake
include(${CMAKE_CURRENT_LIST_DIR}/compile.cmake)

file(WRITE ${WORK}/all.cpp "#include <planlm/planlm.hpp>\n#include <planlm/cpu.hpp>\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -M ${include_flags} ${WORK}/all.cpp
                RESULT_VARIABLE status OUTPUT_VARIABLE reached ERROR_VARIABLE errors)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${errors}")
endif()
string(REGEX REPLACE "[ \\\n]+" ";" reached "${reached}")
list(FILTER reached EXCLUDE REGEX "/Eigen/")  # Eigen has headers for CUDA of its own, empty without it
list(LENGTH reached count)
list(FILTER reached INCLUDE REGEX "\\.cuh$|/cuda|/cublas|/nv/")
if(reached OR count LESS 50)
  message(FATAL_ERROR "of ${count} headers these are CUDA's: ${reached}")
endif()

file(WRITE ${WORK}/wrong.cpp "#include <planlm/cuda.cuh>\n")
compile(${WORK}/wrong.cpp status text)
if(status EQUAL 0 OR NOT text MATCHES "planlm: this header is for CUDA. include it from a .cu file compiled by nvcc")
  message(FATAL_ERROR "planlm/cuda.cuh in a .cpp says:\n${text}")
endif()
message("${count} headers")
