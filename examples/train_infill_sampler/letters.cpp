/// Reading letters, the prior, the methods one after another, the page.
#include "letters.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/text/corpus.hpp>
#include <planlm/training/schedule.hpp>
#include "letter_model.hpp"
#include "letter_trainer.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"

namespace train_infill_sampler {
namespace {

using namespace planlm;

// What draws are for: each has its own numbers.
enum purpose : std::uint32_t { of_start = 1, of_gaps, of_prior, of_behaviour, of_strings };
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

const std::vector<trainer::score_column> columns{
    {"variation_start", "TV at start", 3}, {"variation_early", "after 1/8", 3},
    {"variation", "at the end", 3},        {"kl", "KL(p || q)", 3},
    {"kinds", "strings / step", 0},        {"seconds", "seconds", 1}};

struct material {
  std::vector<letter> text;
  std::size_t train = 0;  // letters of the training part, the first 95 %
  std::string description;
  std::uint64_t fingerprint = 1469598103934665603ull;
  std::span<const letter> trained() const { return std::span(text).first(train); }
  std::span<const letter> held_out() const { return std::span(text).subspan(train); }
};
material read_letters(const options& o) {
  const auto format = std::find_if(text::corpus_format_names.begin(), text::corpus_format_names.end(),
                                   [&](const auto& f) { return o.text.format == f.first; });
  const text::corpus corpus = text::read_corpus(o.text.text, {format->second, text::splitter_kind::lines});
  std::string all;
  for (const auto& d : corpus.documents)
    for (const std::string& s : d.sentences) all += s + ' ';
  material m;
  m.text = letters_of(all);
  m.train = m.text.size() / 20 * 19;
  m.description = o.text.text.string() + ": " + std::to_string(m.text.size()) + " letters and spaces";
  constexpr std::size_t least = 4000;
  if (m.text.size() < least)
    throw input_error(m.description + ", expected at least " + std::to_string(least) +
                      " to count four of them in a row; give a longer text of the letters a to z");
  for (const letter l : m.text) m.fingerprint = (m.fingerprint ^ l) * 1099511628211ull;  // FNV-1a
  return m;
}

/// All of one seed: gaps, the policy that knows the language model alone, and the methods that begin with it.
class letter_run {
 public:
  letter_run(const options& o, const material& m, std::vector<gap> gaps, trainer::run& run,
             letter_trainer& device, int seed)
      : o_(o), material_(m), run_(run), device_(device), seed_(seed), gaps_(std::move(gaps)) {}

  double mean_entropy() const {
    double sum = 0;
    for (const gap& g : gaps_) sum += g.entropy / double(gaps_.size());
    return sum;
  }

  void prepare() {
    policy_ = device_.make(draws(seed_, of_start));
    const std::map<std::string, std::string> about{{"identity", run_.identity()},
                                                   {"seed", std::to_string(seed_)}};
    const auto file = run_.file("seed-" + std::to_string(seed_) + ".prior.safetensors");
    if (std::filesystem::exists(file)) {
      trainer::run::load_parameters(*policy_, file, about);
    } else {
      device_.random = draws(seed_, of_prior);
      const index_t steps = o_.letters.prior_steps;
      run_.stage(
          {"prior", seed_, steps, "--rate", {{"policy", policy_.get()}}, {}},
          [&](index_t s) {
            return device_.prior_step(*policy_, material_.trained(), 128, device_.random,
                                      {o_.tuning.rate * linear_decay{steps, 0.02}(s), 0, o_.tuning.clip});
          },
          [](index_t) { return true; },
          [](index_t) { return std::string("in the policy's log-probabilities"); });
      trainer::run::save_parameters(*policy_, file, about);
    }
    start_ = policy_->read();
  }

