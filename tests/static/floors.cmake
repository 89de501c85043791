# scripts/check-floors accepts a clean tree and rejects each planted fault with the sentence that names it.
#   cmake -DSCRIPT=... -DWORK=... -P floors.cmake
cmake_minimum_required(VERSION 3.22)

function(check_tree expected_status expected_text)
  execute_process(COMMAND ${SCRIPT} ${WORK} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL expected_status OR NOT out MATCHES "${expected_text}")
    message(SEND_ERROR "expected status ${expected_status} and '${expected_text}', got ${status}:\n${out}")
  endif()
endfunction()

function(plant header text expected)
  file(WRITE ${WORK}/${header} "#pragma once\n${text}\n")
  check_tree(1 "${expected}")
  file(REMOVE ${WORK}/${header})
endfunction()

file(REMOVE_RECURSE ${WORK})
check_tree(1 "")  # no tree at all
file(WRITE ${WORK}/core/view.hpp "#pragma once\n#include <cstddef>\n")
file(WRITE ${WORK}/layers/linear.hpp "#pragma once\n#include <planlm/core/view.hpp>\n")
file(WRITE ${WORK}/planning/head.hpp "#pragma once\n  #  include <planlm/layers/linear.hpp> // sideways, allowed\n")
file(WRITE ${WORK}/backend/cpu/gemm.hpp "#pragma once\n#include <Eigen/Core>\n")
file(WRITE ${WORK}/testing/check.hpp "#pragma once\n#include <planlm/models/lm.hpp>\n")
file(WRITE ${WORK}/planlm.hpp "#pragma once\n#include <planlm/training/adamw.hpp>\n")
check_tree(0 "6 headers, 12 lines, no include goes up")

plant(core/up.hpp "#include <planlm/layers/linear.hpp>"
      "core/up.hpp:2: .*core/ is on floor 0, layers/ above it on floor 3")
plant(layers/up.hpp "  #  include <planlm/models/lm.hpp>" "layers/ is on floor 3, models/ above it on floor 4")
plant(objectives/side.hpp "#include <planlm/layers/linear.hpp>" "objectives/ and layers/ share floor 3")
plant(layers/side.hpp "#include <planlm/planning/head.hpp>" "layers/ and planning/ share floor 3")
plant(ops/all.hpp "#include <planlm/planlm.hpp>" "a header that gathers others is for programs")
plant(ops/check.hpp "#include <planlm/testing/check.hpp>" "only tests and testing/ include testing/")
plant(cpu.hpp "#include <planlm/testing/check.hpp>" "only tests and testing/ include testing/")
plant(ops/door.hpp "#include <planlm/backend/cpu/gemm.hpp>" "nothing knows a concrete one")
plant(ops/eigen.hpp "#include <Eigen/Dense>" "Eigen stays behind")
plant(models/icu.hpp "#include <unicode/brkiter.h>" "optional libraries are for text/ and io/")
plant(io/flags.hpp "#include <CLI/CLI.hpp>" "the command line is for the examples")
plant(backend/gpu.hpp "#include <cuda_runtime.h>" "a .hpp compiles without CUDA")
plant(core/near.hpp "#include \"view.hpp\"" "write the full path")
plant(nets/new.hpp "" "the folder nets/ has no floor")

string(REPEAT "//\n" 398 long)  # with #pragma once and the last line: 400
file(WRITE ${WORK}/core/long.hpp "#pragma once\n${long}//\n")
check_tree(0 "")
plant(core/long.hpp "${long}//\n//" "core/long.hpp:401: a header has at most 400 lines")
foreach(i RANGE 1 31)
  file(WRITE ${WORK}/core/part${i}.hpp "#pragma once\n${long}")
endforeach()
check_tree(1 "the headers have 12381 lines together; the budget is 11999")
