/// Training and testing, and where a step stops being numbers.
#include "checkpoint.hpp"
#include "experiment.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>
#include <utility>
#include <planlm/io/table.hpp>
#include <planlm/planning/label_statistics.hpp>
#include <planlm/training/schedule.hpp>

namespace train_planner_lm {

experiment::experiment(learner& device, const material& m, const options& o, int seed, run& r)
    : device_(device), material_(m), data_(m.text), options_(o), seed_(seed), run_(r),
      labels_(label(data_, m.vectors, o, static_cast<std::uint64_t>(seed))), batches_(data_, labels_, o),
      lm_(device.make(learner::kind::language_model, random(of_lm), false)), planner_(device.make(learner::kind::planner, random(of_planner), false)) {
  device_.random = random(of_steps);
  planner_->write("head.w", labels_.centroids);
  for (const int i : data_.split.train) add_sentences(i, train_sentences_);
  for (const int i : data_.split.valid) add_sentences(i, valid_sentences_);
  for (const int i : data_.split.test) add_sentences(i, test_sentences_);
  const std::size_t every = std::max<std::size_t>(1, valid_sentences_.size() / 400);
  for (std::size_t i = 0; i < valid_sentences_.size(); i += every) observed_.push_back(valid_sentences_[i]);
}

std::vector<named_part> experiment::trainee::named() const {
  std::vector<named_part> all;
  if (adapters) all.push_back({"adapters", adapters.get()});
  if (planner) all.push_back({"planner", planner.get()});
  if (encoder) all.push_back({"encoder", encoder.get()});
  if (lm) all.push_back({"lm", lm.get()});
  return all;
}

experiment::trainee experiment::make_trainee(const variant_plan& plan) {
  trainee t;
  const conditioning& reach = plan.train.reach;
  std::vector<float> table = labels_.centroids;
  if (plan.tables == table_start::random)
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(random(of_random_tables).uniform(i, 0));
  const bool free = plan.tables == table_start::free;  // as the layer draws it
  if (plan.adapted) {
    t.adapters = device_.make(learner::kind::adapters, random(of_adapters), true, 0, reach);
    if (reach.from == conditioning::source::table_per_layer && !free)
      for (index_t i = 0; i < sizes_of(options_, data_.vocabulary.size()).adapters(reach); ++i) t.adapters->write(std::to_string(i) + ".table", table);
  }
  if (plan.adapted && reach.from != conditioning::source::table_per_layer) {
    t.encoder = device_.make(learner::kind::encoder, random(of_encoder), true, 0, reach);
    if (!free) t.encoder->write("table", table);
  }
  if (plan.planning_tokens) {
    t.lm = device_.make(learner::kind::extended_language_model, random(of_lm), true);
    const std::vector<float> base = lm_->read(), drawn = t.lm->read();
    for (const parameter_slot& slot : lm_->slots()) {
      const auto from = base.begin() + static_cast<std::ptrdiff_t>(slot.offset);
      std::vector<float> values(from, from + static_cast<std::ptrdiff_t>(slot.spec.size()));
      for (const parameter_slot& larger : t.lm->slots())  // rows of labels stay as drawn
        if (larger.spec.name == slot.spec.name)
          values.insert(values.end(), drawn.begin() + static_cast<std::ptrdiff_t>(larger.offset + slot.spec.size()),
                        drawn.begin() + static_cast<std::ptrdiff_t>(larger.offset + larger.spec.size()));
      t.lm->write(slot.spec.name, values);
    }
  } else if (plan.lm == tuning::full) {
    t.lm = device_.make(learner::kind::language_model, random(of_lm), true);
    t.lm->copy(*lm_);
  } else if (plan.lm == tuning::low_rank) {
    t.lm = device_.make_low_rank(*lm_, random(of_factors));
  }
  if (plan.joint) {
    t.planner = device_.make(learner::kind::planner, random(of_planner), true);
    t.planner->copy(*planner_);
  }
  return t;
}

conditioned_parts experiment::parts_of(const variant_plan& plan, const trainee& t, bool planner) const {
  part* who = nullptr;
  if (plan.labels_by == predictor::look_ahead) who = look_ahead_.get();
  else if (planner) who = t.planner ? t.planner.get() : planner_.get();
  return {t.lm ? t.lm.get() : lm_.get(), t.adapters.get(), t.encoder.get(), who};
}

wanted experiment::needs(const variant_plan& plan, bool planner) const {
  if (plan.labels_by == predictor::look_ahead || planner) return {nullptr, true, 0, false};
  return {plan.labels_by == predictor::language_model ? &head_logits_ : &logits_, false, 0, false};
}

experiment::speeds experiment::measure(const std::vector<variant_plan>& variants) {
  const auto seconds = [&](auto&& step) {
    std::vector<double> times;
    for (int s = 0; s < 5; ++s) {
      const auto begin = std::chrono::steady_clock::now();
      step(s);
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::sort(times.begin(), times.end());
    return times[2];
  };
  speeds v{};
  const auto needs_of = [&](predictor who) {
    return std::any_of(variants.begin(), variants.end(), [&](const variant_plan& p) { return p.labels_by == who; });
  };
  chunk_order base_order = order({}, options_.batch);
  {
    const auto lm = device_.make(learner::kind::language_model, random(of_lm), true);
    v.base = seconds([&](index_t s) { base_step(*lm, base_order, s, 0); });
  }
  const auto planner_speed = [&](learner::kind what) {
    const auto p = device_.make(what, random(of_planner), true);
    return seconds([&](index_t s) { planner_step(*p, s, 0); });
  };
  v.planners = planner_speed(learner::kind::planner);
  if (needs_of(predictor::look_ahead)) {
    v.planners += planner_speed(learner::kind::look_ahead);
    look_ahead_ = device_.make(learner::kind::look_ahead, random(of_look_ahead), false);
  }
  if (needs_of(predictor::language_model)) v.planners += v.base / 2;
  logits_.assign(static_cast<std::size_t>(data_.sentences) * static_cast<std::size_t>(options_.labels), 0.0f);
  head_logits_ = logits_;
  std::vector<std::string> trained;
  for (const variant_plan& plan : variants) {
    const std::string name = plan.trained_as.empty() ? plan.name : plan.trained_as;
    if (plan.name == "none" || std::find(trained.begin(), trained.end(), name) != trained.end()) continue;
    trained.push_back(name);
    trainee t = make_trainee(plan);
    chunk_order own = order(plan, options_.variant_batch);
    const double step = seconds([&](index_t s) { variant_step(plan, t, plan.joint, own, s, 0); });
    v.variants += step * double(plan.temperatures.size() + 1);
  }
  return v;
}

void experiment::prepare(const work& w, const std::vector<variant_plan>& variants) {
  about_ = {{"identity", run_.identity()}, {"seed", std::to_string(seed_)}};
  write_labels();
  const auto base_file = file("base.safetensors");
  if (std::filesystem::exists(base_file)) {
    run_.load_parameters(*lm_, base_file, about_);
  } else {
    const auto lm = device_.make(learner::kind::language_model, random(of_lm), true, 0.01);
    chunk_order own = order({}, options_.batch);
    const warmup schedule{std::max<index_t>(1, w.base_steps / 20), cosine_decay{std::max<index_t>(1, w.base_steps - w.base_steps / 20), 0.05}};
    const std::vector<named_part> parts{{"lm", lm.get()}};
    run_.stage({"base", seed_, w.base_steps, "--base-rate", parts, {}},
               [&](index_t s) { return base_step(*lm, own, s, options_.base_rate * schedule(s)); }, [](index_t) { return true; },
               [&](index_t s) { return first_not_finite(parts, {lm.get()}, {}, batches_.load(own.at(s))); });
    lm_->copy(*lm);
    run_.save_parameters(*lm_, base_file, about_);
  }
  train_planner("planner", learner::kind::planner, *planner_, w.planner_steps);
  logits_ = logits_of_all(*planner_);
  before_ = planner_quality(logits_, "planner", "--planner-rate");
  const auto needed = [&](predictor who) {
    return std::any_of(variants.begin(), variants.end(), [&](const variant_plan& v) { return v.labels_by == who; });
  };
  if (needed(predictor::look_ahead)) {
    look_ahead_ = device_.make(learner::kind::look_ahead, random(of_look_ahead), false);
    look_ahead_->write("plan.head.w", labels_.centroids);
    look_ahead_->write("ahead.actions", labels_.centroids);
    train_planner("look-ahead", learner::kind::look_ahead, *look_ahead_, w.planner_steps);
  }
  if (needed(predictor::language_model)) train_label_head(w.planner_steps);
}

index_t experiment::thaw_step(const variant_plan& plan, const work& w) const {
  if (!plan.delayed) return 0;
  return options_.unfreeze_step > 0 ? options_.unfreeze_step : static_cast<index_t>(std::llround(options_.unfreeze_at * double(w.variant_steps)));
}

experiment::trainee experiment::train(const variant_plan& plan, const work& w) {
  trainee t = make_trainee(plan);
  const std::string name = plan.trained_as.empty() ? plan.name : plan.trained_as;
  const std::vector<named_part> parts = t.named();
  const auto path = [&](const named_part& p) { return file(name + "." + p.name + ".safetensors"); };
  const auto about = with_stage(name);
  if (std::all_of(parts.begin(), parts.end(), [&](const named_part& p) { return std::filesystem::exists(path(p)); })) {
    for (const named_part& p : parts) {
      const auto found = run_.load_parameters(*p.values, path(p), about);
      const auto number = [&](const char* key, double& to) {
        if (found.contains(key)) to = std::strtod(found.at(key).c_str(), nullptr);
      };
      number("seconds", t.seconds), number("tokens_per_second", t.tokens_per_second);
    }
    return t;
  }
  chunk_order own = order(plan, options_.variant_batch);
  const linear_decay schedule{w.variant_steps};
  const index_t thaw = thaw_step(plan, w), every = std::max<index_t>(1, w.variant_steps / 10);
  const auto thawed = [&](index_t s) { return plan.joint && s >= thaw; };
  std::string rates = plan.adapted ? "--adapter-rate" : "--full-rate";
  if (plan.joint) rates += " or --joint-planner-rate";
  if (plan.adapted && plan.lm == tuning::low_rank) rates += " or --low-rank-rate";
  if (plan.adapted && plan.lm == tuning::full) rates += " or --full-rate";
  const auto done = run_.stage({name, seed_, w.variant_steps, rates, parts, {}},
                               [&](index_t s) {
                                 if (plan.joint && s == 0) observe(name, 0, *t.planner);
                                 return variant_step(plan, t, thawed(s), own, s, schedule(s));
                               },
                               [&](index_t s) {
                                 if (plan.joint && ((s + 1) % every == 0 || s + 1 == w.variant_steps)) observe(name, s + 1, *t.planner);
                                 return true;
                               },
                               [&](index_t s) {
                                 if (plan.planning_tokens)
                                   return first_not_finite(parts, {t.lm.get()}, {}, batches_.load_with_label_tokens(own.at(s), data_.vocabulary.size()));
                                 return first_not_finite(parts, parts_of(plan, t, thawed(s)), plan.train,
                                                         batches_.load(own.at(s), needs(plan, thawed(s)), plan.train.reach));
                               });
  t.tokens_per_second = done.tokens_per_second;
  t.seconds = done.seconds;
  auto told = about;
  told["seconds"] = exact(done.seconds);
  told["tokens_per_second"] = exact(done.tokens_per_second);
  for (auto p = parts.rbegin(); p != parts.rend(); ++p) run_.save_parameters(*p->values, path(*p), told);
  return t;
}

variant_result experiment::train_and_test(const variant_plan& wanted_plan, const work& w) {
  variant_plan plan = wanted_plan;
  variant_result result;
  result.name = plan.name, result.seed = seed_, result.device = options_.device, result.precision = options_.precision;
  result.accuracy = result.cross_entropy = result.entropy = NAN;
  if (plan.name == "none") {
    const auto begin = std::chrono::steady_clock::now();
    const conditioned_parts alone{lm_.get()};
    result.documents = evaluate(plan, plan.test, alone, nullptr, data_.split.test);
    refuse_not_finite(plan.name, result.documents, false);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }
  if (!plan.temperatures.empty()) choose_temperature(plan, w, result);
  trainee t = train(plan, w);
  if (!wanted_plan.temperatures.empty()) {  // under the variant's own name, with what was chosen
    auto told = with_stage(plan.name);
    told["temperature"] = exact(result.temperature);
    run_.save_parameters(*t.adapters, file(plan.name + ".adapters.safetensors"), told);
  }
  result.seconds += t.seconds;
  result.tokens_per_second = t.tokens_per_second;
  const bool ahead = plan.labels_by == predictor::look_ahead;
  std::vector<float> tuned;
  const std::vector<float>* logits = ahead ? nullptr : plan.labels_by == predictor::language_model ? &head_logits_ : &logits_;
  const auto show = [&](const planner_metrics& m) {
    result.accuracy = m.accuracy(), result.cross_entropy = m.cross_entropy(), result.entropy = m.entropy();
  };
  if (const auto* mix = std::get_if<mixture>(&plan.test.weights); mix && mix->temperature != 1 && !plan.joint) {
    std::vector<float> sharper = logits_;
    for (float& z : sharper) z = static_cast<float>(double(z) / mix->temperature);
    show(planner_quality(sharper, plan.name, "--planner-rate"));
  } else if (has_plans(plan) && !std::holds_alternative<oracle_labels>(plan.test.weights)) {
    show(before_);
  }
  if (plan.joint) {
    tuned = logits_of(*t.planner, test_sentences_);
    logits = &tuned;
    show(planner_quality(tuned, plan.name, "--joint-planner-rate"));
  } else if (plan.labels_by == predictor::language_model) {
    show(planner_quality(head_logits_, plan.name, "--planner-rate"));
  } else if (ahead && plan.test.paths.by != path_rule::choice::fixed) {
    show(planner_quality(logits_of(*look_ahead_, test_sentences_), plan.name, "--planner-rate"));
  }
  const conditioned_parts parts = parts_of(plan, t, false);
  result.documents = evaluate(plan, plan.test, parts, logits, data_.split.test);
  refuse_not_finite(plan.name, result.documents, plan.joint);
  if (plan.name == "mixture-joint" || plan.name == "mixture-frozen") {
    method argmax = plan.test;
    argmax.weights = hard{};
    result.checks["argmax"] = evaluate(plan, argmax, parts, logits, data_.split.test);
  }
  if (ahead && plan.test.paths.by == path_rule::choice::sampled)
    for (const int paths : {1, 2, 4, 8, 16, 32}) {
      method other = plan.test;
      other.paths.paths = paths;
      result.checks["paths=" + std::to_string(paths)] =
          paths == plan.test.paths.paths ? result.documents : evaluate(plan, other, parts, logits, data_.split.test);
    }
  for (const auto& [name, losses] : result.checks) refuse_not_finite(plan.name + ", " + name, losses, plan.joint);
  return result;
}

bool experiment::lacks_writing(const variant_plan& plan, const variant_result& result) const {
  if (options_.generate == 0 || !can_write(plan)) return false;
  return !result.generation || result.generation->asked != options_.generate || result.generation->tokens != options_.generate_tokens;
}

void experiment::write_and_score(const variant_plan& plan, const work& w, variant_result& result) {
  if (plan.name == "none") return score_writing(plan, plan.test, {lm_.get()}, result);
  const variant_plan one = plan.temperatures.empty() ? plan : at_temperature(plan, result.temperature);
  const trainee t = train(one, w);
  score_writing(one, one.test, parts_of(one, t, true), result);
}

variant_plan experiment::at_temperature(const variant_plan& plan, double temperature) {
  variant_plan one = plan;
  one.temperatures.clear();
  one.train.weights = one.test.weights = mixture{temperature};
  one.trained_as = temperature == 1 ? "mixture-frozen" : plan.name + "-" + with_digits(temperature, 2);
  return one;
}

void experiment::choose_temperature(variant_plan& plan, const work& w, variant_result& result) {
  std::vector<double> candidates{1.0};
  candidates.insert(candidates.end(), plan.temperatures.begin(), plan.temperatures.end());
  double lowest = INFINITY;
  for (const double temperature : candidates) {
    const variant_plan one = at_temperature(plan, temperature);
    const trainee t = train(one, w);
    const std::vector<document_loss> valid = evaluate(one, one.test, parts_of(one, t, false), &logits_, data_.split.valid);
    refuse_not_finite(one.trained_as, valid, false);
    result.tried[with_digits(temperature, 2)] = nats_per_token(valid);
    if (nats_per_token(valid) < lowest) lowest = nats_per_token(valid), result.temperature = temperature;
  }
  plan = at_temperature(plan, result.temperature);
}

std::map<std::string, std::string> experiment::with_stage(const std::string& name) const {
  auto about = about_;
  about["stage"] = name;
  return about;
}

std::vector<text::chunk> experiment::chunks(const variant_plan& plan, const std::vector<int>& documents) const {
  const conditioning::place where = plan.train.reach.where;
  const bool inserted = plan.planning_tokens || (plan.adapted && where == conditioning::place::inserted);
  const bool prefix = plan.adapted && where == conditioning::place::prefix;
  return cut_chunks(data_, documents, options_.length, inserted ? 1 : 0, prefix ? options_.prefix_rows : 0);
}
chunk_order experiment::order(const variant_plan& plan, int batch) const {
  return {chunks(plan, data_.split.train), batch, static_cast<std::uint64_t>(seed_)};
}

void experiment::add_sentences(int document, std::vector<text::sentence_ref>& to) const {
  for (int s = 0; s < data_.corpus.documents[static_cast<std::size_t>(document)].sentences(); ++s) to.push_back({document, s});
}

step_result experiment::base_step(part& lm, chunk_order& order, index_t s, double rate) {
  return device_.language_model_step(lm, batches_.load(order.at(s)), {.main = rate, .clip = options_.clip});
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
  return device_.planner_step(p, batches_.load(chosen_, {nullptr, true, options_.horizon, false}), {.main = rate, .clip = options_.clip});
}

step_result experiment::head_step(part& head, chunk_order& order, index_t s, double rate) {
  return device_.label_head_step(head, *lm_, batches_.load(order.at(s), {nullptr, false, 0, true}), {.main = rate, .clip = options_.clip});
}

step_result experiment::variant_step(const variant_plan& plan, trainee& t, bool thawed, chunk_order& order, index_t s, double schedule) {
  const learning_rates rates{.main = options_.adapter_rate * schedule,
                             .planner = options_.joint_planner_rate * schedule,
                             .lm = (plan.lm == tuning::low_rank ? options_.low_rank_rate : options_.full_rate) * schedule,
                             .clip = options_.clip};
  if (plan.planning_tokens)
    return device_.language_model_step(*t.lm, batches_.load_with_label_tokens(order.at(s), data_.vocabulary.size()),
                                       {.main = rates.lm, .clip = rates.clip});
  const host_batch b = batches_.load(order.at(s), needs(plan, thawed), plan.train.reach);
  return device_.variant_step(parts_of(plan, t, thawed), plan.train, b, rates);
}

void experiment::train_planner(const std::string& name, learner::kind what, part& best_one, index_t steps) {
  const auto path = file(name + ".safetensors");
  if (std::filesystem::exists(path)) {
    run_.load_parameters(best_one, path, about_);
    return;
  }
  const auto p = device_.make(what, random(of_planner), true);
  p->copy(best_one);  // with the centroids in its head
  const index_t per_epoch = std::max<index_t>(1, train_sentences() / std::min<index_t>(options_.planner_batch, train_sentences()));
  double best = INFINITY, worse = 0;  // of validation: the lowest cross-entropy, and how many were higher since
  sentence_order_.clear();
  const std::vector<named_part> parts{{name, p.get()}, {"best", &best_one}};
  run_.stage({name, seed_, steps, "--planner-rate", parts, {{"best", &best}, {"worse", &worse}}},
             [&](index_t s) {
               if (s == 0) observe(name, 0, *p);
               return planner_step(*p, s, options_.planner_rate);
             },
             [&](index_t s) {
               if ((s + 1) % per_epoch != 0 && s + 1 != steps) return true;
               const planner_metrics m = quality(logits_of(*p, valid_sentences_), valid_sentences_);
               observe(name, s + 1, *p);
               worse = m.cross_entropy() < best ? 0 : worse + 1;
               if (worse == 0) {
                 best = m.cross_entropy();
                 best_one.copy(*p);
               }
               return worse < 2;
             },
             [&](index_t s) {
               const std::string bad = run_.parameter_not_finite(parts);
               return bad.empty() ? "the planner's logits on batch " + std::to_string(s + 1) + " overflow" : bad;
             });
  run_.save_parameters(best_one, path, about_);
}

void experiment::train_label_head(index_t steps) {
  const auto head = device_.make(learner::kind::label_head, random(of_label_head), true);
  const auto best_head = device_.make(learner::kind::label_head, random(of_label_head), false);
  const auto path = file("label-head.safetensors");
  if (std::filesystem::exists(path)) {
    run_.load_parameters(*best_head, path, about_);
  } else {
    // As the planner: the epoch that is best on validation. One layer on frozen states takes four times the planner's rate.
    chunk_order own = order({}, options_.batch);
    const index_t per_epoch = own.steps_per_epoch();
    double best = INFINITY, worse = 0;
    const std::vector<named_part> parts{{"head", head.get()}, {"best", best_head.get()}};
    run_.stage({"label-head", seed_, steps, "--planner-rate", parts, {{"best", &best}, {"worse", &worse}}},
               [&](index_t s) { return head_step(*head, own, s, 4 * options_.planner_rate); },
               [&](index_t s) {
                 if ((s + 1) % per_epoch != 0 && s + 1 != steps) return true;
                 const planner_metrics m = quality(head_logits_of(*head, data_.split.valid), valid_sentences_);
                 worse = m.cross_entropy() < best ? 0 : worse + 1;
                 if (worse == 0) {
                   best = m.cross_entropy();
                   best_head->copy(*head);
                 }
                 return worse < 2;
               },
               [&](index_t) {
                 const std::string bad = run_.parameter_not_finite(parts);
                 return bad.empty() ? std::string("the logits of the label head overflow") : bad;
               });
    run_.save_parameters(*best_head, path, about_);
  }
  std::vector<int> all;
  for (int d = 0; d < static_cast<int>(data_.corpus.documents.size()); ++d) all.push_back(d);
  head_logits_ = head_logits_of(*best_head, all);
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

std::vector<float> experiment::head_logits_of(const part& head, const std::vector<int>& documents) {
  const auto labels = static_cast<std::size_t>(options_.labels);
  std::vector<float> all(static_cast<std::size_t>(data_.sentences) * labels);
  text::batch pieces;
  for (const int d : documents) {
    const std::vector<text::chunk> of_document = text::cut_chunks(data_.corpus.documents[static_cast<std::size_t>(d)], d, options_.length);
    for (std::size_t begin = 0; begin < of_document.size(); begin += 32) {
      const auto piece = std::span(of_document).subspan(begin, std::min<std::size_t>(32, of_document.size() - begin));
      const host_batch b = batches_.load(piece, {nullptr, false, 0, true});
      const std::vector<float> z = device_.label_head_logits(head, *lm_, b);
      text::make_batch(data_.corpus.documents, piece, pieces);
      for (std::size_t s = 0; s < pieces.sentences.size(); ++s)
        if (b.first_rows[s] >= 0)
          std::copy_n(z.begin() + static_cast<std::ptrdiff_t>(s * labels), labels,
                      all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_.row_of(pieces.sentences[s])) * labels));
    }
  }
  return all;
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

void experiment::observe(const std::string& stage, index_t step, const part& p) {
  const std::vector<float> logits = logits_of(p, observed_);
  planner_metrics m;
  try {
    m = quality(logits, observed_);
  } catch (const numeric_error&) {
    return;  // the step says so, and where
  }
  const auto labels = static_cast<std::size_t>(options_.labels);
  std::vector<std::int32_t> chosen;
  for (const text::sentence_ref s : observed_) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_.row_of(s)) * labels);
    chosen.push_back(static_cast<std::int32_t>(std::max_element(row, row + static_cast<std::ptrdiff_t>(labels)) - row));
  }
  run_.observe(seed_, stage, step, "planner", {{"accuracy", m.accuracy()}, {"cross_entropy", m.cross_entropy()}, {"entropy", m.entropy()},
                                    {"labels_in_use", std::exp(label_entropy(label_counts(chosen, options_.labels)))}});
}

