# Configures, builds and runs a project that uses planlm, in a fresh folder.
#   cmake -DPROJECT=... -DPLANLM_SOURCE=... -DPLANLM_BINARY=... -DWORK=... -DGENERATOR=... -DCXX=...
#         [-DINSTALL=ON] [-DCUDA=NVCC] [-DFAILS_WITH=REGEX] -P consumer.cmake
# INSTALL: planlm is installed first, and the installed tree moved, since a package must not remember where it was made.
# CUDA: the project has CUDA sources; the compiler for them. One architecture will do here.
# FAILS_WITH: the project does not configure, and the message matches.
cmake_minimum_required(VERSION 3.22)

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message("${out}")
    message(FATAL_ERROR "${command}\nended with ${status}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(configure ${CMAKE_COMMAND} -G ${GENERATOR} -S ${PROJECT} -B ${WORK}/build -DCMAKE_CXX_COMPILER=${CXX})
if(CUDA)
  list(APPEND configure -DCMAKE_CUDA_COMPILER=${CUDA} -DCMAKE_CUDA_HOST_COMPILER=${CXX} -DCMAKE_CUDA_ARCHITECTURES=90a)
endif()
if(INSTALL)
  step(${CMAKE_COMMAND} --install ${PLANLM_BINARY} --prefix ${WORK}/made)
  file(RENAME ${WORK}/made ${WORK}/moved)
  list(APPEND configure -DCMAKE_PREFIX_PATH=${WORK}/moved)
else()
  list(APPEND configure -DPLANLM_SOURCE=${PLANLM_SOURCE} -DFETCHCONTENT_SOURCE_DIR_PLANLM=${PLANLM_SOURCE})
endif()

if(FAILS_WITH)
  execute_process(COMMAND ${configure} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  string(REGEX REPLACE "[ \n]+" " " out "${out}")
  if(status EQUAL 0 OR NOT out MATCHES "${FAILS_WITH}")
    message(FATAL_ERROR "expected the configuration to fail with '${FAILS_WITH}', got status ${status}:\n${out}")
  endif()
else()
  step(${configure})
  step(${CMAKE_COMMAND} --build ${WORK}/build)
  step(${WORK}/build/consumer)
endif()
