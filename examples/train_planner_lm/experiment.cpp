/// Training, testing, and where a step stops being numbers.
#include "experiment.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>
#include <planlm/io/table.hpp>
#include <planlm/planning/label_statistics.hpp>
#include <planlm/training/schedule.hpp>

namespace train_planner_lm {
variant_plan plan_of(const std::string& name) {
  if (name == "fixed") return {fixed{}, fixed{}, false, 0, ""};
  if (name == "uniform") return {uniform{}, uniform{}, false, 0, ""};
  if (name == "oracle-oracle") return {oracle_labels{}, oracle_labels{}, false, 0, ""};
  if (name == "oracle-predicted") return {oracle_labels{}, hard{}, false, 0, "oracle-oracle"};
  if (name == "predicted") return {hard{}, hard{}, false, 0, ""};
  if (name == "sampled") return {sampled{}, sampled{}, false, 0, ""};
  if (name == "mixture-frozen") return {mixture{}, mixture{}, false, 0, ""};
  if (name == "top5-frozen") return {top_k{5}, top_k{5}, false, 0, ""};
  if (name == "straight-through") return {straight_through{}, hard{}, true, 0, ""};
  if (name == "gumbel") return {gumbel_softmax{}, mixture{}, true, 0, ""};
  if (name == "mixture-joint-delayed") return {mixture{}, mixture{}, true, 0.5, ""};
  return {mixture{}, mixture{}, true, 0, ""};
}
experiment::experiment(learner& device, const data& d, const embeddings& vectors, const options& o, int seed, run& r)
    : device_(device), data_(d), options_(o), seed_(seed), run_(r), labels_(label(d, vectors, o, static_cast<std::uint64_t>(seed))),
      batches_(d, labels_, o), lm_(device.make(learner::kind::language_model, random(1), false)),
      planner_(device.make(learner::kind::planner, random(2), false)) {
  device_.random = random(9);
  planner_->write("head.w", labels_.centroids);
  for (const int i : d.split.train) add_sentences(i, train_sentences_);
  for (const int i : d.split.valid) add_sentences(i, valid_sentences_);
  for (const int i : d.split.test) add_sentences(i, test_sentences_);
}

experiment::trainee experiment::make_trainee(bool joint) {
  trainee t;
  t.adapters = device_.make(learner::kind::adapters, random(3), true);
  for (index_t i = 0; i < sizes_of(options_, data_).adapters(); ++i) t.adapters->write(std::to_string(i) + ".table", labels_.centroids);
  if (!joint) return t;
  t.planner = device_.make(learner::kind::planner, random(2), true);
  t.planner->copy(*planner_);
  return t;
}

experiment::speeds experiment::measure() {
  const auto seconds = [&](auto&& step) {
    std::vector<double> times;
    for (int s = 0; s < 6; ++s) {
      const auto begin = std::chrono::steady_clock::now();
      step(s);
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::sort(times.begin(), times.end());
    return times[2];
  };
  speeds v{};
  {
    const auto lm = device_.make(learner::kind::language_model, random(1), true);
    auto order = chunks(options_.batch);
    v.base = seconds([&](index_t s) { base_step(*lm, order, s, 0); });
  }
  {
    const auto p = device_.make(learner::kind::planner, random(2), true);
    v.planner = seconds([&](index_t s) { planner_step(*p, s, 0); });
  }
  logits_.assign(static_cast<std::size_t>(data_.sentences) * static_cast<std::size_t>(options_.labels), 0.0f);
  for (const bool joint : {false, true}) {
    trainee t = make_trainee(joint);
    auto order = chunks(options_.variant_batch);
    (joint ? v.joint : v.frozen) = seconds([&](index_t s) { variant_step(t, mixture{}, joint, order, s, 0, 0); });
  }
  return v;
}

void experiment::prepare(const work& w) {
  about_ = {{"identity", run_.identity()}, {"seed", std::to_string(seed_)}};
  const auto base_file = file("base.safetensors"), planner_file = file("planner.safetensors");
  if (std::filesystem::exists(base_file)) {
    run_.load_parameters(*lm_, base_file, about_);
  } else {
    const auto lm = device_.make(learner::kind::language_model, random(1), true, 0.01);
    auto order = chunks(options_.batch);
    const warmup schedule{std::max<index_t>(1, w.base_steps / 20), cosine_decay{std::max<index_t>(1, w.base_steps - w.base_steps / 20), 0.05}};
    const std::vector<named_part> parts{{"lm", lm.get()}};
    run_.stage({"base", seed_, w.base_steps, "--base-rate", parts, {}},
               [&](index_t s) { return base_step(*lm, order, s, options_.base_rate * schedule(s)); },
               [](index_t) { return true; }, [&](index_t s) { return first_not_finite(parts, *lm, order, s, nullptr, nullptr); });
    lm_->copy(*lm);
    run_.save_parameters(*lm_, base_file, about_);
  }
  if (std::filesystem::exists(planner_file)) run_.load_parameters(*planner_, planner_file, about_);
  else train_planner(w.planner_steps, planner_file);
  logits_ = logits_of_all(*planner_);
  before_ = planner_quality(logits_, "planner", "--planner-rate");
}

variant_result experiment::train_and_test(const std::string& name, const work& w) {
  const variant_plan plan = plan_of(name);
  const auto unadapted = [&] { return evaluate_unadapted(); };
  variant_result result{name, seed_, {}, before_.accuracy(), before_.cross_entropy(), before_.entropy(), 0, 0, {}, options_.device, options_.precision};
  if (name == "none") {
    const auto begin = std::chrono::steady_clock::now();
    result.documents = unadapted();
    refuse_not_finite(name, result.documents, false);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }
  trainee t = make_trainee(plan.joint);
  const std::string training = plan.trained_as.empty() ? name : plan.trained_as;
  const auto adapters_file = file(training + ".adapters.safetensors"), planner_file = file(training + ".planner.safetensors");
  const auto about = with_stage(training);
  if (std::filesystem::exists(adapters_file) && (!plan.joint || std::filesystem::exists(planner_file))) {
    const auto found = run_.load_parameters(*t.adapters, adapters_file, about);
    if (plan.joint) run_.load_parameters(*t.planner, planner_file, about);
    const auto number = [&](const char* key) { return found.contains(key) ? std::strtod(found.at(key).c_str(), nullptr) : 0.0; };
    result.seconds = number("seconds");
    result.tokens_per_second = number("tokens_per_second");
  } else {
    auto order = chunks(options_.variant_batch);
    const linear_decay schedule{w.variant_steps};
    std::vector<named_part> parts{{"adapters", t.adapters.get()}};
    if (plan.joint) parts.push_back({"planner", t.planner.get()});
    const auto thaw = static_cast<index_t>(std::llround(plan.unfreeze_at * double(w.variant_steps)));
    const auto thawed = [&](index_t s) { return plan.joint && s >= thaw; };
    const auto done = run_.stage(
        {training, seed_, w.variant_steps, plan.joint ? "--adapter-rate or --joint-planner-rate" : "--adapter-rate", parts, {}},
        [&](index_t s) {
          return variant_step(t, plan.train, thawed(s), order, s, options_.adapter_rate * schedule(s),
                              options_.joint_planner_rate * schedule(s));
        },
        [](index_t) { return true; },
        [&](index_t s) { return first_not_finite(parts, *lm_, order, s, t.adapters.get(), thawed(s) ? t.planner.get() : nullptr, plan.train); });
    result.tokens_per_second = done.tokens_per_second;
    result.seconds = done.seconds;
    auto told = about;
    told["seconds"] = exact(done.seconds);
    told["tokens_per_second"] = exact(done.tokens_per_second);
    if (plan.joint) run_.save_parameters(*t.planner, planner_file, about);
    run_.save_parameters(*t.adapters, adapters_file, told);
  }
  std::vector<float> tuned;
  if (plan.joint) {
    tuned = logits_of(*t.planner, test_sentences_);
    const planner_metrics after = planner_quality(tuned, training, "--joint-planner-rate");
    result.accuracy = after.accuracy();
    result.cross_entropy = after.cross_entropy();
    result.entropy = after.entropy();
  }
  const std::vector<float>& logits = plan.joint ? tuned : logits_;
  result.documents = evaluate(*t.adapters, logits, plan.test);
  refuse_not_finite(name, result.documents, plan.joint);
  if (name == "mixture-joint" || name == "mixture-frozen") result.checks["argmax"] = evaluate(*t.adapters, logits, hard{});
  return result;
}

std::map<std::string, std::string> experiment::with_stage(const std::string& name) const {
  auto about = about_;
  about["stage"] = name;
  return about;
}

chunk_order experiment::chunks(int batch) const {
  return {text::cut_chunks(data_.corpus.documents, data_.split.train, options_.length), batch, static_cast<std::uint64_t>(seed_)};
}

void experiment::add_sentences(int document, std::vector<text::sentence_ref>& to) const {
  for (int s = 0; s < data_.corpus.documents[static_cast<std::size_t>(document)].sentences(); ++s) to.push_back({document, s});
}

step_result experiment::base_step(part& lm, chunk_order& order, index_t s, double rate) {
  return device_.language_model_step(lm, batches_.load(order.at(s), nullptr, false), {.main = rate, .clip = options_.clip});
}

step_result experiment::planner_step(part& p, index_t s, double rate) {
  const auto n = static_cast<index_t>(train_sentences_.size());
  const index_t batch = std::min<index_t>(options_.planner_batch, n), per_epoch = n / batch;
  if (s % per_epoch == 0 || sentence_order_.empty())
    text::shuffled_order(static_cast<int>(n), philox{static_cast<std::uint64_t>(seed_), static_cast<std::uint32_t>(s / per_epoch), 0x706c616e},
                         sentence_order_);
  chosen_.clear();
  for (index_t i = s % per_epoch * batch; i < (s % per_epoch + 1) * batch; ++i)
    chosen_.push_back(train_sentences_[static_cast<std::size_t>(sentence_order_[static_cast<std::size_t>(i)])]);
  return device_.planner_step(p, batches_.load(chosen_), {.main = rate, .clip = options_.clip});
}

step_result experiment::variant_step(trainee& t, const policy& how, bool thawed, chunk_order& order, index_t s, double rate, double planner_rate) {
  const host_batch b = batches_.load(order.at(s), thawed ? nullptr : &logits_, thawed);
  return device_.variant_step(*lm_, *t.adapters, thawed ? t.planner.get() : nullptr, how, b,
                              {.main = rate, .planner = planner_rate, .clip = options_.clip});
}

void experiment::train_planner(index_t steps, const std::filesystem::path& path) {
  const auto p = device_.make(learner::kind::planner, random(2), true);
  p->copy(*planner_);  // with the centroids in its head
  const index_t per_epoch = std::max<index_t>(1, train_sentences() / std::min<index_t>(options_.planner_batch, train_sentences()));
  double best = INFINITY, worse = 0;  // of validation: the lowest cross-entropy, and how many were higher since
  sentence_order_.clear();
  const std::vector<named_part> parts{{"planner", p.get()}, {"best", planner_.get()}};
  run_.stage({"planner", seed_, steps, "--planner-rate", parts, {{"best", &best}, {"worse", &worse}}},
             [&](index_t s) { return planner_step(*p, s, options_.planner_rate); },
             [&](index_t s) {
               if ((s + 1) % per_epoch != 0 && s + 1 != steps) return true;
               const planner_metrics m = quality(logits_of(*p, valid_sentences_), valid_sentences_);
               worse = m.cross_entropy() < best ? 0 : worse + 1;
               if (worse == 0) {
                 best = m.cross_entropy();
                 planner_->copy(*p);
               }
               return worse < 2;
             },
             [&](index_t s) {
               const std::string bad = run_.parameter_not_finite(parts);
               return bad.empty() ? "the planner's logits on batch " + std::to_string(s + 1) + " overflow" : bad;
             });
  run_.save_parameters(*planner_, path, about_);
}

std::vector<float> experiment::logits_of(const part& p, const std::vector<text::sentence_ref>& sentences) {
  const auto labels = static_cast<std::size_t>(options_.labels);
  std::vector<float> all(static_cast<std::size_t>(data_.sentences) * labels);
  for (std::size_t begin = 0; begin < sentences.size(); begin += 512) {
    const auto piece = std::span(sentences).subspan(begin, std::min<std::size_t>(512, sentences.size() - begin));
    const std::vector<float> z = device_.logits(p, batches_.load(piece));
    for (std::size_t i = 0; i < piece.size(); ++i)
      std::copy_n(z.begin() + static_cast<std::ptrdiff_t>(i * labels), labels,
                  all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_.row_of(piece[i])) * labels));
  }
  return all;
}

