/// Training, testing, and where a step stops being numbers.
#include "experiment.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>
#include <planlm/io/table.hpp>
#include <planlm/planning/label_statistics.hpp>
#include <planlm/training/clipping.hpp>
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
experiment::experiment(context<B>& cx, const data& d, const embeddings& vectors, const options& o, int seed, run& r)
    : cx_(cx), data_(d), options_(o), seed_(seed), run_(r), labels_(label(d, vectors, o, static_cast<std::uint64_t>(seed))),
      model_(make_model(o, d)), plan_(make_planner(o)), batches_(d, labels_, o),
      lm_(cx, model_.lm, random(1), lm_store::gradients::none), planner_(cx, plan_, random(2), planner_store::gradients::none) {
  cx_.random = random(9);
  if (const auto n = std::min<std::size_t>(planner_.slots().size(), 1); n) load_centroids(planner_, "head.w");
  for (const int i : d.split.train) add_sentences(i, train_sentences_);
  for (const int i : d.split.valid) add_sentences(i, valid_sentences_);
  for (const int i : d.split.test) add_sentences(i, test_sentences_);
}

experiment::trainee::trainee(experiment& e, bool joint)
    : adapters(e.cx_, e.model_.adapters, e.random(3)), adapter_optimiser(e.cx_, adapters.flat_weights().size()) {
  for (index_t i = 0; i < e.model_.adapters.depth; ++i) e.load_centroids(adapters, std::to_string(i) + ".table");
  if (!joint) return;
  planner.emplace(e.cx_, e.plan_, e.random(2));
  planner->copy_weights(e.cx_, e.planner_);
  planner_optimiser.emplace(e.cx_, planner->flat_weights().size());
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
    lm_store lm(cx_, model_.lm, random(1));
    adamw<B> optimiser(cx_, lm.flat_weights().size());
    auto order = chunks(options_.batch);
    v.base = seconds([&](index_t s) { base_step(lm, optimiser, order, s, 0); });
  }
  {
    planner_store p(cx_, plan_, random(2));
    adamw<B> optimiser(cx_, p.flat_weights().size());
    v.planner = seconds([&](index_t s) { planner_step(p, optimiser, s, 0); });
  }
  logits_.assign(static_cast<std::size_t>(data_.sentences) * static_cast<std::size_t>(options_.labels), 0.0f);
  for (const bool joint : {false, true}) {
    trainee t(*this, joint);
    auto order = chunks(options_.variant_batch);
    (joint ? v.joint : v.frozen) = seconds([&](index_t s) { variant_step(t, mixture{}, joint, order, s, 0, 0); });
  }
  return v;
}

void experiment::prepare(const work& w) {
  about_ = {{"identity", run_.identity()}, {"seed", std::to_string(seed_)}};
  const auto base_file = file("base.safetensors"), planner_file = file("planner.safetensors");
  if (std::filesystem::exists(base_file)) {
    run_.load_parameters(part_of("lm", lm_), base_file, about_);
  } else {
    lm_store lm(cx_, model_.lm, random(1));
    adamw<B> optimiser(cx_, lm.flat_weights().size(), {.weight_decay = 0.01}, decay_of_matrices(lm.slots()));
    auto order = chunks(options_.batch);
    const warmup schedule{std::max<index_t>(1, w.base_steps / 20), cosine_decay{std::max<index_t>(1, w.base_steps - w.base_steps / 20), 0.05}};
    const std::vector<trained_part> parts{part_of("lm", lm, &optimiser)};
    run_.stage({"base", seed_, w.base_steps, "--base-rate", parts, {}},
               [&](index_t s) { return base_step(lm, optimiser, order, s, options_.base_rate * schedule(s)); },
               [](index_t) { return true; }, [&](index_t s) { return first_not_finite(parts, lm, order, s, nullptr, nullptr); });
    lm_.copy_weights(cx_, lm);
    run_.save_parameters(part_of("lm", lm_), base_file, about_);
  }
  if (std::filesystem::exists(planner_file)) run_.load_parameters(part_of("planner", planner_), planner_file, about_);
  else train_planner(w.planner_steps, planner_file);
  logits_ = logits_of_all(planner_);
  before_ = planner_quality(logits_, "planner", "--planner-rate");
}

