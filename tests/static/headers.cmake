# Every header of one folder compiles alone and included twice, whatever macros a system header left behind.
# In nvcc the headers of the folder share one translation unit, and those of backend/cpu and those that reach it, Eigen or
# an optional library are left out: they are for the host compiler.
#   cmake -DFOLDER=core -DCOMPILER=... -DINCLUDES=... -DWORK=... [-DNVCC=ON -DHOST=...] -P headers.cmake
include(${CMAKE_CURRENT_LIST_DIR}/compile.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/../../cmake/includes.cmake)

stop_unless_able()

if(FOLDER STREQUAL ".")
  file(GLOB headers RELATIVE ${PLANLM_INCLUDE}/planlm ${PLANLM_INCLUDE}/planlm/*.hpp)
else()
  file(GLOB_RECURSE headers RELATIVE ${PLANLM_INCLUDE}/planlm ${PLANLM_INCLUDE}/planlm/${FOLDER}/*.hpp)
endif()

# Names that system headers define as macros: <termios.h>, <sys/sysmacros.h> and Windows' <rpcndr.h>. Here they are errors.
set(traps "")
foreach(name B0 major minor small)
  string(APPEND traps "#define ${name} ]the header uses a name that a system header defines[\n")
endforeach()
set(checked 0)
set(together "${traps}")
foreach(header IN LISTS headers)
  planlm_reaches(${PLANLM_INCLUDE}/planlm/${header} reached)
  set(twice "#include <planlm/${header}>\n#include <planlm/${header}>\n")
  if(NVCC)
    if(NOT reached AND NOT header MATCHES "^backend/cpu")
      string(APPEND together "${twice}")
      math(EXPR checked "${checked} + 1")
    endif()
    continue()
  endif()
  if(NOT reached MATCHES "Eigen|text")
    string(PREPEND twice "${traps}")  # other libraries may use such names
  endif()
  file(WRITE ${WORK}/header.cpp "${twice}")
  compile(${WORK}/header.cpp status text)
  math(EXPR checked "${checked} + 1")
  if(NOT status EQUAL 0)
    message("${text}")
    message(SEND_ERROR "planlm/${header} does not compile alone")
  endif()
endforeach()

if(NVCC)
  file(WRITE ${WORK}/headers.cu "${together}")
  compile(${WORK}/headers.cu status text -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror)
  if(NOT status EQUAL 0)
    message("${text}")
    message(SEND_ERROR "the headers of planlm/${FOLDER} do not compile in nvcc")
  endif()
endif()
message("${checked} headers")