std::vector<float> experiment::logits_of_all(const part& p) {
  std::vector<text::sentence_ref> all;
  for (int d = 0; d < static_cast<int>(data_.corpus.documents.size()); ++d) add_sentences(d, all);
  return logits_of(p, all);
}

planner_metrics experiment::quality(const std::vector<float>& logits, const std::vector<text::sentence_ref>& sentences) const {
  const auto labels = static_cast<std::size_t>(options_.labels);
  planner_metrics m;
  for (const text::sentence_ref s : sentences) {
    const auto row = static_cast<std::size_t>(data_.row_of(s));
    m.accumulate(std::span<const float>(logits).subspan(row * labels, labels), labels_.labels[row]);
  }
  return m;
}

planner_metrics experiment::planner_quality(const std::vector<float>& logits, const std::string& stage, const char* rate) const {
  try {
    return quality(logits, test_sentences_);
  } catch (const numeric_error& e) {
    throw numeric_error("seed " + std::to_string(seed_) + " " + stage + ", on test: " + e.what() + "; try a smaller " + rate);
  }
}

template <class Nll>
std::vector<document_loss> experiment::evaluate_with(const Nll& nll_of) {
  std::vector<document_loss> losses;
  const philox before = device_.random;  // or else training would depend on what was tested before it
  device_.training = false;
  for (std::size_t at = 0; at < data_.split.test.size(); ++at) {
    run_.stop_if_asked();
    const std::vector<text::chunk> chunks =
        text::cut_chunks(data_.corpus.documents[static_cast<std::size_t>(data_.split.test[at])], data_.split.test[at], options_.length);
    document_loss loss;
    for (std::size_t begin = 0; begin < chunks.size(); begin += 32) {
      const auto piece = std::span(chunks).subspan(begin, std::min<std::size_t>(32, chunks.size() - begin));
      device_.random = random(8).at_step(static_cast<std::uint32_t>(at * 4096 + begin));
      const std::vector<float> nll = nll_of(piece);
      for (const float v : nll) loss.nll += double(v);
      loss.tokens += static_cast<index_t>(nll.size());
    }
    losses.push_back(loss);
  }
  device_.training = true;
  device_.random = before;
  return losses;
}

