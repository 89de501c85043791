/// Methods and scores.
#include "experiment.hpp"
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <planlm/core/error.hpp>

namespace train_arithmetic_tool {
namespace {

using namespace planlm;

// What draws are for; below 2^20 are those of the shared stages.
enum purpose : std::uint32_t { of_test = 1u << 20, of_validation, of_corpus, of_demonstrations, of_pairs, of_batches, of_own_rationales, of_scores };

struct kind {
  bool tuned, uses_tool, seeded;
  const char* objective;  // null: supervised, or untuned
};
kind kind_of(const std::string& method) {
  static const std::map<std::string, kind> all{{"0-shot", {false, false, false, nullptr}},      {"0-shot-tool", {false, true, false, nullptr}},
                                               {"3-shot", {false, false, false, nullptr}},      {"3-shot-tool", {false, true, false, nullptr}},
                                               {"sft-demos", {true, true, false, nullptr}},     {"sft", {true, true, false, nullptr}},
                                               {"self-taught", {true, true, false, nullptr}},   {"reward-only", {true, true, true, "reward-only"}},
                                               {"vargrad", {true, true, true, "vargrad"}},      {"subtb", {true, true, true, "subtb"}},
                                               {"subtb-no-tool", {true, false, true, "subtb"}}, {"subtb-no-seed", {true, true, false, "subtb"}}};
  return all.at(method);
}
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& m : methods()) all.push_back(m.name);
  return all;
}
/// How often a demonstration's question comes in training for each time that one of a pair does: weights 1 and .2.
constexpr int demonstration_weight = 5;

/// A line that is answered as it should be.
std::string demonstration(const question& q) { return "?" + q.text() + ":" + q.rationale() + ">" + std::to_string(q.value()) + ";"; }
/// The longest question there is.
question longest_question(int operands) {
  question q{std::vector<int>(static_cast<std::size_t>(operands), 9), std::vector<int>(static_cast<std::size_t>(operands), -1)};
  q.operands[0] = 0, q.signs[0] = 1;
  return q;
}
/// Of the i-th training question: three and four in turn.
int operands_of(std::size_t i) { return i % 2 == 0 ? 3 : 4; }

/// The answer of most rationales, the one that came first of several; nothing if none of them has one.
std::optional<int> vote(const std::vector<std::optional<int>>& answers) {
  std::optional<int> best;
  std::ptrdiff_t most = 0;
  for (const auto& a : answers)
    if (const auto n = std::count(answers.begin(), answers.end(), a); a && n > most) best = a, most = n;
  return best;
}

}  // namespace

