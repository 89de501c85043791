/// --task letters: samplers of a posterior that is known, and how far from it each of them is while it
/// learns.
#pragma once
#include <string>
#include <vector>
#include "options.hpp"

namespace planlm {
class run_folder;
class interrupt_guard;
}  // namespace planlm

namespace train_infill_sampler {

void fill_letters(const options& o, const std::vector<std::string>& command, const planlm::run_folder& folder,
                  const planlm::interrupt_guard& interrupt);

}  // namespace train_infill_sampler