variant_result experiment::train_and_test(const std::string& name, const work& w) {
  const variant_plan plan = plan_of(name);
  const auto unadapted = [&] { return evaluate_unadapted(); };
  variant_result result{name, seed_, {}, before_.accuracy(), before_.cross_entropy(), before_.entropy(), 0, 0, {}};
  if (name == "none") {
    const auto begin = std::chrono::steady_clock::now();
    result.documents = unadapted();
    refuse_not_finite(name, result.documents, false);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }
  trainee t(*this, plan.joint);
  const std::string training = plan.trained_as.empty() ? name : plan.trained_as;
  const auto adapters_file = file(training + ".adapters.safetensors"), planner_file = file(training + ".planner.safetensors");
  const auto about = with_stage(training);
  if (std::filesystem::exists(adapters_file) && (!plan.joint || std::filesystem::exists(planner_file))) {
    const auto found = run_.load_parameters(part_of("adapters", t.adapters), adapters_file, about);
    if (plan.joint) run_.load_parameters(part_of("planner", *t.planner), planner_file, about);
    const auto number = [&](const char* key) { return found.contains(key) ? std::strtod(found.at(key).c_str(), nullptr) : 0.0; };
    result.seconds = number("seconds");
    result.tokens_per_second = number("tokens_per_second");
  } else {
    auto order = chunks(options_.variant_batch);
    const linear_decay schedule{w.variant_steps};
    std::vector<trained_part> parts{part_of("adapters", t.adapters, &t.adapter_optimiser)};
    if (plan.joint) parts.push_back(part_of("planner", *t.planner, &*t.planner_optimiser));
    const auto thaw = static_cast<index_t>(std::llround(plan.unfreeze_at * double(w.variant_steps)));
    const auto thawed = [&](index_t s) { return plan.joint && s >= thaw; };
    const auto done = run_.stage(
        {training, seed_, w.variant_steps, plan.joint ? "--adapter-rate or --joint-planner-rate" : "--adapter-rate", parts, {}},
        [&](index_t s) {
          return variant_step(t, plan.train, thawed(s), order, s, options_.adapter_rate * schedule(s),
                              options_.joint_planner_rate * schedule(s));
        },
        [](index_t) { return true; },
        [&](index_t s) { return first_not_finite(parts, lm_, order, s, &t, thawed(s) ? &*t.planner : nullptr, plan.train); });
    result.tokens_per_second = done.tokens_per_second;
    result.seconds = done.seconds;
    auto told = about;
    told["seconds"] = exact(done.seconds);
    told["tokens_per_second"] = exact(done.tokens_per_second);
    if (plan.joint) run_.save_parameters(part_of("planner", *t.planner), planner_file, about);
    run_.save_parameters(part_of("adapters", t.adapters), adapters_file, told);
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
  result.documents = evaluate(t.adapters, logits, plan.test);
  refuse_not_finite(name, result.documents, plan.joint);
  if (name == "mixture-joint" || name == "mixture-frozen") result.checks["argmax"] = evaluate(t.adapters, logits, hard{});
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

template <class Store>
void experiment::load_centroids(Store& store, const std::string& name) {
  store.write(cx_, store.find(name), labels_.centroids);
}

step_result experiment::base_step(lm_store& lm, adamw<B>& optimiser, chunk_order& order, index_t s, double rate) {
  auto scope = cx_.scope();
  const device_batch b = batches_.load(cx_, order.at(s), nullptr, false);
  auto [h, pullback] = model_.lm(cx_, lm.weights, b.rows.tokens, b.rows.rows);
  auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(lm.weights.token.table), b.rows.targets,
                                        const_tensor<B, 1>{}, 1.0f / static_cast<float>(b.tokens()), lm.grads.token.table);
  pullback(loss.dhidden, lm.grads);
  const auto norm = clip_global_norm(cx_, options_.clip, lm.flat_grads());
  optimiser.step(cx_, lm.flat_weights(), lm.flat_grads(), rate, norm.factor);
  return {double(cx_.read_one(loss.total)), b.tokens(), double(cx_.read_one(norm.norm))};
}

step_result experiment::planner_step(planner_store& p, adamw<B>& optimiser, index_t s, double rate) {
  auto scope = cx_.scope();
  const auto n = static_cast<index_t>(train_sentences_.size());
  const index_t batch = std::min<index_t>(options_.planner_batch, n), per_epoch = n / batch;
  if (s % per_epoch == 0 || sentence_order_.empty())
    text::shuffled_order(static_cast<int>(n), philox{static_cast<std::uint64_t>(seed_), static_cast<std::uint32_t>(s / per_epoch), 0x706c616e},
                         sentence_order_);
  chosen_.clear();
  for (index_t i = s % per_epoch * batch; i < (s % per_epoch + 1) * batch; ++i)
    chosen_.push_back(train_sentences_[static_cast<std::size_t>(sentence_order_[static_cast<std::size_t>(i)])]);
  const device_batch b = batches_.load(cx_, chosen_);
  auto [z, pullback] = plan_(cx_, p.weights, b.context, b.contexts);
  auto loss = ops::cross_entropy(cx_, const_tensor<B>(z), b.labels, 1.0f / static_cast<float>(batch));
  pullback(loss.dz, p.grads);
  const auto norm = clip_global_norm(cx_, options_.clip, p.flat_grads());
  optimiser.step(cx_, p.flat_weights(), p.flat_grads(), rate, norm.factor);
  return {double(cx_.read_one(loss.total)), batch, double(cx_.read_one(norm.norm))};
}

step_result experiment::variant_step(trainee& t, const policy& how, bool thawed, chunk_order& order, index_t s, double rate, double planner_rate) {
  auto scope = cx_.scope();
  const device_batch b = batches_.load(cx_, order.at(s), thawed ? nullptr : &logits_, thawed);
  double total = 0, gradient = 0;
  const auto through = [&](const_tensor<B> z) {  // -> dz
    return std::visit(
        [&](const auto& chosen) {
          auto [w, back] = as_policy(chosen, b).weights(cx_, z);
          const const_tensor<B> dw = lm_step(t, b, w, thawed, total);
          return thawed ? const_tensor<B>(back(dw)) : const_tensor<B>{};
        },
        how);
  };
  if (thawed) {
    auto [z, planner_pullback] = plan_(cx_, t.planner->weights, b.context, b.contexts);
    const const_tensor<B> dz = through(z);
    if (dz) planner_pullback(dz, t.planner->grads);
    const auto norm = clip_global_norm(cx_, options_.clip, t.adapters.flat_grads(), t.planner->flat_grads());
    gradient = double(cx_.read_one(norm.norm));
    t.adapter_optimiser.step(cx_, t.adapters.flat_weights(), t.adapters.flat_grads(), rate, norm.factor);
    t.planner_optimiser->step(cx_, t.planner->flat_weights(), t.planner->flat_grads(), planner_rate, norm.factor);
  } else {
    through(b.logits);
    const auto norm = clip_global_norm(cx_, options_.clip, t.adapters.flat_grads());
    gradient = double(cx_.read_one(norm.norm));
    t.adapter_optimiser.step(cx_, t.adapters.flat_weights(), t.adapters.flat_grads(), rate, norm.factor);
  }
  return {total, b.tokens(), gradient};
}

const_tensor<B> experiment::lm_step(trainee& t, const device_batch& b, const_tensor<B> w, bool want_dw, double& total) {
  const model_type::params weights{lm_.weights, t.adapters.weights};
  model_type::params grads{lm_.grads, t.adapters.grads};
  auto [h, pullback] = model_(cx_, weights, b.rows, w, true);
  auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(lm_.weights.token.table), b.rows.targets,
                                        const_tensor<B, 1>{}, 1.0f / static_cast<float>(b.tokens()), tensor<B>{});
  total = double(cx_.read_one(loss.total));
  return pullback(loss.dhidden, grads, want_dw);
}