options::options() : methods(names()) {
  tuning.steps = 1000, tuning.horizon = 500, tuning.rows = 8, tuning.prompts = 4;
  tuning.start_temperature = 1.1, tuning.end_temperature = 0.5;
  // Hot draws ramble, and a long rationale has many more pairs of prefixes than a short one: validation is better without them.
  tuning.tempered = 0, tuning.prior = 0.25, tuning.replayed = 0.25;
}
void options::add(trainer::flags& f) {
  f.common(common);
  f.list("--methods", methods, "rows of the table", names());
  base.add(f);
  corpus.add(f);
  tuning.add(f);
  f.whole("--demonstrations", demonstrations, "questions with a rationale", 3);
  f.whole("--pairs", pairs, "questions with an answer and no rationale", 0);
  f.whole("--shots", shots, "demonstrations in front of a question, for prompting and in the reward", 0);
  f.whole("--operands", limit, "that the calculator takes, the last of an expression; 0: all", 0);
  f.whole("--shortest", shortest, "actions of a rationale", 0);
  f.whole("--longest", longest, "actions of a rationale in training");
  f.whole("--test-longest", test_longest, "actions of a rationale in the test");
  f.above_zero("--answer-floor", answer_floor, "nats: an answer behind a rationale counts as at least e^-this probable in the reward");
  f.whole("--supervised-steps", supervised_steps, "of the supervised rows");
  f.whole("--test", test, "questions of each number of operands in the test");
  f.whole("--validation", validation, "questions of each number of operands for curves and choices");
  f.whole("--samples", samples, "rationales that vote on an answer");
  f.above_zero("--test-temperature", test_temperature, "at which they are drawn");
  f.yes("--score-validation", score_validation, "score the validation questions instead of the test, for choices");
}
void options::check() const {
  base.check(), corpus.check(), tuning.check();
  if (shots > demonstrations)
    throw input_error("--shots " + std::to_string(shots) + ": there are only " + std::to_string(demonstrations) + " --demonstrations");
  if (shortest > longest || shortest > test_longest)
    throw input_error("--shortest " + std::to_string(shortest) + " is above " + (shortest > longest ? "--longest" : "--test-longest"));
  constexpr int most = 1000;  // of the 4000 questions of three operands
  for (const auto& [flag, n] : {std::pair{"--test", test}, {"--validation", validation}})
    if (n > most)
      throw input_error(std::string(flag) + " " + std::to_string(n) + ": give at most " + std::to_string(most) +
                        ", there are 4000 questions of three operands");
  if (const std::size_t least = longest_question(4).rationale().size(); static_cast<std::size_t>(longest) < least)
    throw input_error("--longest " + std::to_string(longest) + ": a demonstration may have " + std::to_string(least) +
                      " actions; give at least that");
  std::size_t shown = 1;
  for (int i = 0; i < shots; ++i) shown += demonstration(longest_question(operands_of(static_cast<std::size_t>(i)))).size();
  // With two marks around a question; behind a rationale in training the reward reads an answer of six tokens at most.
  const auto need = shown + std::max(longest_question(4).text().size() + static_cast<std::size_t>(longest) + 8,
                                     longest_question(5).text().size() + static_cast<std::size_t>(test_longest) + 2);
  if (static_cast<index_t>(need) > base.length)
    throw input_error("--length " + std::to_string(base.length) + ": " + std::to_string(shots) +
                      " demonstrations, a question and a rationale may take " + std::to_string(need) + " tokens; give at least that, or fewer --shots");
  if (demonstrations + pairs > 2000)
    throw input_error("--demonstrations and --pairs: " + std::to_string(demonstrations + pairs) +
                      " questions, give at most 2000, half of them have three operands");
}

const std::vector<trainer::method_about>& methods() {
  static const std::vector<trainer::method_about> all{
      {"0-shot", "the base model goes on behind the question alone and does its own arithmetic"},
      {"0-shot-tool", "the same with the calculator"},
      {"3-shot", "the base model with --shots demonstrations in front of the question, without the calculator"},
      {"3-shot-tool", "the same with the calculator"},
      {"sft-demos", "supervised fine-tuning on the demonstrations alone: every token that the policy chooses in the rationale, and its end; results "
                    "of the calculator are read, not predicted"},
      {"sft", "supervised fine-tuning on demonstrations and pairs, drawn 1 : .2 a question: a pair has no rationale, so the target behind its "
              "question is the answer's mark and the answer"},
      {"self-taught", "supervised fine-tuning on the demonstrations and on rationales that the base model wrote for the pairs, demonstrations in "
                      "front and calculator at hand, temperature 1, four each, those kept whose answer is that of the pair"},
      {"reward-only", "policy gradient that maximises the mean log-reward, on-policy, group-normalised"},
      {"vargrad", "GFlowNet: variance of log q - log R over the rationales of a question; buffers begin with the demonstrations"},
      {"subtb", "GFlowNet: modified sub-trajectory balance, lambda 1, the root anchored at the batch's mean; buffers begin with the demonstrations"},
      {"subtb-no-tool", "the same without the calculator, in training and test"},
      {"subtb-no-seed", "the same with the calculator, buffers begin empty"}};
  return all;
}
const std::vector<trainer::score_column>& columns() {
  static const std::vector<trainer::score_column> all{{"accuracy_3", "3 operands, %", 1}, {"accuracy_4", "4 operands, %", 1},
                                                      {"accuracy_5", "5 operands, %", 1}, {"valid", "true equations, %", 1},
                                                      {"solutions", "worked solutions, %", 1}, {"length", "tokens", 1}};
  return all;
}

