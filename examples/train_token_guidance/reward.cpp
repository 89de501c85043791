/// Training a reward model on lists that people ordered, and the page that shows what it learnt.
#include "reward.hpp"
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include "preference_page.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/text/documents.hpp>
#include <planlm/training/guidance_round.hpp>

namespace train_token_guidance {
namespace {

using trainer::outcome;
using lists_view = std::vector<const preference_list*>;

// What draws of a stage are for; each has its own numbers. Streams below 2^16 are the machine's.
enum purpose : std::uint32_t { of_start = 40, of_head, of_order };
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

const std::vector<std::string> aggregations{"average", "sum", "max", "min"};
// Orders that need no reward model: what it has to beat.
const std::vector<trainer::method_about> controls{
    {"likelihood",
     "no reward model: the untuned language model's mean log-probability of a generation's tokens"},
    {"longer", "no reward model: the generation of more tokens"}};

class reward_task {
 public:
  reward_task(const reward_options& o, const task& t)
      : o_(o),
        t_(t),
        base_(read_planner_base(o.source)),
        parts_(read_parts(o.source, base_, o.shares)),
        training_(informative(parts_.training)),
        validation_(informative(parts_.validation)),
        test_(informative(parts_.test)),
        methods_(o.methods.empty() ? std::vector<std::string>{t.guidance.aggregation} : o.methods),
        book_(t.folder, "train_token_guidance", settings(), t.command),
        machine_(make_guidance_machine(t.base.device, base_.sizes(), t.common.threads)),
        run_(machine_->random, t.folder, t.interrupt),
        lm_(base_.language_model(*machine_)) {
    run_.identify(book_.identity());
  }

  void operator()() {
    std::cerr << corpus() << '\n';
    for (const trainer::method_about& c : controls) score_control(c.name);
    for (int seed = t_.common.first_seed; seed < t_.common.first_seed + t_.common.seeds; ++seed)
      for (const std::string& method : methods_) {
        run_.stop_if_asked();
        if (!book_.find(method, seed)) train(method, seed);
      }
    const std::string best = keep_best();
    const bool learnt = book_.find(best_method_, best_seed_)->values.at("chosen_at") > 0;
    const std::string nothing =
        "caution: no step made the validation lists' loss smaller than that of a model that knows nothing; "
        "give more lists, or try a smaller --reward-rate";
    if (!learnt) parts_.notes.insert(parts_.notes.begin(), nothing);
    page(best);
    std::error_code ignored;
    std::filesystem::remove(run_.checkpoint(), ignored);
    const auto file = [&](const char* name) { return t_.folder.file(name).string(); };
    std::cout << '\n'
              << corpus() << '\n'
              << printed(book_.table(abouts(), columns(), t_.common)) << (learnt ? "" : nothing + "\n")
              << "pairs right: of test lists, which chose nothing; ± the standard error over lists.\n"
              << "reward model: " << file("reward.safetensors") << " (" << best
              << ")\nreport:  " << file("report.html") << "\nresults: " << file("results.json") << '\n';
  }

 private:
  std::vector<std::pair<std::string, std::string>> settings() const {
    auto all = t_.settings;
    all.emplace_back("run", std::to_string(fingerprint_of(base_.run.identity)));
    all.emplace_back("seed of the run", std::to_string(base_.seed));
    all.emplace_back("preferences", std::to_string(parts_.fingerprint));
    return all;
  }
  std::string corpus() const {
    const auto n = [](const lists_view& lists) { return std::to_string(lists.size()); };
    return parts_.description + "; " + n(training_) + " to train with, " + n(validation_) +
           " to validate with and " + n(test_) +
           " to test with, not counting lists whose scores are all equal";
  }
  guidance_options guidance(const std::string& method) const {
    guidance_options g = t_.guidance;
    g.aggregation = method;
    return g;
  }
  std::filesystem::path file_of(const std::string& method, int seed) const {
    return run_.file("seed-" + std::to_string(seed) + "." + method + ".safetensors");
  }
  std::map<std::string, std::string> about_of(const std::string& method, int seed) const {
    return {{"identity", run_.identity()}, {"seed", std::to_string(seed)}, {"stage", method}};
  }
  std::unique_ptr<part> fresh(int seed, bool trained) {
    return machine_->make_reward_model(lm_.get(), t_.guidance.inner, draws(seed, of_head), trained);
  }

