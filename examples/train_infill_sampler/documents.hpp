/// --task documents: the middle sentence of three, written under the posterior of a language model that is
/// trained on the text first.
#pragma once
#include <string>
#include <vector>
#include "options.hpp"

namespace planlm {
class run_folder;
class interrupt_guard;
}  // namespace planlm

namespace train_infill_sampler {

void fill_documents(const options& o, const std::vector<std::string>& command,
                    const planlm::run_folder& folder, const planlm::interrupt_guard& interrupt);

}  // namespace train_infill_sampler