void experiment::train_planner(index_t steps, const std::filesystem::path& path) {
  planner_store p(cx_, plan_, random(2));
  p.copy_weights(cx_, planner_);  // with the centroids in its head
  adamw<B> optimiser(cx_, p.flat_weights().size());
  const index_t per_epoch = std::max<index_t>(1, train_sentences() / std::min<index_t>(options_.planner_batch, train_sentences()));
  double best = INFINITY, worse = 0;  // of validation: the lowest cross-entropy, and how many were higher since
  sentence_order_.clear();
  const std::vector<trained_part> parts{part_of("planner", p, &optimiser), part_of("best", planner_)};
  run_.stage({"planner", seed_, steps, "--planner-rate", parts, {{"best", &best}, {"worse", &worse}}},
             [&](index_t s) { return planner_step(p, optimiser, s, options_.planner_rate); },
             [&](index_t s) {
               if ((s + 1) % per_epoch != 0 && s + 1 != steps) return true;
               const planner_metrics m = quality(logits_of(p, valid_sentences_), valid_sentences_);
               worse = m.cross_entropy() < best ? 0 : worse + 1;
               if (worse == 0) {
                 best = m.cross_entropy();
                 planner_.copy_weights(cx_, p);
               }
               return worse < 2;
             },
             [&](index_t s) {
               const std::string bad = run_.parameter_not_finite(parts);
               return bad.empty() ? "the planner's logits on batch " + std::to_string(s + 1) + " overflow" : bad;
             });
  run_.save_parameters(part_of("planner", planner_), path, about_);
}