  void score_control(const std::string& name) {
    std::vector<std::vector<double>> scores;
    for (const preference_list* list : test_) {
      sampler::packed_text texts;
      std::vector<double> said;
      for (const std::vector<int>& g : list->generations) {
        std::vector<int> all = list->prompt;
        all.insert(all.end(), g.begin(), g.end());
        texts.add(all, list->prompt.size());
        said.push_back(double(g.size()));
      }
      if (name == "likelihood") {
        const std::vector<float> nll = machine_->token_nll(*lm_, texts);
        for (std::size_t k = 0; k < said.size(); ++k) {
          double sum = 0;
          for (int r = texts.offsets[k]; r < texts.offsets[k + 1]; ++r)
            sum += double(nll[static_cast<std::size_t>(r)]);
          said[k] = -sum / said[k];
        }
      }
      scores.push_back(std::move(said));
    }
    const lists_scored s = order_of(test_, std::move(scores));
    for (int seed = t_.common.first_seed; seed < t_.common.first_seed + t_.common.seeds; ++seed)
      if (!book_.find(name, seed))
        book_.add(
            {name,
             seed,
             {{"accuracy", s.accuracy}, {"accuracy_error", s.accuracy_error}, {"pairs", double(s.pairs)}},
             {}});
  }

  /// Lists of step s: all in turn, each epoch in an order of its own.
  ranked_generations batch(int seed, index_t s) const {
    ranked_generations out(machine_->sizes());
    const auto n = static_cast<index_t>(training_.size());
    std::vector<int> order;
    index_t epoch = -1;
    for (index_t i = s * o_.batch; i < (s + 1) * o_.batch; ++i) {
      if (i / n != epoch) {
        epoch = i / n;
        text::shuffled_order(static_cast<int>(n),
                             draws(seed, of_order).at_step(static_cast<std::uint32_t>(epoch)), order);
      }
      add_list(out, *training_[static_cast<std::size_t>(order[static_cast<std::size_t>(i % n)])]);
    }
    return out;
  }

  void train(const std::string& method, int seed) {
    const guidance_rule rule = guidance(method).rule();
    outcome done{method, seed, {}, {}};
    const auto reward = fresh(seed, true);
    const auto say = [&](index_t step, const lists_scored& s, double rate) {
      run_.observe(seed, method, step, "validation",
                   {{"loss", s.loss}, {"accuracy", s.accuracy}, {"rate", rate}});
    };
    const lists_scored before = score_lists(*machine_, *reward, test_, rule);
    double steps = 0, chosen_at = 0;
    const auto best = machine_->make_like(*reward);
    const auto file = file_of(method, seed);
    if (std::filesystem::exists(file)) {
      const auto said = trainer::run::load_parameters(*best, file, about_of(method, seed));
      steps = std::stod(said.at("steps")), chosen_at = std::stod(said.at("chosen_at"));
    } else {
      guidance_round round({.steps = o_.steps,
                            .validate_every = o_.validate_every,
                            .rate = t_.guidance.rate,
                            .clip = {t_.guidance.clip, 1e-6},
                            .patience = o_.patience});
      machine_->random = draws(seed, of_start);
      trainer::stage_state state{method,
                                 seed,
                                 o_.steps,
                                 "--reward-rate",
                                 {{"reward", reward.get()}, {"best", best.get()}},
                                 {{"chosen_at", &chosen_at}}};
      state.memories.push_back({"round", [&] { return round.state(); },
                                [&](std::span<const double> kept) { round.restore(kept); }});
      run_.stage(
          state,
          [&](index_t s) {
            if (s == 0) {  // what knows nothing is a candidate too
              const lists_scored v = score_lists(*machine_, *reward, validation_, rule);
              if (round.validated(v.loss)) best->copy(*reward);
              say(0, v, round.rate());
            }
            return machine_->guidance_step(*reward, batch(seed, s), rule,
                                           {round.rate(), 0, t_.guidance.clip});
          },
          [&](index_t s) {
            if (round.stepped()) {
              const lists_scored v = score_lists(*machine_, *reward, validation_, rule);
              const double rate = round.rate();
              if (round.validated(v.loss)) best->copy(*reward), chosen_at = double(s + 1);
              say(s + 1, v, rate);
            }
            return !round.finished();
          },
          [&](index_t) { return std::string("in the reward model's logits"); });
      steps = double(round.steps());
      save(*best, file, method, seed, steps, chosen_at);
    }
    const double chosen_loss = score_lists(*machine_, *best, validation_, rule).loss;
    const lists_scored after = score_lists(*machine_, *best, test_, rule),
                       known = score_lists(
                           *machine_, *best,
                           std::span(training_).first(std::min<std::size_t>(512, training_.size())), rule);
    done.values = {{"loss_before", before.loss},
                   {"loss", after.loss},
                   {"validation_loss", chosen_loss},
                   {"accuracy_before", before.accuracy},
                   {"accuracy", after.accuracy},
                   {"accuracy_error", after.accuracy_error},
                   {"training_accuracy", known.accuracy},
                   {"pairs", double(after.pairs)},
                   {"steps", steps},
                   {"chosen_at", chosen_at}};
    book_.add(std::move(done));
  }
  void save(part& model, const std::filesystem::path& path, const std::string& method, int seed, double steps,
            double chosen_at) const {
    std::map<std::string, std::string> about = about_of(method, seed);
    about.merge(about_rule(guidance(method), o_.shares));
    about["of"] = base_.run.identity, about["run_seed"] = std::to_string(base_.seed);
    about["steps"] = trainer::exact(steps), about["chosen_at"] = trainer::exact(chosen_at);
    trainer::run::save_parameters(model, path, about);
  }

