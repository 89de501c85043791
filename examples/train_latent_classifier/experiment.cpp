/// The methods.
#include "experiment.hpp"
#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/table.hpp>
#include "methods.hpp"
#include "regression.hpp"

namespace train_latent_classifier {
namespace {

// Streams of this program's own draws; those below 2^16 and the first of the others are the machine's and the stages'.
enum purpose : std::uint32_t { of_votes = 40, of_learning };
planlm::philox draws(int seed, purpose what) { return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16}; }

double probability(double odds) { return 1 / (1 + std::exp(-odds)); }

}  // namespace

std::string score_name(const std::string& what, int count) { return what + " " + std::to_string(count); }

struct experiment::cell {
  int seed, count;
  std::vector<example> examples;
  std::unique_ptr<part> supervised{}, first_sampler{};
  std::string stage(const std::string& name) const { return name + "-" + std::to_string(count); }
};

experiment::experiment(machine& m, trainer::run& run, const part& base, const pattern& words, const base_text& lines,
                       const classes& names, const division& text, const options& o)
    : machine_(m), run_(run), base_(base), words_(words), lines_(lines), text_(text), options_(o), names_{names[0].name, names[1].name},
      reader_(m, words, words.label_tokens(o.labels_said[0], o.labels_said[1])), scored_(o.score == "test" ? text.test : text.validation),
      none_(scored_.size(), std::vector<tokens>(1)) {
  rule_.stop = words.so();
  rule_.shortest = 1, rule_.longest = o.longest;
  rule_.penalty = words.penalty(reader_.labels());
  const std::size_t count = std::min<std::size_t>(text.unlabelled.size(), 300);
  for (std::size_t i = 0; i < count; ++i) calibration_.push_back({text.unlabelled[i * text.unlabelled.size() / count], 0});
}

std::string experiment::about_base() const {
  // Of sentences it has seen, with words it may not have: what it knows of the pattern.
  packed_text lines, marked;
  for (std::size_t i = 0; i < std::min<std::size_t>(lines_.size(), 400); ++i) {
    tokens line = lines_.line(i, draws(0, of_learning), i);
    line.insert(line.begin(), words_.pieces().bos());
    lines.add(line);
    marked.add(line, static_cast<std::size_t>(std::find(line.begin(), line.end(), words_.cue()) - line.begin()) + 1);
  }
  return "base model: " + planlm::with_digits(sampler::nats_per_token(machine_, base_, lines), 2) + " nats a token of its lines, " +
         planlm::with_digits(sampler::nats_per_token(machine_, base_, marked), 2) + " of their words behind the cue";
}

experiment::judgement experiment::judge(std::span<const double> odds, int votes) const {
  judgement j{};
  for (std::size_t i = 0; i < scored_.size(); ++i) {
    int second = 0;
    double p = 0;
    for (int v = 0; v < votes; ++v) {
      const double one = odds[i * static_cast<std::size_t>(votes) + static_cast<std::size_t>(v)];
      second += one > 0;
      p += probability(one) / votes;
    }
    const int said = 2 * second != votes ? 2 * second > votes : p > 0.5;  // a tie goes to the mean
    j.accuracy += said == scored_[i].label, j.share += said;
    j.nll -= std::log(std::max(scored_[i].label == 1 ? p : 1 - p, 1e-12));
  }
  const double n = double(scored_.size());
  return {100 * j.accuracy / n, j.nll / n, 100 * j.share / n};
}
experiment::judgement experiment::judge(const label_model& model, const rationales& z, std::span<const tokens> demonstrations) const {
  std::vector<double> odds;
  std::vector<reading> some;
  const auto read = [&] {
    run_.stop_if_asked();
    const std::vector<double> more = reader_.odds(model, some);
    odds.insert(odds.end(), more.begin(), more.end());
    some.clear();
  };
  for (std::size_t i = 0; i < scored_.size(); ++i) {
    tokens prompt = words_.prompt(scored_[i].sentence);
    for (const tokens& d : demonstrations) prompt.insert(prompt.begin() + 1, d.begin(), d.end());
    for (const tokens& rationale : z[i]) some.push_back({prompt, rationale});
    if (some.size() >= 2000 || i + 1 == scored_.size()) read();
  }
  return judge(odds, static_cast<int>(z[0].size()));
}

