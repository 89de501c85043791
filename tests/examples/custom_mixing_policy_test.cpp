// Runs examples/custom_mixing_policy: a user's policy in at most 40 lines, which checks its own gradient and trains.
#include <cstdio>
#include <fstream>
#include <string>

#include "../catch.hpp"

TEST_CASE("the example of a custom mixing policy passes its own gradient check, trains and has weights of exactly zero") {
  FILE* program = popen(PLANLM_EXAMPLES "/custom_mixing_policy 2>&1", "r");
  REQUIRE(program);
  std::string output;
  for (int c = std::fgetc(program); c != EOF; c = std::fgetc(program)) output += static_cast<char>(c);
  const int status = pclose(program);
  CAPTURE(output);
  CHECK(status == 0);
  double error = 1, first = 0, last = 1;
  const auto scan = [&](const char* before, const char* format, double& value) {
    const auto at = output.find(before);
    REQUIRE(at != std::string::npos);
    REQUIRE(std::sscanf(output.c_str() + at, format, &value) == 1);
  };
  scan("largest error", "largest error %lf", error);
  scan("step   0", "step 0 loss %lf", first);
  scan("step 120", "step 120 loss %lf", last);
  CHECK(error < 1e-7);
  CHECK(last < 0.8 * first);
  CHECK(output.find(" 0.000") == std::string::npos);  // what is printed as zero is zero
}

TEST_CASE("the policy of the example takes at most 40 lines") {
  std::ifstream source(PLANLM_GOLDEN "/../../examples/custom_mixing_policy.cpp");
  REQUIRE(source);
  int lines = 0;
  for (std::string line; std::getline(source, line);) {
    if (lines > 0 || line == "struct sparsemax {") ++lines;
    if (lines > 0 && line == "};") break;
  }
  CHECK(lines > 20);
  CHECK(lines <= 40);
}
