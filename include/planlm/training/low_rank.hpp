/// Fine-tuning of a whole model by factors of low rank, in weight space: W = W0 + (alpha / rank) B A.
/// [2106.09685, equation 3]
///
///     low_rank factors{model, {.rank = 8, .alpha = 32}};
///     parameters theta{cx, factors, philox{seed}};     // A and B: what is trained, saved and counted
///     parameters working{cx, model, philox{0}};        // what layers read; a copy of the base to begin with
///     working.copy_weights(cx, base);
///     auto g = factors.wanted(model, working);         // once: gradients of the adapted matrices alone
///
///     factors.merge(cx, base, theta, working);         // after every change of theta
///     auto [h, pullback] = model(cx, working.weights, ...);
///     pullback(dh, g);
///     factors.pull(cx, working, theta);                // and on to A and B
///
/// Any model, decoder and sampler works unchanged on `working`, and what is sampled is scored with the
/// weights that were trained: layers/lora.hpp computes x W0^T + (x A^T) B^T, which rounds differently from
/// decoding merged weights. Its dropout of x has no counterpart.
///
/// Cost of a matrix (out, in) on N rows, in multiplications: 3 N out in by the model (forward, input
/// gradient, dW) and 3 rank out in by merge and pull. layers/lora.hpp spares dW: 2 N out in + 3 N rank (out +
/// in). At rank 8, width 128, 2048 rows: 3.01 against 2.38 times N out in. Memory: a copy of the weights and
/// their gradients, where the layer form keeps N rank values per matrix.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>
#include <planlm/training/parameters.hpp>

namespace planlm {

/// Policy of fine-tuning: the base stays as it is, ...
struct frozen {};
/// ... every matrix that is adapted gets factors of this rank, ...
struct low_rank_tuning {
  index_t rank = 8;
  double alpha = 32;
};
/// ... or all weights are trained.
struct full_tuning {};

/// Which matrices get factors by default: projections, which are all but embeddings (of tokens and positions,
/// and what is called `table` or `actions`: those of labels) and what is called `gate`, told by their names.
inline bool is_projection(const parameter_spec& spec) {
  const std::string name = "." + spec.name;
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  return spec.rank == 2 && !has(".token.") && !has(".position.") && !name.ends_with(".table") &&
         !name.ends_with(".actions") && !name.ends_with(".gate");
}

namespace kernel {
/// Row r of W = W0 + scale B A, and its rounded copy where T is not A.
template <class T, class A>
struct merge_low_rank {
  const A *base, *a, *b;  // (out, in), (rank, in), (out, rank)
  A* merged;
  T* rounded;
  index_t cols, rank;
  A scale;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const A *from = base + r * cols, *low = a, *high = b + r * rank;
    A* to = merged + r * cols;
    T* copy = rounded + (std::is_same_v<T, A> ? 0 : r * cols);
    const index_t n = cols, m = rank;
    const A s = scale;
    team.for_each(n, [=](index_t c) {
      A sum = 0;
      for (index_t k = 0; k < m; ++k) sum += high[k] * low[k * n + c];
      const A w = from[c] + s * sum;
      to[c] = w;
      if constexpr (!std::is_same_v<T, A>) copy[c] = w;
    });
  }
};
}  // namespace kernel

/// The factors of a model's matrices, a description with parameters of its own: for each adapted matrix (out,
/// in) of name n
///   n.a (rank, in) uniform as in layers/lora.hpp, n.b (out, rank) zero: the start equals the base, bit for
///   bit (but that -0 becomes +0).
template <Parametrised M>
class low_rank {
 public:
  using backend = typename M::backend;
  using real = typename backend::real;
  using accum = typename backend::accum;
  struct params {
    std::vector<tensor<backend>> a, b;
  };
  struct adapted_matrix {
    parameter_spec spec;
    std::size_t number;  // in the order of the model's parameters
  };

