/// Draws, gradients and the exact distribution of a letter_policy on the CPU.
#pragma once
#include <array>
#include <memory>
#include <span>
#include <vector>
#include <planlm/cpu.hpp>
#include "letter_policy.hpp"
#include "sampler/machine.hpp"
#include "trainer/parts_on.hpp"

namespace train_infill_sampler {

/// A string that was drawn for a gap.
struct filled {
  int gap = 0, length = 0;
  std::array<letter, 3> letters{};
};
/// How the strings of a gap are drawn: by the policy at a temperature, or by the language model, any length
/// alike.
struct behaviour {
  bool prior = false;
  double temperature = 1;
};
/// Between the posterior p and the policy q, means over gaps.
struct distances {
  double variation, kl;  // sum |p - q| / 2; sum p log(p / q)
};

class letter_trainer {
 public:
  using backend = cpu<float>;

  letter_trainer(const letter_model& lm, int hidden, int threads)
      : lm_(lm), cx_(backend::queue(threads)), net_{hidden} {}
  std::unique_ptr<sampler::part> make(philox start);
  /// One learned log Z or log F for each gap.
  std::unique_ptr<sampler::part> make_flows(int gaps);

  /// A step towards p(z | before) of the language model: gaps whose two sides come from different places of
  /// the text.
  sampler::step_result prior_step(sampler::part& policy, std::span<const letter> text, int rows,
                                  philox random, const sampler::rates& r);
  /// `rows` strings for each gap, those of a gap one after another.
  std::vector<filled> draw(const sampler::part& policy, std::span<const gap> gaps,
                           std::span<const behaviour> how, int rows, philox random);
  /// A step on strings; flows: null where the objective learns none. A flow that has not been stepped begins
  /// at the mean of log R - log q.
  sampler::step_result step(sampler::part& policy, sampler::part* flows, std::span<const gap> gaps,
                            std::span<const filled> strings, const sampler::objective& how,
                            const sampler::rates& r);
  /// log q of all candidates of a gap.
  std::vector<double> log_q(const sampler::part& policy, const gap& g);
  distances exact(const sampler::part& policy, std::span<const gap> gaps);

  /// Of draws; a stage sets its step.
  philox random{};

 private:
  using policy_part = trainer::part_on<backend, letter_policy<backend>>;
  using flow_part = trainer::part_on<backend, embedding<backend>>;
  /// States of the network, each once.
  struct state_list {
    std::vector<int> rows, state;
    int count = 0;
    int add(const gap& g, const std::array<letter, 3>& written, int n);
  };
  std::vector<float> logits(const sampler::part& policy, const state_list& states);
  filled from_prior(const gap& g, int number, philox random, std::uint64_t row) const;
  sampler::step_result update(sampler::part& policy, sampler::part* flows, double loss, index_t tokens,
                              const sampler::rates& r);
  template <class Gradient>
  sampler::step_result learn(sampler::part& policy, sampler::part* flows, std::span<const gap> gaps,
                             std::span<const filled> strings, const sampler::rates& r,
                             const Gradient& gradient);

  const letter_model& lm_;
  context<backend> cx_;
  letter_policy<backend> net_;
};

}  // namespace train_infill_sampler
