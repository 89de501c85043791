# Shared by headers.cmake and misuse.cmake: one call of a compiler.
# Variables of the caller: COMPILER (a path), NVCC (ON when COMPILER is nvcc; HOST is then its host compiler),
# INCLUDES (a file with one include folder per line), WORK (a folder of our own).

cmake_minimum_required(VERSION 3.22)

# The language of messages is English, with plain quotes: tests read them.
set(ENV{LC_ALL} C)

file(STRINGS ${INCLUDES} folders)
set(include_flags "")
foreach(folder IN LISTS folders)
  if(folder MATCHES "/include$" AND EXISTS ${folder}/planlm)
    set(PLANLM_INCLUDE ${folder})
    list(APPEND include_flags "-I${folder}")
  else()
    list(APPEND include_flags -isystem ${folder})
  endif()
endforeach()

# compile(SOURCE STATUS OUTPUT FLAG...): checks SOURCE. EIGEN_NO_CUDA is what planlm::planlm passes to nvcc.
function(compile source status output)
  if(NVCC)
    set(kind -c)
    if("-cuda" IN_LIST ARGN)
      set(kind "")
    endif()
    set(command ${COMPILER} -ccbin ${HOST} -std=c++20 -x cu -DEIGEN_NO_CUDA ${kind} -o ${WORK}/object.o)
  else()
    set(command ${COMPILER} -std=c++20 -Wall -Wextra -Werror -fsyntax-only)
  endif()
  execute_process(COMMAND ${command} ${include_flags} ${ARGN} ${source}
                  RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  set(${status} "${result}" PARENT_SCOPE)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

# stop_unless_able(): ends the test as skipped when an nvcc does not accept the host compiler of this machine.
macro(stop_unless_able)
  if(NVCC)
    file(WRITE ${WORK}/empty.cu "#include <concepts>\ntemplate <std::integral T> struct s {};\ns<int> one;\n")
    execute_process(COMMAND ${COMPILER} -ccbin ${HOST} -std=c++20 -c -o ${WORK}/empty.o ${WORK}/empty.cu
                    RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
    if(NOT status EQUAL 0)
      message("SKIPPED: this nvcc does not compile C++20 with the host compiler ${HOST}")
      return()
    endif()
  endif()
endmacro()
