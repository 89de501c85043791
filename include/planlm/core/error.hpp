/// Errors say what was wrong, where, what was expected and what to do.
#pragma once
#include <stdexcept>
#include <string>

namespace planlm {

/// Every exception the library throws on purpose.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Two extents that had to agree do not, or an extent is out of range. The program is wrong.
struct shape_error : error {
  using error::error;
};
/// The activation arena or the machine is out of memory. The message names sizes and the remedy.
struct memory_error : error {
  using error::error;
};
/// A loss, gradient or parameter stopped being a finite number.
struct numeric_error : error {
  using error::error;
};
/// What a person handed to a program is wrong: one line naming file, position and remedy.
struct input_error : error {
  using error::error;
};

/// The line of the caller. `std::source_location` is missing in clang 14; these builtins are not.
struct location {
  const char* file = "";
  int line = 0;
  static constexpr location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

[[noreturn]] inline void throw_shape_error(const std::string& what, location at) {
  throw shape_error(what + " (called from " + at.file + ":" + std::to_string(at.line) + ")");
}

}  // namespace planlm