  /// `takes(spec)` chooses among the matrices. Errors: planlm::error for a rank that no matrix can have, or
  /// if nothing is chosen.
  template <class Filter = bool (*)(const parameter_spec&)>
  explicit low_rank(const M& model, low_rank_tuning tuning = {}, Filter takes = is_projection)
      : tuning_(tuning) {
    std::size_t number = 0;
    auto look = [&](const parameter_spec& spec, auto&...) {
      if (spec.rank == 2 && takes(spec)) matrices_.push_back({spec, number});
      ++number;
    };
    model.each_param(look);
    total_ = number;
    if (matrices_.empty())
      throw error("low_rank: the filter takes none of the model's " + std::to_string(number) + " parameters");
    for (const adapted_matrix& m : matrices_) {
      const index_t most = std::min(m.spec.extents[0], m.spec.extents[1]);
      if (tuning.rank < 1 || tuning.rank > most)
        throw error("low_rank: rank " + std::to_string(tuning.rank) + " for '" + m.spec.name +
                    "', which is (" + std::to_string(m.spec.extents[0]) + ", " +
                    std::to_string(m.spec.extents[1]) + "); expected 1 to " + std::to_string(most));
    }
  }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    (p.a.resize(matrices_.size()), ...);
    (p.b.resize(matrices_.size()), ...);
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const parameter_spec& w = matrices_[i].spec;
      const index_t out = w.extents[0], in = w.extents[1];
      f(matrix_spec(w.name + ".a", tuning_.rank, in, initial::uniform, 1 / std::sqrt(double(in))), p.a[i]...);
      f(matrix_spec(w.name + ".b", out, tuning_.rank, initial::zeros), p.b[i]...);
    }
  }

  /// Adapted matrices of `working` = those of `base` + (alpha / rank) B A, from the values with all digits;
  /// the rest of `working` is left alone. `factors`: parameters<low_rank<M>>, a type that does not exist
  /// before this class does. Errors: shape_error for stores of another model, or of factors of another rank
  /// or filter.
  template <class Factors>
  void merge(context<backend>& cx, const parameters<M>& base, const Factors& factors,
             parameters<M>& working) const {
    check(base), check(working), check_factors(factors);
    const accum *from = all_digits(base), *theta = all_digits(factors);
    accum* to = all_digits(working);
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const parameter_spec& w = matrices_[i].spec;
      const index_t offset = base.slots()[matrices_[i].number].offset;
      real* rounded = nullptr;
      if constexpr (!stores_all_digits<backend>) rounded = working.flat_weights().rounded.data + offset;
      backend::for_rows(
          cx.queue(), w.extents[0],
          kernel::merge_low_rank<real, accum>{from + offset, theta + factors.slots()[2 * i].offset,
                                              theta + factors.slots()[2 * i + 1].offset, to + offset, rounded,
                                              w.extents[1], tuning_.rank, scale()});
    }
  }
  /// Gradients for the model's pullback: those of the adapted matrices, all others left out. They are views
  /// into `working`, good as long as it lives: call it once, not in every step: it makes names, lists.
  typename M::params wanted(const M& model, const parameters<M>& working) const {
    typename M::params g = working.grads;
    std::size_t number = 0, next = 0;
    auto choose = [&](const parameter_spec&, auto& gradient) {
      if (next < matrices_.size() && matrices_[next].number == number)
        ++next;
      else
        gradient = {};
      ++number;
    };
    model.each_param(choose, g);
    return g;
  }
  /// dA += (alpha / rank) B^T dW, dB += (alpha / rank) dW A^T; then dW = 0, as a step of the optimiser would
  /// leave it. Errors: those of merge, planlm::error for a store of weights without gradients.
  template <class Factors>
  void pull(context<backend>& cx, parameters<M>& working, const Factors& factors) const {
    check(working), check_factors(factors);
    if (!working.flat_grads())
      throw error(
          "low_rank: the working weights have no gradients to pull; make their store with gradients kept");
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const parameter_spec& w = matrices_[i].spec;
      const tensor<backend> dw(working.flat_grads().data + working.slots()[matrices_[i].number].offset,
                               w.extents[0], w.extents[1]);
      const tensor<backend>&a = factors.weights.a[i], &b = factors.weights.b[i], &da = factors.grads.a[i],
            &db = factors.grads.b[i];
      if (da)
        backend::gemm(cx.queue(), scale(), transposed(const_tensor<backend>(b)),
                      plain(const_tensor<backend>(dw)), plain(da), into::add);
      if (db)
        backend::gemm(cx.queue(), scale(), plain(const_tensor<backend>(dw)),
                      transposed(const_tensor<backend>(a)), plain(db), into::add);
      backend::zero(cx.queue(), dw.data, static_cast<std::size_t>(dw.size()) * sizeof(real));
    }
  }

  const std::vector<adapted_matrix>& matrices() const { return matrices_; }
  const low_rank_tuning& tuning() const { return tuning_; }

 private:
  accum scale() const { return static_cast<accum>(tuning_.alpha / double(tuning_.rank)); }
  template <class Store>
  static accum* all_digits(const Store& store) {
    return accum_tensor<backend>(store.flat_weights()).data;
  }
  void check(const parameters<M>& store) const {
    bool right = store.slots().size() == total_;
    for (std::size_t i = 0; right && i < matrices_.size(); ++i) {
      const parameter_spec &mine = matrices_[i].spec, &theirs = store.slots()[matrices_[i].number].spec;
      right = mine.extents[0] == theirs.extents[0] && mine.extents[1] == theirs.extents[1];
    }
    if (!right)
      throw shape_error("low_rank: a store of weights that is not of the model the factors were made for");
  }
  template <class Factors>
  void check_factors(const Factors& store) const {
    const std::vector<parameter_slot>& slots = store.slots();
    bool right = slots.size() == 2 * matrices_.size();
    const auto is = [](const parameter_spec& spec, index_t rows, index_t cols) {
      return spec.rank == 2 && spec.extents[0] == rows && spec.extents[1] == cols;
    };
    for (std::size_t i = 0; right && i < matrices_.size(); ++i) {
      const parameter_spec& w = matrices_[i].spec;
      right = is(slots[2 * i].spec, tuning_.rank, w.extents[1]) &&
              is(slots[2 * i + 1].spec, w.extents[0], tuning_.rank);
    }
    if (!right)
      throw shape_error("low_rank: a store of factors that is not of these " +
                        std::to_string(matrices_.size()) + " matrices at rank " +
                        std::to_string(tuning_.rank) +
                        "; make it from this description or one with the same rank and filter");
  }

  low_rank_tuning tuning_;
  std::vector<adapted_matrix> matrices_;
  std::size_t total_ = 0;
};
template <class M, class... Rest>
low_rank(const M&, Rest...) -> low_rank<M>;