  /// reward.safetensors: that of the lowest loss on validation lists. Says which.
  std::string keep_best() {
    const outcome* best = nullptr;
    for (int seed = t_.common.first_seed; seed < t_.common.first_seed + t_.common.seeds; ++seed)
      for (const std::string& method : methods_) {
        const outcome* o = book_.find(method, seed);
        if (o && (!best || o->values.at("validation_loss") < best->values.at("validation_loss"))) best = o;
      }
    const auto model = fresh(best->seed, false);
    trainer::run::load_parameters(*model, file_of(best->method, best->seed),
                                  about_of(best->method, best->seed));
    best_ = machine_->make_like(*model);
    best_->copy(*model), best_method_ = best->method, best_seed_ = best->seed;
    save(*best_, run_.file("reward.safetensors"), best->method, best->seed, best->values.at("steps"),
         best->values.at("chosen_at"));
    const std::string name = best->method + ", seed " + std::to_string(best->seed);
    return methods_.size() > 1 || t_.common.seeds > 1 ? name + ": the lowest loss on validation lists" : name;
  }

  std::vector<trainer::method_about> abouts() const {
    std::vector<trainer::method_about> all;
    for (const std::string& method : methods_) all.push_back({method, guidance(method).about()});
    all.insert(all.end(), controls.begin(), controls.end());
    return all;
  }
  static std::vector<trainer::score_column> columns() {
    return {{"loss_before", "loss before", 3},
            {"loss", "loss", 3},
            {"accuracy_before", "pairs right before", 3},
            {"accuracy", "pairs right", 3},
            {"accuracy_error", "±", 3},
            {"training_accuracy", "in training", 3},
            {"chosen_at", "steps", 0}};
  }
  void page(const std::string& best) {
    const guidance_rule rule = guidance(best_method_).rule();
    trainer::page_words words{"What people preferred, token by token",
                              "A reward model gives every token a reward; the rewards of a text, aggregated, "
                              "order the texts of a list as people ordered them. Loss: of whole lists, "
                              "ln K! for a model that knows nothing. Pairs right: of test lists, the share "
                              "of pairs ordered as people did. A model that is no better than the rows "
                              "without one has learnt nothing that likelihood or length do not say.",
                              corpus(),
                              abouts(),
                              columns(),
                              "Test lists chose nothing: neither weights nor when to stop.",
                              {{"validation/loss",
                                {.title = "Loss on validation lists",
                                 .caption = "The weights of the lowest are kept.",
                                 .x_title = "steps",
                                 .y_title = "nats"}},
                               {"validation/accuracy",
                                {.title = "Pairs right, validation lists",
                                 .x_title = "steps",
                                 .y_title = "share",
                                 .reference = 0.5,
                                 .reference_name = "chance"}}}};
    words.more = [&](report& to) {
      show_rewards(to, *machine_, *best_, rule, base_, test_, "Of " + best + ".");
      if (!parts_.notes.empty()) {
        to.section("Worth knowing");
        for (const std::string& line : parts_.notes) to.paragraph(line);
      }
    };
    write_page(t_.folder, book_, words, t_.common);
  }

  const reward_options& o_;
  const task& t_;
  planner_base base_;
  preference_parts parts_;
  lists_view training_, validation_, test_;
  std::vector<std::string> methods_;
  trainer::run_book book_;
  std::unique_ptr<guidance_machine> machine_;
  trainer::run run_;
  std::unique_ptr<part> lm_, best_;
  std::string best_method_;
  int best_seed_ = 0;
};

}  // namespace

void reward_options::add(trainer::flags& f, shared_options& shared) {
  source.add(f);
  f.list("--methods", methods, "aggregations to compare; default: that of --aggregation", aggregations);
  shared.guidance.add(f);
  f.whole("--steps", steps, "at most");
  f.whole("--batch", batch, "lists of a step");
  f.whole("--validate-every", validate_every, "steps");
  f.whole("--patience", patience, "validations without a better one after which training ends");
  f.share("--validation-share", shares.validation,
          "of the lists, chosen by their prompts: they say when to stop");
  f.share("--test-share", shares.test, "of the lists, chosen by their prompts: they say how good it is");
  f.choice("--device", shared.base.device, "that computes", {"cpu", "cuda"});
}
void reward_options::check(const shared_options&) const {
  source.check();
  if (!(shares.validation + shares.test < 1))
    throw input_error("--validation-share and --test-share add up to " +
                      trainer::exact(shares.validation + shares.test) +
                      ", which leaves no list to train with");
}
void run_reward(const reward_options& o, const task& t) { reward_task(o, t)(); }

}  // namespace train_token_guidance
