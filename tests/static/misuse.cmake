# A misuse does not compile, and the message says what is wrong. One source file holds numbered cases:
#   #if CASE == 0            the good twin, which must compile
#   #elif CASE == 1
#   // expect: REGEX         CMake's regular expressions, without a semicolon; the sentence is the same in every compiler
#   // expect host: REGEX    nvcc says less than g++ about a failed concept; only the host compiler must print this one
#   cmake -DSOURCE=... -DCOMPILER=... -DINCLUDES=... -DWORK=... [-DNVCC=ON -DHOST=...] -P misuse.cmake
include(${CMAKE_CURRENT_LIST_DIR}/compile.cmake)

stop_unless_able()

set(cases "")
file(STRINGS ${SOURCE} marks REGEX "CASE == [0-9]+|// expect( host)?: ")
foreach(mark IN LISTS marks)
  if(mark MATCHES "CASE == ([0-9]+)")
    set(case ${CMAKE_MATCH_1})
    list(APPEND cases ${case})
  elseif(mark MATCHES "// expect: (.+)" OR (NOT NVCC AND mark MATCHES "// expect host: (.+)"))
    list(APPEND expect_${case} "${CMAKE_MATCH_1}")
  endif()
endforeach()
if(NOT "0" IN_LIST cases OR NOT "1" IN_LIST cases)
  message(FATAL_ERROR "${SOURCE} has no case 0 (the good twin) or no case 1")
endif()

foreach(case IN LISTS cases)
  compile(${SOURCE} status output -DCASE=${case})
  if(case EQUAL 0)
    if(NOT status EQUAL 0)
      message("${output}")
      message(SEND_ERROR "the good twin does not compile, so the other cases prove nothing")
    endif()
  elseif(NOT DEFINED expect_${case})
    message(SEND_ERROR "case ${case} has no '// expect: ' line")
  elseif(status EQUAL 0)
    message(SEND_ERROR "case ${case} compiles; it was expected to fail with '${expect_${case}}'")
  else()
    foreach(sentence IN LISTS expect_${case})
      if(NOT output MATCHES "${sentence}")
        message("${output}")
        message(SEND_ERROR "case ${case} fails, but not with '${sentence}'")
      endif()
    endforeach()
  endif()
endforeach()
message("cases ${cases}")