using tuning_policy = std::variant<frozen, low_rank_tuning, full_tuning>;

/// Weights of a model under a policy of fine-tuning, and what of them an optimiser trains: nothing, factors,
/// or all.
///
///     tuned_weights lm{cx, model, base, low_rank_tuning{8, 32}, philox{seed}};   // base must outlive it
///     auto [h, pullback] = model(cx, lm.weights(), ...);
///     pullback(dh, lm.gradients());
///     lm.pull(cx);
///     optimiser.step(cx, lm.flat_weights(), lm.flat_grads(), rate);              // where lm.trains()
///     lm.merge(cx);
template <Parametrised M>
class tuned_weights {
 public:
  using backend = typename M::backend;
  using factor_store = parameters<low_rank<M>>;

  /// `takes`: which matrices get factors. Errors: those of low_rank.
  template <class Filter = bool (*)(const parameter_spec&)>
  tuned_weights(context<backend>& cx, const M& model, const parameters<M>& base, tuning_policy how,
                philox random, Filter takes = is_projection)
      : base_(&base) {
    if (std::holds_alternative<frozen>(how)) {
      gradients_ = base.weights;
      auto empty = [](const parameter_spec&, auto& gradient) { gradient = {}; };
      model.each_param(empty, gradients_);
      return;
    }
    if (const auto* low = std::get_if<low_rank_tuning>(&how)) {
      rule_.emplace(model, *low, takes);
      factors_.emplace(cx, *rule_, random);
    }
    own_.emplace(cx, model, philox{});
    own_->copy_weights(cx, base);
    gradients_ = rule_ ? rule_->wanted(model, *own_) : own_->grads;
  }

  /// What layers read.
  const typename M::params& weights() const { return own_ ? own_->weights : base_->weights; }
  /// What pullbacks write.
  const typename M::params& gradients() const { return gradients_; }
  /// After all pullbacks of a step: gradients of the model become those of what is trained.
  void pull(context<backend>& cx) {
    if (rule_) rule_->pull(cx, *own_, *factors_);
  }
  /// After the trained values changed: the weights follow.
  void merge(context<backend>& cx) {
    if (rule_) rule_->merge(cx, *base_, *factors_, *own_);
  }
  bool trains() const { return own_.has_value(); }

  /// Of what is trained. Errors: planlm::error where nothing is.
  const std::vector<parameter_slot>& slots() const {
    return trained([](const auto& store) -> const auto& { return store.slots(); });
  }
  planlm::flat_weights<backend> flat_weights() const {
    return trained([](const auto& store) { return store.flat_weights(); });
  }
  tensor<backend, 1> flat_grads() const {
    return trained([](const auto& store) { return store.flat_grads(); });
  }
  index_t count() const {
    return own_ ? trained([](const auto& store) { return store.count(); }) : 0;
  }

 private:
  template <class F>
  decltype(auto) trained(const F& f) const {
    if (!own_) throw error("tuned_weights: frozen weights have nothing to train; ask trains() first");
    return factors_ ? f(*factors_) : f(*own_);
  }

  const parameters<M>* base_;
  typename M::params gradients_{};
  std::optional<low_rank<M>> rule_;
  std::optional<factor_store> factors_;
  std::optional<parameters<M>> own_;
};

}  // namespace planlm