experiment::experiment(const options& o, machine& m, trainer::run& run) : o_(o), m_(m), run_(run) {
  test_ = draw_questions(o.test, of_test);
  validation_ = draw_questions(o.validation, of_validation);
  base_ = sampler::base_model(m, run, o.base, [&](index_t step) {
    return corpus_batch(o.corpus, left_out_, o.base.batch, o.base.length, philox{0, static_cast<std::uint32_t>(step), of_corpus});
  });
}

std::vector<experiment::question_set> experiment::draw_questions(int count, std::uint32_t stream) {
  std::vector<question_set> sets;
  for (int operands = 3; operands <= 5; ++operands) {
    sets.push_back({operands, {}});
    dice d(philox{0, 0, stream}, static_cast<std::uint64_t>(operands));
    while (static_cast<int>(sets.back().questions.size()) < count) {
      question q = draw_question(operands, d);
      if (left_out_.insert(q.text()).second) sets.back().questions.push_back(std::move(q));
    }
  }
  return sets;
}
experiment::data experiment::draw_data(int seed) const {
  std::set<std::string> used = left_out_;
  const auto draw = [&](int count, std::uint32_t stream) {
    std::vector<question> all;
    dice d(philox{static_cast<std::uint64_t>(seed), 0, stream}, 0);
    while (static_cast<int>(all.size()) < count) {
      question q = draw_question(operands_of(all.size()), d);
      if (used.insert(q.text()).second) all.push_back(std::move(q));
    }
    return all;
  };
  data out{draw(o_.demonstrations, of_demonstrations), draw(o_.pairs, of_pairs), ""};
  for (int i = 0; i < o_.shots; ++i) {
    out.shown += demonstration(out.demonstrations[static_cast<std::size_t>(i)]);
  }
  return out;
}

std::vector<int> experiment::prompt(const question& q, const std::string& shown) const { return encode("^" + shown + "?" + q.text() + ":"); }
rollout_rule experiment::rule(int longest) const {
  rollout_rule r{answer_mark, o_.shortest, longest, {}, std::vector<float>(symbol_count, 0.0f)};
  for (const int other : {question_mark, rationale_mark, line_end, begin_mark}) r.penalty[static_cast<std::size_t>(other)] = -99;
  return r;
}
calculator experiment::tool(std::size_t prompt, int longest) const {
  return {o_.limit, static_cast<std::size_t>(o_.base.length) - prompt, static_cast<std::size_t>(longest)};
}

trainer::outcome experiment::score(const std::string& method, int seed) {
  const kind k = kind_of(method);
  const data d = draw_data(seed);
  const auto policy = k.tuned ? trained(method, seed, d) : nullptr;
  const std::string shown = method.starts_with("3-shot") ? d.shown : "";
  trainer::outcome out{method, seed, {}, {}};
  out.values = test(policy ? *policy : *base_, o_.score_validation ? validation_ : test_, o_.samples, shown, k.uses_tool,
                    philox{static_cast<std::uint64_t>(seed), 0, of_scores}, &out.samples);
  return out;
}