std::vector<float> experiment::logits_of(const planner_store& p, const std::vector<text::sentence_ref>& sentences) {
  const auto labels = static_cast<std::size_t>(options_.labels);
  std::vector<float> all(static_cast<std::size_t>(data_.sentences) * labels);
  for (std::size_t begin = 0; begin < sentences.size(); begin += 512) {
    auto scope = cx_.scope();
    const auto part = std::span(sentences).subspan(begin, std::min<std::size_t>(512, sentences.size() - begin));
    const device_batch b = batches_.load(cx_, part);
    const std::vector<float> z = cx_.read(const_tensor<B>(plan_(cx_, p.weights, b.context, b.contexts).value));
    for (std::size_t i = 0; i < part.size(); ++i)
      std::copy_n(z.begin() + static_cast<std::ptrdiff_t>(i * labels), labels,
                  all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_.row_of(part[i])) * labels));
  }
  return all;
}

std::vector<float> experiment::logits_of_all(const planner_store& p) {
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

template <class Hidden>
std::vector<document_loss> experiment::evaluate_with(const Hidden& hidden) {
  std::vector<document_loss> losses;
  const philox before = cx_.random;  // or else training would depend on what was tested before it
  cx_.training = false;
  for (std::size_t at = 0; at < data_.split.test.size(); ++at) {
    run_.stop_if_asked();
    const std::vector<text::chunk> chunks =
        text::cut_chunks(data_.corpus.documents[static_cast<std::size_t>(data_.split.test[at])], data_.split.test[at], options_.length);
    document_loss loss;
    for (std::size_t begin = 0; begin < chunks.size(); begin += 32) {
      auto scope = cx_.scope();
      const auto part = std::span(chunks).subspan(begin, std::min<std::size_t>(32, chunks.size() - begin));
      cx_.random = random(8).at_step(static_cast<std::uint32_t>(at * 4096 + begin));
      const std::vector<float> nll = hidden(part);
      for (const float v : nll) loss.nll += double(v);
      loss.tokens += static_cast<index_t>(nll.size());
    }
    losses.push_back(loss);
  }
  cx_.training = true;
  cx_.random = before;
  return losses;
}

std::vector<document_loss> experiment::evaluate(const adapter_store& adapters, const std::vector<float>& logits, const policy& how) {
  const model_type::params weights{lm_.weights, adapters.weights};
  return evaluate_with([&](std::span<const text::chunk> part) {
    const device_batch b = batches_.load(cx_, part, &logits, false);
    const const_tensor<B> w =
        std::visit([&](const auto& chosen) { return const_tensor<B>(as_policy(chosen, b).weights(cx_, b.logits).value); }, how);
    const const_tensor<B> h = model_(cx_, weights, b.rows, w, true).value;
    return cx_.read(const_tensor<B, 1>(ops::linear_token_nll(cx_, h, const_tensor<B>(lm_.weights.token.table), b.rows.targets)));
  });
}

std::vector<document_loss> experiment::evaluate_unadapted() {
  return evaluate_with([&](std::span<const text::chunk> part) {
    const device_batch b = batches_.load(cx_, part, nullptr, false);
    const const_tensor<B> h = model_.lm(cx_, lm_.weights, b.rows.tokens, b.rows.rows).value;
    return cx_.read(const_tensor<B, 1>(ops::linear_token_nll(cx_, h, const_tensor<B>(lm_.weights.token.table), b.rows.targets)));
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

std::string experiment::first_not_finite(const std::vector<trained_part>& parts, const lm_store& lm, chunk_order& order, index_t s, const trainee* t,
                                         const planner_store* thawed, const policy& how) {
  if (const std::string bad = run_.parameter_not_finite(parts); !bad.empty()) return bad;
  auto scope = cx_.scope();
  const auto bad = [&](const_tensor<B> x) { return cx_.read_one(ops::first_not_finite<B>(cx_, flat(x))) >= 0; };
  const auto at = [](const std::string& layer) { return "it appears first in the output of " + layer; };
  const device_batch b = batches_.load(cx_, order.at(s), t && !thawed ? &logits_ : nullptr, thawed);
  const_tensor<B> w;
  if (t) {
    const_tensor<B> z = b.logits;
    if (thawed) z = plan_(cx_, thawed->weights, b.context, b.contexts).value;
    if (bad(z)) return at("the planner");
    w = std::visit([&](const auto& chosen) { return const_tensor<B>(as_policy(chosen, b).weights(cx_, z).value); }, how);
    if (bad(w)) return at("the label mixture");
  }
  const_tensor<B> x = model_.lm.token()(cx_, lm.weights.token, b.rows.tokens).value;
  x = model_.lm.position()(cx_, lm.weights.position, x, b.rows.rows).value;
  if (bad(x)) return at("the embeddings");
  for (std::size_t i = 0; i < lm.weights.blocks.size(); ++i) {
    const std::size_t below = static_cast<std::size_t>(model_.first_adapted);
    if (!t || i < below) {
      x = model_.lm.block()(cx_, lm.weights.blocks[i], x, b.rows.rows).value;
    } else {
      const const_tensor<B> u = model_.adapters.adapter(cx_, t->adapters.weights[i - below], w).value;
      if (bad(u)) return at("adapter " + std::to_string(i - below));
      x = model_.lm.block()(cx_, lm.weights.blocks[i], x, b.rows.rows, at_attention_output{}, plan_injection<B>{u, b.rows.sentence}).value;
    }
    if (bad(x)) return at("block " + std::to_string(i));
  }
  return bad(model_.lm.norm()(cx_, lm.weights.norm, x).value) ? at("the last norm") : "all layers are finite: it appears first in the logits or on the way back";
}

void experiment::refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const {
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (!std::isfinite(losses[i].nll))
      throw numeric_error("seed " + std::to_string(seed_) + " " + name + ": the loss of test document " + std::to_string(i + 1) +
                          " is no finite number; try a smaller --adapter-rate" + (joint ? " or --joint-planner-rate" : " or --base-rate"));
}

}  // namespace train_planner_lm
