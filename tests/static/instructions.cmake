# scripts/check-instructions with a stand-in for valgrind: what passes, what fails and how it is said.
#   cmake -DSCRIPT=... -DSTAND_INS=... -DWORK=... -P instructions.cmake
cmake_minimum_required(VERSION 3.22)

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
set(kept ${WORK}/kept.json)
set(ENV{PATH} "${STAND_INS}:$ENV{PATH}")
set(ENV{STAND_COMPILER} "g++ 12.2")

# count(STATUS PATTERN COUNT ARGUMENT...): COUNT instructions for the case "odd".
function(count expected_status pattern instructions)
  set(ENV{STAND_COUNT} ${instructions})
  execute_process(COMMAND ${SCRIPT} --program ${STAND_INS}/counted --kept ${kept} ${ARGN}
                  RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL expected_status OR NOT out MATCHES "${pattern}")
    message(SEND_ERROR "expected status ${expected_status} and '${pattern}', got ${status}:\n${out}")
  endif()
endfunction()

count(2 "^check-instructions: [^\n]*kept.json: [^\n]*No such file[^\n]*--update writes it anew\n$" 500)
count(0 "2 counts of g.. 12.2, glibc 2.36, x86_64" 500 --update)
count(0 "^even +1000 instructions, 1.0000 of the kept 1000\nodd +500 instructions, 1.0000 of the kept 500\n$" 500)
count(0 "odd +510 instructions, 1.0200 of the kept 500\n$" 510)
count(1 "odd takes 2.2 % more instructions than the kept number, and 2 % are let through\n" 511)
count(0 "fewer instructions than kept: odd; scripts/check-instructions --update keeps that" 400)
count(2 "nothing was counted; is planlm_counted still a function of its own" 0)

set(ENV{STAND_COMPILER} "g++ 13.2")
count(0 "^SKIPPED: the kept numbers are those of g.. 12.2, [^\n]*; this program is of g.. 13.2, [^\n]*, so they are not comparable\n$" 900)
set(ENV{STAND_COMPILER} "g++ 12.2")

file(READ ${kept} text)
string(REPLACE "\"odd\"" "\"old\"" other "${text}")
file(WRITE ${kept} "${other}")
count(1 "the case odd is in the program alone.*the case old is in [^\n]*kept.json alone" 500)
string(REPLACE "500" "-5" other "${text}")
file(WRITE ${kept} "${other}")
count(2 "^check-instructions: [^\n]*kept.json: cases have to be counts above 0; [^\n]*\n$" 500)
file(WRITE ${kept} "{")
count(2 "^check-instructions: [^\n]*kept.json: [^\n]*\n$" 500)

execute_process(COMMAND python3 -c "import sys; print(sys.executable)" OUTPUT_VARIABLE python OUTPUT_STRIP_TRAILING_WHITESPACE)
set(ENV{PATH} ${WORK})
execute_process(COMMAND ${python} ${SCRIPT} --program ${STAND_INS}/counted RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT status EQUAL 0 OR NOT out MATCHES "no valgrind on the PATH")
  message(SEND_ERROR "without valgrind: ${status}\n${out}")
endif()