experiment::rationales experiment::drawn(const part& policy, std::span<const example> sentences, int count, planlm::philox random) const {
  rationales out;
  constexpr std::size_t piece = 200;
  for (std::size_t begin = 0; begin < sentences.size(); begin += piece) {
    run_.stop_if_asked();
    std::vector<tokens> prompts;
    for (const example& e : sentences.subspan(begin, std::min(piece, sentences.size() - begin))) prompts.push_back(words_.prompt(e.sentence));
    const auto texts = sampler::write_texts(machine_, policy, prompts, count, rule_, random.with_stream(random.stream + 1 + static_cast<std::uint32_t>(begin)));
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      out.emplace_back();
      for (int v = 0; v < count; ++v) out.back().push_back(texts[i * static_cast<std::size_t>(count) + static_cast<std::size_t>(v)].actions);
    }
  }
  return out;
}

std::unique_ptr<part> experiment::sampler_of(cell& c, const std::string& name, const label_model& model) {
  std::vector<int> labels;
  std::vector<tokens> prompts;
  for (const example& e : c.examples) labels.push_back(e.label), prompts.push_back(words_.prompt(e.sentence));
  const auto reward = std::make_shared<rationale_reward>(machine_, reader_, base_, model, labels, options_.wrong);
  sampler::tuning_task task;
  task.name = c.stage(name), task.seed = c.seed, task.prompts = static_cast<int>(prompts.size());
  task.prompt = [&](int i) { return prompts[static_cast<std::size_t>(i)]; };
  task.reward = [reward](std::span<const written> z, std::span<const int> prompt) { return (*reward)(z, prompt); };
  task.rule = rule_;
  task.how = sampler::objective_of(options_.objective);
  return sampler::tune(machine_, run_, base_, task, options_.tuning);
}
std::unique_ptr<part> experiment::labels_of(cell& c, const std::string& name, const part* from, const part& policy) {
  const auto data = [&] {
    const rationales z = drawn(policy, c.examples, options_.labels.rationales, draws(c.seed, of_learning));
    std::vector<std::pair<reading, int>> all;
    for (std::size_t i = 0; i < z.size(); ++i)
      for (const tokens& one : z[i]) all.push_back({{words_.prompt(c.examples[i].sentence), one}, c.examples[i].label});
    return all;
  };
  return train_labels(machine_, run_, reader_, base_, from, c.stage(name), c.seed, data, options_);
}
const part& experiment::supervised(cell& c) {
  const auto data = [&] {
    std::vector<std::pair<reading, int>> all;
    for (const example& e : c.examples) all.push_back({{words_.prompt(e.sentence), {}}, e.label});
    return all;
  };
  if (!c.supervised) c.supervised = train_labels(machine_, run_, reader_, base_, nullptr, c.stage("sft"), c.seed, data, options_);
  return *c.supervised;
}

experiment::judgement experiment::with_rationales(const part& policy, const label_model& model, cell& c, trainer::outcome& out) {
  const rationales z = drawn(policy, scored_, options_.votes, draws(c.seed, of_votes));
  if (c.count == options_.counts.back()) {
    out.samples.clear();
    for (std::size_t i : {std::size_t{0}, std::size_t{1}, scored_.size() - 2, scored_.size() - 1}) {
      std::vector<reading> readings;
      for (const tokens& one : z[i]) readings.push_back({words_.prompt(scored_[i].sentence), one});
      const std::vector<double> odds = reader_.odds(model, readings);
      const std::string given = names_[static_cast<std::size_t>(scored_[i].label)] + ": " + scored_[i].sentence;
      for (std::size_t v = 0; v < std::min<std::size_t>(4, odds.size()); ++v)
        out.samples.push_back({given, words_.words(z[i][v]) + ", so " + names_[odds[v] > 0]});
    }
  }
  return judge(model, z);
}

label_model experiment::prompted(std::span<const tokens> demonstrations) const {
  std::vector<reading> readings;
  for (const example& e : calibration_) {
    tokens prompt = words_.prompt(e.sentence);
    for (const tokens& d : demonstrations) prompt.insert(prompt.begin() + 1, d.begin(), d.end());
    readings.push_back({std::move(prompt), {}});
  }
  return reader_.calibrated(base_, readings);
}
label_model experiment::prompted(const part& policy) const {
  const rationales z = drawn(policy, calibration_, 1, draws(0, of_learning));
  std::vector<reading> readings;
  for (std::size_t i = 0; i < z.size(); ++i) readings.push_back({words_.prompt(calibration_[i].sentence), z[i][0]});
  return reader_.calibrated(base_, readings);
}

