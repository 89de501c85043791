# How planlm's own examples, benchmarks and tests are compiled; nothing here reaches users of planlm::planlm.

include(${CMAKE_CURRENT_LIST_DIR}/includes.cmake)

add_library(planlm_own_flags INTERFACE)
target_compile_options(planlm_own_flags INTERFACE
  -Wall -Wextra
  $<$<BOOL:${PLANLM_WERROR}>:-Werror>
  $<$<BOOL:${PLANLM_NATIVE}>:-march=native>)
set(CMAKE_CXX_EXTENSIONS OFF)

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

# planlm_link(TARGET LIBRARY...): planlm, our flags, the optional libraries that are here, and the given ones.
function(planlm_link target)
  target_link_libraries(${target} PRIVATE planlm::planlm planlm_own_flags ${ARGN})
  foreach(optional planlm::text CLI11::CLI11)
    if(TARGET ${optional})
      target_link_libraries(${target} PRIVATE ${optional})
    endif()
  endforeach()
endfunction()