  trainer::outcome learn(const std::string& method) {
    const auto begin = std::chrono::steady_clock::now();
    const auto policy = device_.make(draws(seed_, of_start));
    policy->write(start_);
    const sampler::objective how = sampler::objective_of(method);
    std::unique_ptr<sampler::part> flows;
    if (sampler::learns_flow(how)) flows = device_.make_flows(static_cast<int>(gaps_.size()));
    const index_t steps = o_.tuning.steps, early = std::max<index_t>(1, steps / 8),
                  every = std::max<index_t>(1, steps / 40);
    double first = 0, soon = 0, kinds = 0;
    const auto look = [&](index_t step) {
      const distances d = device_.exact(*policy, gaps_);
      run_.observe(seed_, method, step, "exact", {{"tv", d.variation}, {"kl", d.kl}});
      return d;
    };
    std::vector<trainer::named_part> parts{{"policy", policy.get()}};
    if (flows) parts.push_back({"flows", flows.get()});
    const index_t warm = std::min<index_t>(o_.tuning.warmup, steps - 1);
    const warmup rate{warm, linear_decay{std::max<index_t>(1, steps - warm), 0.02}};
    run_.stage(
        {method, seed_, steps, "--rate", parts, {{"first", &first}, {"soon", &soon}, {"kinds", &kinds}}},
        [&](index_t s) {
          if (s == 0) first = look(0).variation;
          const auto at = static_cast<std::uint32_t>(s);
          const auto strings =
              device_.draw(*policy, gaps_, behaviours(method, draws(seed_, of_behaviour).at_step(at)),
                           o_.tuning.rows, draws(seed_, of_strings).at_step(at));
          kinds += double(different(strings)) / double(steps);
          return device_.step(*policy, flows.get(), gaps_, strings, how,
                              {o_.tuning.rate * rate(s), o_.tuning.flow_rate * rate(s), o_.tuning.clip});
        },
        [&](index_t s) {
          if (s + 1 == early)
            soon = look(early).variation;
          else if ((s + 1) % every == 0 || s + 1 == steps)
            look(s + 1);
          return true;
        },
        [](index_t) { return std::string("in the policy's log-probabilities"); });
    const distances now = device_.exact(*policy, gaps_);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return {method,
            seed_,
            {{"variation_start", first},
             {"variation_early", soon},
             {"variation", now.variation},
             {"kl", now.kl},
             {"kinds", kinds},
             {"seconds", seconds}},
            examples(*policy)};
  }

 private:
  std::vector<behaviour> behaviours(const std::string& method, philox random) const {
    std::vector<behaviour> all(gaps_.size());
    const sampler::tuning_options& t = o_.tuning;
    for (std::size_t g = 0; g < all.size() && !needs_own_texts(method); ++g) {
      const double u = random.uniform(g, 0);
      if (u < t.prior)
        all[g].prior = true;
      else if (u < t.prior + t.tempered)
        all[g].temperature = t.lowest + (t.highest - t.lowest) * random.uniform(g, 1);
    }
    return all;
  }
  static index_t different(std::vector<filled> strings) {
    std::vector<std::array<int, 5>> keys;
    for (const filled& f : strings)
      keys.push_back(
          {f.gap, f.length, f.letters[0], f.length > 1 ? f.letters[1] : 0, f.length > 2 ? f.letters[2] : 0});
    std::sort(keys.begin(), keys.end());
    return std::unique(keys.begin(), keys.end()) - keys.begin();
  }
  /// The most probable fillings of a few gaps, true and learned.
  std::vector<trainer::written_text> examples(const sampler::part& policy) {
    std::vector<trainer::written_text> texts;
    for (std::size_t g = 0; g < std::min<std::size_t>(gaps_.size(), 2); ++g) {
      const std::vector<double> q = device_.log_q(policy, gaps_[g]);
      std::vector<int> order(q.size());
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + 5, order.end(), [&](int a, int b) {
        const auto pa = gaps_[g].posterior[static_cast<std::size_t>(a)],
                   pb = gaps_[g].posterior[static_cast<std::size_t>(b)];
        return pa != pb ? pa > pb : a < b;
      });
      std::string written;
      for (int i = 0; i < 5; ++i) {
        const auto c = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
        const auto letters = candidates::spelled(order[static_cast<std::size_t>(i)]);
        written += (i ? ",  " : "") + std::string("\"") +
                   text_of(std::span(letters).first(
                       static_cast<std::size_t>(candidates::length(order[static_cast<std::size_t>(i)])))) +
                   "\" " + with_digits(gaps_[g].posterior[c], 3) + " / " + with_digits(std::exp(q[c]), 3);
      }
      texts.push_back(
          {"\"" + text_of(gaps_[g].before) + "\" ... \"" + text_of(gaps_[g].after) + "\"", written});
    }
    return texts;
  }

