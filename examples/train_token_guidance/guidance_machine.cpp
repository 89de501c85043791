#include "guidance_machine.hpp"
#include <planlm/core/error.hpp>
#include "trainer/stage.hpp"

namespace train_token_guidance {

void guidance_options::add(trainer::flags& f) {
  f.choice("--aggregation", aggregation, "how rewards of tokens become the score of a text that lists are ordered by", {"average", "sum", "max", "min"});
  f.choice("--squash", squash, "how logits of the reward model become rewards", {"soft-clipped", "sigmoid"});
  f.above_zero("--beta", beta, "temperature of the soft aggregations max and min");
  f.yes("--no-common-length", plain_length, "leave out the factor of a list's mean length");
  f.yes("--subtract-log-length", subtract_log_length, "take beta ln(length) out of max and min, which otherwise favour long texts and short ones");
  f.whole("--reward-inner", inner, "units of the reward head");
  f.above_zero("--reward-rate", rate, "learning rate of the reward model");
  f.above_zero("--reward-clip", clip, "largest gradient norm of the reward model");
}

guidance_rule guidance_options::rule() const {
  guidance_rule r;
  if (squash == "sigmoid") r.squash = sigmoid_reward{};
  const bool common = !plain_length;
  if (aggregation == "average") r.aggregate = aggregation::average{common};
  else if (aggregation == "sum") r.aggregate = aggregation::sum{};
  else if (aggregation == "max") r.aggregate = aggregation::soft_max{beta, common, subtract_log_length};
  else if (aggregation == "min") r.aggregate = aggregation::soft_min{beta, common, subtract_log_length};
  else throw error("guidance_options: there is no aggregation '" + aggregation + "'");
  return r;
}

std::string guidance_options::about() const {
  const bool soft = aggregation == "max" || aggregation == "min";
  std::string words = soft ? "soft " + aggregation + " with beta " + trainer::exact(beta) : aggregation;
  if (soft && subtract_log_length) words += ", less beta ln(length)";
  if (aggregation != "sum" && plain_length) words += ", without the mean length";
  return words + " of " + squash + " rewards";
}

std::unique_ptr<guidance_machine> make_guidance_machine(const std::string& device, const lm_sizes& sizes, int threads) {
  if (device != "cuda") return make_cpu_guidance_machine(sizes, threads);
  if (const std::string complaint = sampler::cuda_complaint(); !complaint.empty()) throw input_error("--device cuda: " + complaint);
  return make_cuda_guidance_machine(sizes);
}

}  // namespace train_token_guidance
