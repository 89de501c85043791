# The headers of `planlm`: a header set where CMake knows them (3.23), an include folder before.
if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
  file(GLOB_RECURSE planlm_headers CONFIGURE_DEPENDS include/planlm/*.hpp include/planlm/*.cuh)
  target_sources(planlm INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${planlm_headers})
else()
  target_include_directories(planlm INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
endif()
