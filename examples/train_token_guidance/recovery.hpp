/// Task `recovery`: what token-level guidance does where everything is known, in tables small enough to train many times over.
///
///   pairs        guidance from comparisons, by how rewards become a score      recovery_pairs.hpp
///   loop         guidance and a policy in turns, and what delayed rewards do   recovery_loop.hpp
///   references   likelihood weighted by guidance, on noisy references          recovery_references.hpp
///
/// An earlier pilot has numbers for each; they stand beside those measured here.
#pragma once
#include <string>
#include <vector>
#include "task.hpp"

namespace train_token_guidance {

/// Sizes of the three; by default the pilot's.
struct recovery_options {
  std::vector<std::string> methods;
  int pair_steps = 600, pair_tests = 2000;
  int loop_updates = 600, loop_guidance = 150;
  int reference_updates = 600, reference_guidance = 150;

  void add(trainer::flags& f, shared_options& s);
  /// Errors: input_error naming the flag.
  void check(const shared_options& s) const;
};
void run_recovery(const recovery_options& o, const task& t);

}  // namespace train_token_guidance