std::unique_ptr<part> experiment::trained(const std::string& method, int seed, const data& d) {
  const kind k = kind_of(method);
  if (!k.objective) return supervised(method, seed, d);
  // A demonstration's question stands in the list several times.
  std::vector<question> questions;
  for (int copy = 0; copy < demonstration_weight; ++copy) questions.insert(questions.end(), d.demonstrations.begin(), d.demonstrations.end());
  const auto shown_to_policy = static_cast<int>(questions.size());
  questions.insert(questions.end(), d.pairs.begin(), d.pairs.end());
  const auto at = [&](int i) -> const question& { return questions[static_cast<std::size_t>(i)]; };

  sampler::tuning_task task;
  task.name = method, task.seed = seed, task.prompts = static_cast<int>(questions.size());
  task.prompt = [&](int i) { return prompt(at(i)); };
  // Behind half an expression an answer is improbable by dozens of nats, and squared they would drown all else a balance asks for. The floor
  // bounds that, and little mass comes with it: rationales that count for it have at most e^-floor of the base model's own mass a length.
  task.reward = [&](std::span<const written> texts, std::span<const int> of) {
    likelihood_options<float> how;
    how.prompt = [&](std::size_t b, const written&) { return prompt(at(of[b]), d.shown); };
    how.ending = [&](std::size_t b, const written&) { return encode(">" + std::to_string(at(of[b]).value()) + ";"); };
    how.ending_weight = 0;
    const sampler::prefix_rewards rationale = m_.likelihood(*base_, texts, how);
    how.text_weight = 0, how.ending_weight = 1;
    const sampler::prefix_rewards answer = m_.likelihood(*base_, texts, how);
    std::vector<log_reward_row> rows(texts.size());
    for (std::size_t b = 0; b < rows.size(); ++b)
      for (std::size_t k = 0; k < answer[b].size(); ++k) rows[b].base.push_back(rationale[b][k] + std::max(answer[b][k], -o_.answer_floor));
    return rows;
  };
  task.rule = rule(o_.longest);
  task.how = sampler::objective_of(k.objective);
  // The reward reads demonstrations, question, rationale and answer: a calculator must leave room for all.
  if (k.uses_tool) task.tool = tool(prompt(longest_question(4), d.shown).size() + 6, o_.longest);
  if (k.seeded)
    task.demonstrations = [&, k](int i) {
      std::vector<sampler::tokens> all;
      if (i < shown_to_policy) all.push_back(encode(k.uses_tool ? without_results(at(i).rationale()) : at(i).rationale()));
      return all;
    };
  task.observe = [&, k](const part& policy) {
    const scores now = test(policy, validation_, 1, "", k.uses_tool, philox{0, 0, of_validation});
    return std::vector<std::pair<std::string, double>>(now.begin(), now.end());
  };
  sampler::tuning_options how = o_.tuning;
  if (method == "reward-only") how.tempered = how.prior = how.replayed = 0;  // a policy gradient is right for what the policy drew itself
  return sampler::tune(m_, run_, *base_, task, how);
}

