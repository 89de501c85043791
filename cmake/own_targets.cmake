# How planlm's own examples, benchmarks and tests are compiled; nothing here reaches users of planlm::planlm.

include(${CMAKE_CURRENT_LIST_DIR}/includes.cmake)

add_library(planlm_own_flags INTERFACE)
target_compile_options(planlm_own_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>"
  $<$<AND:$<BOOL:${PLANLM_WERROR}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>
  "$<$<AND:$<BOOL:${PLANLM_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Xcompiler=-Werror;-Werror=all-warnings>"
  $<$<AND:$<BOOL:${PLANLM_NATIVE}>,$<COMPILE_LANGUAGE:CXX>>:-march=native>
  # The same in both: the linker keeps one copy of what is inline, whoever compiled it.
  $<$<AND:$<BOOL:${PLANLM_NATIVE}>,$<COMPILE_LANGUAGE:CUDA>>:-Xcompiler=-march=native>)
set(CMAKE_CXX_EXTENSIONS OFF)

# Our own CUDA programs: where nvcc compiles C++20 with the host compiler at hand. `planlm_cuda_off` says why not.
# Before enable_language, which would otherwise guess an architecture, and `native` fails where there is no GPU.
set(CMAKE_CUDA_ARCHITECTURES ${PLANLM_CUDA_ARCHITECTURES})
set(planlm_cuda_off "")
if(NOT PLANLM_CUDA)
  set(planlm_cuda_off "PLANLM_CUDA is OFF")
elseif(NOT TARGET planlm::cuda)
  set(planlm_cuda_off "${planlm_cuda_missing}")
else()
  include(CheckLanguage)
  if(NOT DEFINED ENV{CUDACXX})
    set(ENV{CUDACXX} ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  if(NOT DEFINED ENV{CUDAHOSTCXX})
    set(ENV{CUDAHOSTCXX} ${CMAKE_CXX_COMPILER})
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
  else()
    set(planlm_cuda_off "nvcc in ${CUDAToolkit_BIN_DIR} does not compile with the host compiler of this machine")
  endif()
endif()
if(planlm_cuda_off)
  message(STATUS "planlm: our own CUDA programs are switched off: ${planlm_cuda_off}")
endif()

get_property(planlm_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(PROJECT_IS_TOP_LEVEL AND NOT planlm_multi_config AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_package(CLI11 QUIET)

# planlm_missing_for(OUT FILE...): the optional libraries that these sources include, at any depth, and that are not here.
function(planlm_missing_for out)
  set(missing "")
  foreach(file IN LISTS ARGN)
    planlm_reaches(${file} libraries)
    if(libraries MATCHES "text" AND NOT TARGET planlm::text)
      list(APPEND missing "${planlm_text_missing}")
    endif()
    if(libraries MATCHES "CLI11" AND NOT TARGET CLI11::CLI11)
      list(APPEND missing "missing CLI11, for the command line (Debian: libcli11-dev)")
    endif()
  endforeach()
  list(REMOVE_DUPLICATES missing)
  list(JOIN missing "; " missing)
  set(${out} "${missing}" PARENT_SCOPE)
endfunction()

# planlm_link_cuda(TARGET LIBRARY...): planlm, CUDA, our flags, and the given libraries; a program of .cu and perhaps .cpp files.
function(planlm_link_cuda target)
  target_link_libraries(${target} PRIVATE planlm::cuda planlm_own_flags ${ARGN})
  set_property(TARGET ${target} PROPERTY CUDA_ARCHITECTURES ${PLANLM_CUDA_ARCHITECTURES})
endfunction()

# planlm_link(TARGET LIBRARY...): planlm, our flags, the optional libraries that are here, and the given ones.
function(planlm_link target)
  target_link_libraries(${target} PRIVATE planlm::planlm planlm_own_flags ${ARGN})
  foreach(optional planlm::text CLI11::CLI11)
    if(TARGET ${optional})
      target_link_libraries(${target} PRIVATE ${optional})
    endif()
  endforeach()
endfunction()