experiment::judgement experiment::few_shot(cell& c, trainer::outcome& out) const {
  // The longest sentence that is asked about, a rationale, SO and a label have to fit behind them.
  const auto room = static_cast<std::size_t>(options_.base.length - options_.tokens - options_.longest - 4);
  std::vector<tokens> demonstrations;
  std::size_t used = 0;
  for (const example& e : c.examples) {
    tokens d = words_.prompt(e.sentence);
    d.erase(d.begin());
    for (const int id : {words_.so(), reader_.labels()[static_cast<std::size_t>(e.label)], words_.end()}) d.push_back(id);
    if (used + d.size() > room) continue;
    used += d.size();
    demonstrations.push_back(std::move(d));
  }
  out.values[score_name("shots", c.count)] = double(demonstrations.size());
  return judge(prompted(demonstrations), none_, demonstrations);
}

experiment::judgement experiment::vectors(const cell& c) const {
  std::vector<std::string> known, asked;
  std::vector<int> labels;
  for (const example& e : c.examples) known.push_back(e.sentence), labels.push_back(e.label);
  for (const example& e : scored_) asked.push_back(e.sentence);
  const logistic_regression model(lines_.encoder().encode(known), labels);
  const planlm::embeddings x = lines_.encoder().encode(asked);
  std::vector<double> odds;
  for (planlm::index_t i = 0; i < x.rows; ++i) odds.push_back(model.odds(x.row(i)));
  return judge(odds, 1);
}

experiment::judgement experiment::run_method(const std::string& method, cell& c, trainer::outcome& out) {
  if (method == "vectors") return vectors(c);
  if (method == "few-shot") return few_shot(c, out);
  if (method == "sft") return judge(label_model{&supervised(c)}, none_);
  if (method == "zero-shot") {
    if (!zero_shot_) zero_shot_ = std::make_shared<const judgement>(judge(prompted(std::span<const tokens>{}), none_));
    return *zero_shot_;
  }
  if (method == "prior") return with_rationales(base_, {labels_of(c, "prior", nullptr, base_).get()}, c, out);
  if (!base_labels_) base_labels_ = std::make_shared<const label_model>(prompted(base_));
  const auto first = [&]() -> const part& {
    if (!c.first_sampler) c.first_sampler = sampler_of(c, "gflownet", *base_labels_);
    return *c.first_sampler;
  };
  if (method == "gflownet") return with_rationales(first(), *base_labels_, c, out);
  const bool on_supervised = method == "gflownet-sft";
  std::unique_ptr<part> policy, learnt;
  for (int round = 1; round <= options_.labels.rounds; ++round) {
    const std::string name = method + "." + std::to_string(round);
    const part* before = learnt ? learnt.get() : on_supervised ? &supervised(c) : nullptr;
    const part* sampler = nullptr;
    if (round == 1 && !on_supervised) {
      sampler = &first();
    } else {
      policy = sampler_of(c, name + "e", before ? label_model{before} : *base_labels_);
      sampler = policy.get();
    }
    learnt = labels_of(c, name + "m", before, *sampler);
    if (round == options_.labels.rounds) return with_rationales(*sampler, {learnt.get()}, c, out);
  }
  throw planlm::error("there is no method '" + method + "'");
}

void experiment::run_seed(int seed, trainer::run_book& book) {
  for (const int count : options_.counts) {
    cell c{seed, count, labelled(text_, count, seed)};
    for (const std::string& method : options_.methods) {
      run_.stop_if_asked();
      const trainer::outcome* before = book.find(method, seed);
      if (before && before->values.contains(score_name("accuracy", count))) continue;
      trainer::outcome out = before ? *before : trainer::outcome{method, seed, {}, {}};
      const judgement j = run_method(method, c, out);
      out.values[score_name("accuracy", count)] = j.accuracy;
      out.values[score_name("nll", count)] = j.nll;
      out.values[score_name("share", count)] = j.share;
      book.add(std::move(out));
      std::cerr << "seed " << seed << ", " << count << " labels, " << method << ": " << planlm::with_digits(j.accuracy, 1) << " %\n";
    }
  }
}

}  // namespace train_latent_classifier