  const options& o_;
  const material& material_;
  trainer::run& run_;
  letter_trainer& device_;
  int seed_;
  std::vector<gap> gaps_;
  std::unique_ptr<sampler::part> policy_;
  std::vector<float> start_;
};

}  // namespace

void fill_letters(const options& o, const std::vector<std::string>& command, const run_folder& folder,
                  const interrupt_guard& interrupt) {
  const material m = read_letters(o);
  const letter_model lm(m.trained());
  const std::string corpus = m.description + "; the 4-gram needs " +
                             with_digits(lm.bits_per_letter(m.held_out()), 3) +
                             " bits per letter of the last 5 %";
  std::cerr << corpus << '\n';
  const auto gaps_of = [&](int seed) {
    return find_gaps(lm, m.held_out(), o.letters.contexts, o.letters.least_entropy, o.letters.most_entropy,
                     draws(seed, of_gaps));
  };
  gaps_of(o.common.first_seed);  // a text that has none is refused before anything is written
  auto settings = o.settings;
  settings.emplace_back("text", std::to_string(m.fingerprint));
  trainer::run_book book(folder, "train_infill_sampler", settings, command);

  letter_trainer device(lm, o.letters.hidden, o.common.threads);
  trainer::run run(device.random, folder, interrupt);
  run.identify(book.identity());
  std::vector<trainer::method_about> methods;
  for (const std::string& name : o.methods) methods.push_back({name, about_method(name)});
  std::string entropies;
  const auto page = [&] {
    write_page(
        folder, book,
        {"Filling gaps of letters",
         "A policy is asked for the up to three letters between three that are given and three more. All "
         "20,440 candidates can be counted, so the "
         "posterior p under the 4-gram is known exactly, and so is q, what the policy gives each candidate: "
         "their total variation, half the sum of "
         "|p - q|, is 0 where the policy samples the posterior. Every method begins with the same policy, "
         "which knows the language model but not what "
         "comes after the gap. Reward maximisation is the control: it is to find good candidates, and to "
         "miss the posterior.",
         corpus + entropies,
         methods,
         columns,
         "Means over gaps; strings / step: different ones drawn in a step.",
         {{"exact/tv",
           {.title = "Total variation",
            .caption = "Between posterior and policy, mean over gaps.",
            .x_title = "step",
            .y_title = "total variation"}},
          {"exact/kl",
           {.title = "KL(p || q)",
            .caption = "What the policy misses of the posterior.",
            .x_title = "step",
            .y_title = "nats",
            .log_y = true}}},
         {},
         "The most probable candidates of a few gaps: probability in the posterior / under the policy."},
        o.common);
  };
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed) {
    run.stop_if_asked();
    letter_run one(o, m, gaps_of(seed), run, device, seed);
    if (seed == o.common.first_seed)
      entropies =
          "; mean entropy of a gap's posterior in the first seed: " + with_digits(one.mean_entropy(), 2) +
          " nats";
    if (std::all_of(o.methods.begin(), o.methods.end(),
                    [&](const std::string& name) { return book.find(name, seed) != nullptr; }))
      continue;
    one.prepare();
    for (const std::string& name : o.methods) {
      if (book.find(name, seed)) continue;
      book.add(one.learn(name));
      page();
    }
  }
  page();
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n'
            << corpus << '\n'
            << printed(book.table(methods, columns, o.common)) << "Total variation between the posterior of "
            << o.letters.contexts
            << " gaps and the policy; KL in nats.\nreport:  " << folder.file("report.html").string()
            << "\nresults: " << folder.file("results.json").string() << '\n';
}

}  // namespace train_infill_sampler