std::vector<document_loss> experiment::evaluate(const variant_plan& plan, const method& how, const conditioned_parts& parts,
                                                const std::vector<float>* logits, const std::vector<int>& documents) {
  std::vector<document_loss> losses;
  const philox before = device_.random;  // or else training would depend on what was tested before it
  device_.training = false;
  for (std::size_t at = 0; at < documents.size(); ++at) {
    run_.stop_if_asked();
    const std::vector<text::chunk> of_document = chunks(plan, {documents[at]});
    document_loss loss;
    for (std::size_t begin = 0; begin < of_document.size(); begin += 32) {
      const auto piece = std::span(of_document).subspan(begin, std::min<std::size_t>(32, of_document.size() - begin));
      device_.random = random(of_tests).at_step(static_cast<std::uint32_t>(at * 4096 + begin));
      const host_batch b = plan.planning_tokens ? with_own_labels(*parts.lm, piece)
                           : parts.adapters      ? batches_.load(piece, {logits, logits == nullptr, 0, false}, how.reach)
                                                 : batches_.load(piece);
      for (const float v : device_.token_nll(parts, how, b)) loss.nll += double(v);
      loss.tokens += b.targets_given;
    }
    losses.push_back(loss);
  }
  device_.training = true;
  device_.random = before;
  return losses;
}