std::unique_ptr<part> experiment::supervised(const std::string& method, int seed, const data& d) {
  struct example {
    std::vector<int> tokens, targets;
  };
  std::vector<example> shown, others;
  // What the calculator writes is state: it is read, not predicted.
  const auto example_of = [](const written& z) {
    example e{z.state, std::vector<int>(z.state.size(), -1)};
    for (std::size_t c = 0; c <= z.actions.size(); ++c)
      e.targets[static_cast<std::size_t>(z.decided[c])] = c < z.actions.size() ? z.actions[c] : static_cast<int>(answer_mark);
    return e;
  };
  const calculator uses = tool(prompt(longest_question(4)).size(), o_.longest);
  for (const question& q : d.demonstrations)
    shown.push_back(example_of(given_rollout<float>(prompt(q), encode(without_results(q.rationale())), uses)));
  const auto prepare = [&] {
    if (method == "sft")
      for (const question& q : d.pairs) {
        example e{prompt(q), {}};
        const std::size_t from = e.tokens.size();
        for (const int t : encode(">" + std::to_string(q.value()) + ";")) e.tokens.push_back(t);
        for (std::size_t t = 1; t <= e.tokens.size(); ++t) e.targets.push_back(t >= from && t < e.tokens.size() ? e.tokens[t] : -1);
        others.push_back(std::move(e));
      }
    if (method == "self-taught") {
      constexpr int tries = 4;
      std::vector<sampler::tokens> prompts;
      for (const question& q : d.pairs) prompts.push_back(prompt(q, d.shown));
      const std::vector<written> texts =
          sampler::write_texts(m_, *base_, prompts, tries, rule(o_.longest), philox{static_cast<std::uint64_t>(seed), 0, of_own_rationales},
                               tool(prompt(longest_question(4), d.shown).size(), o_.longest));
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const question& q = d.pairs[i / tries];
        const std::size_t from = texts[i].prompt.size();
        if (answer_of(decode(std::span(texts[i].state).subspan(from))) != q.value()) continue;
        written z = texts[i];  // behind the question alone
        z.prompt = prompt(q);
        const auto moved = static_cast<int>(from - z.prompt.size());
        z.state.erase(z.state.begin() + 1, z.state.begin() + 1 + moved);
        for (int& place : z.decided) place -= moved;
        others.push_back(example_of(z));
      }
    }
  };
  const auto batch = [&](index_t step) {
    if (others.empty() && method != "sft-demos") prepare();
    const double weight = double(demonstration_weight) * double(shown.size()), share = weight / (weight + double(others.size()));
    sampler::packed_text text;
    for (int b = 0; b < o_.tuning.prompts * o_.tuning.rows; ++b) {
      dice dice_of_row(philox{static_cast<std::uint64_t>(seed), static_cast<std::uint32_t>(step), of_batches}, static_cast<std::uint64_t>(b));
      const auto& from = others.empty() || dice_of_row.chance(share) ? shown : others;
      const example& e = from[static_cast<std::size_t>(dice_of_row.below(static_cast<int>(from.size())))];
      text.tokens.insert(text.tokens.end(), e.tokens.begin(), e.tokens.end());
      text.targets.insert(text.targets.end(), e.targets.begin(), e.targets.end());
      text.offsets.push_back(static_cast<int>(text.tokens.size()));
    }
    return text;
  };
  sampler::tuning_options how = o_.tuning;
  how.steps = o_.supervised_steps;
  return sampler::tune_supervised(m_, run_, *base_, method, seed, batch, how, [&](const part& policy) {
    const scores now = test(policy, validation_, 1, "", true, philox{0, 0, of_validation});
    return std::vector<std::pair<std::string, double>>(now.begin(), now.end());
  });
}

experiment::scores experiment::test(const part& policy, const std::vector<question_set>& sets, int samples, const std::string& shown, bool uses_tool,
                                    philox random, std::vector<trainer::written_text>* texts) {
  rollout_rule how = rule(o_.test_longest);
  how.draw.temperature = o_.test_temperature;
  double valid = 0, solutions = 0, length = 0, count = 0;
  scores out;
  for (const question_set& set : sets) {
    std::vector<sampler::tokens> prompts;
    for (const question& q : set.questions) prompts.push_back(prompt(q, shown));
    const auto uses = uses_tool ? machine::tool(tool(prompts[0].size(), o_.test_longest)) : machine::tool();
    const philox draws = random.with_stream(random.stream + 16 * static_cast<std::uint32_t>(set.operands));
    const auto all = sampler::write_texts(m_, policy, prompts, samples, how, draws, uses);
    double right = 0;
    for (std::size_t i = 0; i < set.questions.size(); ++i) {
      const question& q = set.questions[i];
      std::vector<std::optional<int>> answers;
      for (std::size_t s = i * static_cast<std::size_t>(samples); s < (i + 1) * static_cast<std::size_t>(samples); ++s) {
        const std::string rationale = decode(std::span(all[s].state).subspan(all[s].prompt.size()));
        answers.push_back(answer_of(rationale));
        valid += is_valid(rationale), solutions += is_solution(q, rationale), length += double(rationale.size()), count += 1;
        if (texts && i < 2 && s == i * static_cast<std::size_t>(samples)) texts->push_back({spaced(q.text()), spaced(rationale)});
      }
      right += vote(answers) == q.value();
    }
    out["accuracy_" + std::to_string(set.operands)] = 100 * right / double(set.questions.size());
  }
  out["valid"] = 100 * valid / count, out["solutions"] = 100 * solutions / count, out["length"] = length / count;
  return out;
}

}  // namespace train_arithmetic_tool