std::vector<document_loss> experiment::evaluate(const part& adapters, const std::vector<float>& logits, const policy& how) {
  return evaluate_with([&](std::span<const text::chunk> piece) {
    return device_.token_nll(*lm_, &adapters, how, batches_.load(piece, &logits, false));
  });
}

std::vector<document_loss> experiment::evaluate_unadapted() {
  return evaluate_with([&](std::span<const text::chunk> piece) {
    return device_.token_nll(*lm_, nullptr, fixed{}, batches_.load(piece, nullptr, false));
  });
}

std::string experiment::label_report() const {
  const label_sequences train = sequences_of(data_, labels_, data_.split.train), valid = sequences_of(data_, labels_, data_.split.valid),
                        test = sequences_of(data_, labels_, data_.split.test);
  const std::vector<double> deltas{0.01, 0.03, 0.1, 0.3, 1.0};
  const double delta = choose_delta(train.view(), valid.view(), options_.labels, deltas);
  const double one = label_critic::unigram(train.view(), options_.labels, delta).score(test.view()).nats;
  const double two = label_critic::bigram(train.view(), options_.labels, delta).score(test.view()).nats;
  return "seed " + std::to_string(seed_) + ": next label on test, nats: unigram " + with_digits(one, 3) + ", bigram " +
         with_digits(two, 3) + ", planner " + with_digits(before_.cross_entropy(), 3) + " (accuracy " +
         with_digits(before_.accuracy(), 3) + ", entropy " + with_digits(before_.entropy(), 3) + ")";
}

std::string experiment::first_not_finite(const std::vector<named_part>& parts, const part& lm, chunk_order& order, index_t s,
                                         const part* adapters, const part* thawed, const policy& how) {
  if (const std::string bad = run_.parameter_not_finite(parts); !bad.empty()) return bad;
  const host_batch b = batches_.load(order.at(s), adapters && !thawed ? &logits_ : nullptr, thawed);
  return device_.first_not_finite(lm, adapters, thawed, how, b);
}

void experiment::refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const {
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (!std::isfinite(losses[i].nll))
      throw numeric_error("seed " + std::to_string(seed_) + " " + name + ": the loss of test document " + std::to_string(i + 1) +
                          " is no finite number; try a smaller --adapter-rate" + (joint ? " or --joint-planner-rate" : " or --base-rate"));
}

}  // namespace train_planner_lm