host_batch experiment::with_own_labels(const part& lm, std::span<const text::chunk> piece) {
  const int vocabulary = data_.vocabulary.size();
  host_batch b = batches_.load_with_label_tokens(piece, vocabulary);
  std::vector<int>&tokens = batches_.tokens_of_last(), &targets = batches_.targets_of_last();
  // Labels in the order of their chunk: the first of each chunk at once, then the second, which sees the first.
  std::vector<std::vector<int>> rows(piece.size());
  for (std::size_t c = 0; c < piece.size(); ++c)
    for (int r = b.chunk_offsets[c]; r < b.chunk_offsets[c + 1]; ++r)
      if (tokens[static_cast<std::size_t>(r)] >= vocabulary) rows[c].push_back(r);
  for (std::size_t n = 0;; ++n) {
    std::vector<int> before;
    for (const auto& of_chunk : rows)
      if (n < of_chunk.size()) before.push_back(of_chunk[n] - 1);
    if (before.empty()) break;
    const std::vector<int> chosen = device_.likely_labels(lm, b, before);
    for (std::size_t i = 0; i < before.size(); ++i) {
      targets[static_cast<std::size_t>(before[i])] = -1;
      tokens[static_cast<std::size_t>(before[i]) + 1] = vocabulary + chosen[i];
      --b.targets_given;
    }
  }
  return b;
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

std::string experiment::first_not_finite(const std::vector<named_part>& parts, const conditioned_parts& model, const method& how,
                                         const host_batch& b) {
  if (const std::string bad = run_.parameter_not_finite(parts); !bad.empty()) return bad;
  return device_.first_not_finite(model, how, b);
}

void experiment::refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const {
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (!std::isfinite(losses[i].nll))
      throw numeric_error("seed " + std::to_string(seed_) + " " + name + ": the loss of test document " + std::to_string(i + 1) +
                          " is no finite number; try a smaller --adapter-rate" + (joint ? " or --joint-planner-rate" : " or --base-rate"));
}

}  // namespace train_planner_lm
