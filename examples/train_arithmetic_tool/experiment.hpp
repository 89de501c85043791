/// The comparison: questions, data of a seed, methods, scores.
#pragma once
#include <memory>
#include <set>
#include <string>
#include <vector>
#include "calculator.hpp"
#include "corpus.hpp"
#include "questions.hpp"
#include "sampler/language.hpp"
#include "sampler/tuning.hpp"
#include "trainer/run_book.hpp"

namespace train_arithmetic_tool {

using sampler::machine;
using sampler::part;
using sampler::written;

struct options {
  trainer::common_options common;
  sampler::base_options base{2, 64, 4, 160, 4000, 16, 3e-3};
  corpus_options corpus;
  sampler::tuning_options tuning;
  int demonstrations = 50, pairs = 1000, shots = 3, limit = 2;
  int shortest = 5, longest = 30, test_longest = 40;
  int test = 500, validation = 100, samples = 10, supervised_steps = 300;
  double test_temperature = 0.1, answer_floor = 12;
  bool score_validation = false;
  std::vector<std::string> methods;

  options();
  void add(trainer::flags& f);
  void check() const;  // errors: input_error naming the flag
};

/// Rows of the table, in order, and what they are.
const std::vector<trainer::method_about>& methods();
const std::vector<trainer::score_column>& columns();

class experiment {
 public:
  experiment(const options& o, machine& m, trainer::run& run);
  /// Trains what the method trains and scores it.
  trainer::outcome score(const std::string& method, int seed);

 private:
  /// A number of operands and its questions.
  struct question_set {
    int operands;
    std::vector<question> questions;
  };
  /// What a seed learns from.
  struct data {
    std::vector<question> demonstrations, pairs;
    std::string shown;  // the demonstrations in front of a question
  };
  using scores = std::map<std::string, double>;

  data draw_data(int seed) const;
  std::vector<question_set> draw_questions(int count, std::uint32_t stream);
  std::vector<int> prompt(const question& q, const std::string& shown = "") const;
  planlm::rollout_rule rule(int longest) const;
  calculator tool(std::size_t prompt, int longest) const;
  std::unique_ptr<part> trained(const std::string& method, int seed, const data& d);
  std::unique_ptr<part> supervised(const std::string& method, int seed, const data& d);
  scores test(const part& policy, const std::vector<question_set>& sets, int samples, const std::string& shown, bool uses_tool, planlm::philox random,
              std::vector<trainer::written_text>* texts = nullptr);

  const options& o_;
  machine& m_;
  trainer::run& run_;
  std::set<std::string> left_out_;
  std::vector<question_set> test_, validation_;
  std::unique_ptr<part> base_;
};

}  // namespace train_arithmetic_tool
