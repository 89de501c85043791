/// Parts on backend B: weights, and where they are trained their gradients and AdamW.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include "part.hpp"
#include <planlm/models/transformer_lm.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>
#include <planlm/training/low_rank.hpp>

namespace trainer {

/// What a step does with a part, whatever it holds.
template <Backend B>
class part_of : public part {
 public:
  virtual bool trained() const = 0;
  /// Empty where nothing is trained.
  virtual tensor<B, 1> gradients() = 0;
  /// After the pullbacks, before the norm.
  virtual void collect() {}
  virtual void step(double rate, const global_norm<B>& norm) = 0;
};

/// Weights of module M.
template <Backend B, class M>
class part_on : public part_of<B> {
 public:
  using store = parameters<M>;
  part_on(context<B>& cx, const M& module, philox start, bool trained, double weight_decay)
      : weights(cx, module, start, trained ? store::gradients::kept : store::gradients::none), cx_(cx) {
    if (!trained) return;
    optimiser_.emplace(cx, size(), adamw_options{.weight_decay = weight_decay},
                       weight_decay > 0 ? decay_of_matrices(weights.slots()) : std::vector<decay_range>{});
  }

  const std::vector<parameter_slot>& slots() const override { return weights.slots(); }
  index_t size() const override { return weights.flat_weights().size(); }
  std::vector<float> read() override { return cx_.read(const_accum_tensor<B>(weights.flat_weights())); }
  void write(std::span<const float> values) override {
    write_weights<B>(cx_, weights.flat_weights(), values);
    changed();
  }
  void write(const std::string& name, std::span<const float> values) override {
    weights.write(cx_, weights.find(name), values);
    changed();
  }
  void copy(const part& from) override {
    weights.copy_weights(cx_, of(from));
    changed();
  }
  std::vector<std::string> moments() const override {
    std::vector<std::string> names;
    if (optimiser_)
      for (const auto& s : const_cast<adamw<B>&>(*optimiser_).state()) names.emplace_back(s.name);
    return names;
  }
  std::vector<float> read_moment(std::size_t n) override { return cx_.read(const_accum_tensor<B>(optimiser_->state().at(n).values)); }
  void write_moment(std::size_t n, std::span<const float> values) override {
    const auto to = optimiser_->state().at(n).values;
    if (static_cast<index_t>(values.size()) != to.size()) throw shape_error("part: a moment of another size");
    B::upload(cx_.queue(), to.data, values.data(), values.size_bytes());
  }
  index_t& count() override { return optimiser_->count; }
  std::string first_not_finite() override {
    const auto at = find_not_finite(cx_, weights.slots(), weights.flat_weights());
    return at ? at->parameter : "";
  }
  bool trained() const override { return optimiser_.has_value(); }
  tensor<B, 1> gradients() override { return weights.flat_grads(); }
  void step(double rate, const global_norm<B>& norm) override {
    optimiser_->step(cx_, weights.flat_weights(), weights.flat_grads(), rate, norm.factor);
    changed();
  }

  static const store& of(const part& p) { return dynamic_cast<const part_on&>(p).weights; }
  static store& of(part& p) { return dynamic_cast<part_on&>(p).weights; }

  store weights;

 protected:
  virtual void changed() {}
  context<B>& cx_;

 private:
  std::optional<adamw<B>> optimiser_;
};

/// What gives a step the weights of the language model, and takes its gradients: empty where it is frozen.
template <Backend B>
class language_model_source {
 public:
  using lm_type = transformer_lm<B>;
  using lm_params = typename lm_type::params;
  virtual ~language_model_source() = default;
  virtual const lm_params& lm_weights() const = 0;
  virtual lm_params& lm_gradients() = 0;
  virtual bool lm_trained() const = 0;

  static const language_model_source& in(const part& p) { return dynamic_cast<const language_model_source&>(p); }
  static language_model_source& in(part& p) { return dynamic_cast<language_model_source&>(p); }
};

template <Backend B>
class language_model_part final : public part_on<B, transformer_lm<B>>, public language_model_source<B> {
 public:
  using part_on<B, transformer_lm<B>>::part_on;
  using lm_params = typename transformer_lm<B>::params;
  const lm_params& lm_weights() const override { return this->weights.weights; }
  lm_params& lm_gradients() override { return this->weights.grads; }
  bool lm_trained() const override { return this->trained(); }
};

/// Low-rank factors of a frozen language model, and the weights they make of it.
template <Backend B>
class low_rank_part final : public part_on<B, low_rank<transformer_lm<B>>>, public language_model_source<B> {
 public:
  using lm_type = transformer_lm<B>;
  using lm_params = typename lm_type::params;
  using base_type = part_on<B, low_rank<lm_type>>;
  low_rank_part(context<B>& cx, const lm_type& lm, const parameters<lm_type>& base, low_rank_tuning tuning, philox start)
      : base_type(cx, low_rank<lm_type>(lm, tuning), start, true, 0), lm_(lm), factors_(lm, tuning), base_(base), working_(cx, lm, philox{}) {
    working_.copy_weights(cx, base);
    gradients_ = factors_.wanted(lm_, working_);
    changed();
  }
  const lm_params& lm_weights() const override { return working_.weights; }
  lm_params& lm_gradients() override { return gradients_; }
  bool lm_trained() const override { return true; }
  void collect() override { factors_.pull(this->cx_, working_, this->weights); }

 private:
  void changed() override { factors_.merge(this->cx_, base_, this->weights, working_); }
  lm_type lm_;
  low_rank<lm_type> factors_;
  const parameters<lm_type>& base_;
  parameters<lm_type> working_;
  lm_params gradients_;
};

}  // namespace trainer
