#include "machine.hpp"
#include <planlm/core/error.hpp>

namespace sampler {

bool learns_flow(const objective& how) {
  if (const auto* m = std::get_if<modified_sub_trajectory_balance>(&how)) return m->root == root_anchor::learned;
  return std::holds_alternative<policy_trajectory_balance<>>(how);
}

void packed_text::add(std::span<const int> sequence, std::size_t first_target) {
  for (std::size_t t = 0; t < sequence.size(); ++t) {
    tokens.push_back(sequence[t]);
    targets.push_back(t + 1 < sequence.size() && t + 1 >= first_target ? sequence[t + 1] : -1);
  }
  offsets.push_back(static_cast<int>(tokens.size()));
}

std::unique_ptr<machine> make_machine(const std::string& device, const lm_sizes& sizes, int threads) {
  if (device != "cuda") return make_cpu_machine(sizes, threads);
  if (const std::string complaint = cuda_complaint(); !complaint.empty()) throw input_error("--device cuda: " + complaint);
  return make_cuda_machine(sizes);
}

}  // namespace sampler
