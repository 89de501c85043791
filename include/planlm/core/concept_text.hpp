/// Sentences that compilers print when a constraint fails.
#pragma once
#include <cstddef>
#include <planlm/core/config.hpp>

namespace planlm {

/// A string literal as a template argument, so that it shows up in a diagnostic.
template <std::size_t N>
struct diagnostic {
  char characters[N];
  consteval diagnostic(const char (&literal)[N]) {
    for (std::size_t i = 0; i < N; ++i) characters[i] = literal[i];
  }
};

/// Always false. `requires(...) { ... } || because<"what is missing", T>()` makes the missing thing readable:
/// g++ prints the expression, nvcc the atom.
template <diagnostic Why, class... Involved>
consteval bool because() {
  return false;
}

}  // namespace planlm
