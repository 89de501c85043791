/// The rows of the recovery tables: what is run, and what the earlier pilot saw (means over five seeds).
#pragma once
#include <map>
#include <string>
#include <variant>
#include <vector>
#include "recovery.hpp"
#include "recovery_loop.hpp"
#include "recovery_pairs.hpp"
#include "recovery_references.hpp"
#include "trainer/run_book.hpp"

namespace train_token_guidance::recovery {

struct reference_method {
  bool guided;
};
struct toy_method {
  std::string name, about;
  std::variant<pair_method, loop_method, reference_method> what;
  std::map<std::string, double> pilot;  // of values of an outcome
};
const std::vector<toy_method>& all_methods();
/// Errors: planlm::error for a name that there is not.
const toy_method& method_named(const std::string& name);
std::vector<std::string> method_names();

/// Runs it. Values: `score` is what the toy is about; the others are those of its outcome.
trainer::outcome run_method(const toy_method& m, const recovery_options& o, int seed);
/// Whether the sizes are the pilot's.
bool pilot_sizes(const recovery_options& o);

}  // namespace train_token_guidance::recovery
