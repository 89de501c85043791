/// The same computations on any backend, their results in host memory: what the GPU is held against.
///
/// Inputs and weights are rounded to `Input`, float or bfloat16, before use, so that a double reference starts from the very same numbers.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/reduce.hpp>
#include <planlm/planlm.hpp>
#include <planlm/planning/label_mixture.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>

#include "parity_adapters.hpp"
#include "parity_look_ahead.hpp"
#include "parity_objectives.hpp"
#include "parity_preference_lists.hpp"
#include "parity_reward_model.hpp"
#include "parity_rollouts.hpp"
#include "parity_token_objective.hpp"
#include "parity_token_policy.hpp"

namespace planlm::testing {

/// Named arrays.
using results = std::map<std::string, std::vector<double>>;

/// Reference results for the inputs of the program at hand: in parity_cpu.cpp or parity_bf16_cpu.cpp, apart from nvcc, which would switch
/// the CPU backend's vector code off.
results operations_on_cpu();
results joint_on_cpu(int model, int steps, int threads);

template <class T, class Input>
std::vector<T> rounded_normals(index_t count, std::uint64_t seed, double scale = 1) {
  const std::vector<Input> v = normal_values<Input>(count, seed, scale);
  return {v.begin(), v.end()};
}
template <class T>
std::vector<double> widened(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

/// Moves all weights off their initial values, so that zeros and ones do not hide a fault.
template <class Input, Parametrised M>
void move_weights(context<typename M::backend>& cx, parameters<M>& store, std::uint64_t seed) {
  for (std::size_t n = 0; n < store.slots().size(); ++n) {
    auto w = store.read(cx, n);
    const std::vector<float> noise = normal_values<float>(static_cast<index_t>(w.size()), seed + n, 0.1);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Input(static_cast<float>(w[i]) + noise[i]));
    store.write(cx, n, w);
  }
}

/// What the operations and layers of the library give at sizes that are multiples of nothing. Memory is NaN before each.
template <Backend B, class Input = float>
class operations {
 public:
  using T = typename B::real;
  using A = typename B::accum;
  explicit operations(typename B::queue queue) : cx_(std::move(queue)) {}

  results run() {
    elementwise();
    rows();
    losses();
    for (const bool causal : {true, false})
      for (const index_t kv_heads : {index_t{6}, index_t{2}, index_t{1}}) attend(causal, kv_heads);
    for (const index_t n : {1, 8, 511, 513, 1500}) column_sums(n);
    products();
    policies();
    layers();
    reductions();
    look_ahead_parity<B, Input>(cx_, out_);
    adapter_parity<B, Input>(cx_, out_);
    objective_parity<B, Input>(cx_, out_);
    rollout_parity<B, Input>(cx_, out_);
    token_policy_parity<B, Input>(cx_, out_);
    token_objective_parity<B, Input>(cx_, out_);
    reward_model_parity<B, Input>(cx_, out_);
    preference_parity<B, Input>(cx_, out_);
    return std::move(out_);
  }

 private:
  using matrix = const_tensor<B>;
  matrix normals(index_t rows, index_t cols, std::uint64_t seed, double scale = 1) {
    const std::vector<T> v = rounded_normals<T, Input>(rows * cols, seed, scale);
    return cx_.upload(std::span<const T>(v), rows, cols);
  }
  const_tensor<B, 1> normals(index_t n, std::uint64_t seed) { return flat(normals(n, 1, seed)); }
  template <class V>
  void keep(const std::string& name, const V& v) {
    out_[name] = widened(cx_.read(v));
  }
  template <class F>
  void on_poison(const F& f) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    f();
  }
  template <class F>
  void map_of(const std::string& name) {
    on_poison([&] {
      const auto x = normals(37, 53, 1, 2), dy = normals(37, 53, 2);
      keep(name, ops::map<F>(cx_, x));
      keep(name + " pullback", ops::map_pullback<F>(cx_, x, dy));
    });
  }
  void elementwise() {
    map_of<ops::gelu>("gelu");
    map_of<ops::silu>("silu");
    map_of<ops::relu>("relu");
    on_poison([&] {
      const auto x = normals(71, 67, 3), y = normals(71, 67, 4);
      keep("sum", ops::sum(cx_, x, y));
      keep("scaled", ops::scaled(cx_, x, A(0.3f)));
      keep("dropout", ops::dropout(cx_, x, 0.3, philox{7, 5, 9}));
    });
  }
  void rows() {
    on_poison([&] {
      const auto x = normals(37, 101, 5), dy = normals(37, 101, 6);
      const auto scale = normals(101, 7), shift = normals(101, 8);
      ops::norm_statistics<B> kept;
      keep("layer norm", ops::norm<true>(cx_, x, scale, shift, 1e-5, kept));
      auto dscale = cx_.make_zero(101), dshift = cx_.make_zero(101);
      keep("layer norm pullback", ops::norm_pullback<true>(cx_, x, scale, kept, dy, dscale, dshift));
      keep("layer norm dscale", dscale), keep("layer norm dshift", dshift);
      keep("rms norm", ops::norm<false>(cx_, x, scale, const_tensor<B, 1>{}, 1e-5, kept));
      keep("rms norm pullback", ops::norm_pullback<false>(cx_, x, scale, kept, dy, dscale, tensor<B, 1>{}));
      const auto p = ops::softmax(cx_, x, 0.7);
      keep("softmax", p), keep("softmax pullback", ops::softmax_pullback(cx_, matrix(p), dy, 0.7));
      keep("softmax of 3", ops::softmax(cx_, normals(5, 3, 9)));
    });
    on_poison([&] {
      const auto x = normals(37, 70, 10);
      std::vector<int> id(37), position(37), offsets{0, 1, 18, 37};
      for (int i = 0; i < 37; ++i) id[static_cast<std::size_t>(i)] = i % 9 - 1, position[static_cast<std::size_t>(i)] = 3 * i;
      const auto ids = indices<B>(cx_.upload(id)), at = indices<B>(cx_.upload(position));
      keep("gather", ops::gather_rows(cx_, normals(8, 70, 11), ids));
      keep("add gathered", ops::add_gathered_rows(cx_, x, normals(8, 70, 12), ids));
      keep("segment sum", ops::segment_sum(cx_, x, ids, 8));
      keep("sinusoids", ops::add_sinusoids(cx_, x, at));
      auto turned = normals(37, 70, 13);
      tensor<B> turn{const_cast<T*>(turned.data), 37, 70};
      ops::rotate<B>(cx_, turn, 10, 3, 20, at, 10000, true);
      keep("rotate", turn);
      const sequences<B> seq{cx_.upload(offsets), offsets.data(), at};
      const auto pooled = ops::mean_pool(cx_, x, seq);
      keep("mean pool", pooled), keep("mean pool pullback", ops::mean_pool_pullback(cx_, matrix(pooled), seq, 37));
    });
  }
  void losses() {
    on_poison([&] {
      const auto h = normals(41, 23, 14), table = normals(307, 23, 15);
      std::vector<int> target(41);
      for (int i = 0; i < 41; ++i) target[static_cast<std::size_t>(i)] = i % 7 == 3 ? -1 : i * 31 % 307;
      const auto targets = indices<B>(cx_.upload(target));
      auto dtable = cx_.make_zero(307, 23);
      const auto weights = const_accum_tensor<B>(cx_.upload(rounded_normals<A, Input>(41, 16)));
      const auto loss = ops::linear_cross_entropy(cx_, h, table, targets, weights, A(0), dtable);
      keep("token loss", loss.total), keep("token loss nll", loss.nll), keep("token loss dhidden", loss.dhidden);
      keep("token loss dtable", dtable);
      keep("token nll", ops::linear_token_nll(cx_, h, table, targets));
      const auto labels = ops::cross_entropy(cx_, normals(41, 307, 17), targets, A(0.25));
      keep("label loss", labels.total), keep("label loss dz", labels.dz);
    });
  }
  void attend(bool causal, index_t kv_heads) {
    on_poison([&] {
      const attention_shape shape{6, kv_heads, 5, causal};
      std::vector<int> offsets{0, 1, 38, 71}, position(71, 0);
      const sequences<B> seq{cx_.upload(offsets), offsets.data(), cx_.upload(position)};
      const auto qkv = normals(71, shape.packed_width(), 18, 2), dy = normals(71, shape.query_width(), 19);
      const std::string name = std::string(causal ? "causal" : "full") + " attention, kv heads " + std::to_string(kv_heads);
      const auto result = ops::attention(cx_, shape, qkv, seq);
      keep(name, result.y), keep(name + " lse", result.lse);
      keep(name + " pullback", ops::attention_pullback(cx_, shape, qkv, seq, result, dy));
    });
  }
  void column_sums(index_t n) {
    on_poison([&] {
      auto y = cx_.make_zero(45);
      ops::add_column_sums(cx_, normals(n, 45, 20), y);
      keep("column sums of " + std::to_string(n), y);
    });
  }
  // Every operand by rows and by columns, with steps wider than the matrix, extents of 1 among them.
  void products() {
    const index_t sizes[][3] = {{17, 29, 13}, {1, 29, 13}, {17, 1, 13}, {17, 29, 1}, {1, 1, 7}, {9, 1, 1}, {1, 9, 1}};
    for (const auto& size : sizes)
      for (int turned = 0; turned < 8; ++turned)
        for (const into mode : {into::replace, into::add})
          for (const index_t extra : {0, 3}) on_poison([&] {
            const index_t m = size[0], n = size[1], k = size[2];
            const auto lie = [extra](auto* data, index_t rows, index_t cols, bool by_columns) {
              using U = std::remove_pointer_t<decltype(data)>;
              return by_columns ? operand<U>{data, rows, cols, 1, rows + extra} : operand<U>{data, rows, cols, cols + extra, 1};
            };
            const index_t count = 2, step_a = 40 * 40, step_b = 40 * 40 + 1, step_c = 40 * 40 + 2;
            const auto a = normals(count * step_a, 21), b = normals(count * step_b, 22);
            const auto from = normals(count * step_c, 23);
            auto c = cx_.make(count * step_c);
            B::copy(cx_.queue(), c.data, from.data, static_cast<std::size_t>(c.size()) * sizeof(T));
            const auto in_a = lie(a.data, m, k, turned & 1), in_b = lie(b.data, k, n, turned & 2);
            const auto in_c = lie(c.data, m, n, turned & 4);
            const std::string name = "product " + std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) + " turned " +
                                     std::to_string(turned) + (mode == into::add ? " added" : "") + (extra ? " strided" : "");
            B::gemm(cx_.queue(), A(0.5), in_a, in_b, in_c, mode);
            keep(name, c);
            B::gemm_batched(cx_.queue(), A(0.5), in_a, step_a, in_b, step_b, in_c, step_c, count, mode);
            keep(name + " batched", c);
          });
  }
  template <class Mix>
  void policy(const std::string& name, const Mix& mix) {
    on_poison([&] {
      cx_.random = philox{31, 2};
      auto [w, pullback] = mix.weights(cx_, normals(29, 43, 24, 2));
      keep(name, matrix(w));
      const matrix dz = pullback(normals(29, 43, 25));
      if (dz) keep(name + " pullback", dz);
    });
  }
  template <class Mix>
  void mixed(const std::string& name, const Mix& mix) {
    on_poison([&] {
      const label_mixture<B> layer{43, 17};
      typename label_mixture<B>::params p, g;
      const auto table = normals(43, 17, 26);
      p.table = {const_cast<T*>(table.data), 43, 17};
      g.table = cx_.make_zero(43, 17);
      auto [e, pullback] = layer(cx_, p, normals(29, 43, 27), mix);
      keep(name, matrix(e));
      if (const matrix dz = pullback(normals(29, 17, 28), g)) keep(name + " dz", dz);
      keep(name + " dtable", g.table);
      pullback(normals(29, 17, 28), g, into::replace);
      keep(name + " dtable, replaced", g.table);
    });
  }
  void policies() {
    policy("mixture", mixture{1.3});
    policy("top_k", top_k{5, 0.7});
    policy("top_k of all", top_k{99, 1});
    policy("hard", hard{});
    policy("straight_through", straight_through{0.7});
    policy("gumbel_softmax", gumbel_softmax{0.7, 1});
    policy("gumbel_softmax, discrete", gumbel_softmax{0.7, 1, true});
    policy("sampled", sampled{1.1});
    policy("uniform", uniform{});
    policy("fixed", fixed{2});
    on_poison([&] {
      std::vector<int> label(29);
      for (int i = 0; i < 29; ++i) label[static_cast<std::size_t>(i)] = i * 5 % 43;
      auto [w, pullback] = oracle<B>{cx_.upload(label)}.weights(cx_, normals(29, 43, 24));
      keep("oracle", matrix(w));
    });
    mixed("label mixture", mixture{0.9});
    mixed("label mixture, top_k", top_k{5, 0.7});
    mixed("label mixture, uniform", uniform{});
  }
  template <Parametrised L, class... Extra>
  void layer(const std::string& name, const L& l, index_t width, const Extra&... extra) {
    parameters<L> theta(cx_, l, philox{5});
    move_weights<Input>(cx_, theta, 300);
    on_poison([&] {
      cx_.random = philox{31, 2};
      auto [y, pullback] = l(cx_, theta.weights, normals(71, width, 30), extra...);
      keep(name, matrix(y)), keep(name + " dx", matrix(pullback(normals(71, y.cols(), 31), theta.grads)));
      for (std::size_t n = 0; n < theta.slots().size(); ++n)
        out_[name + " d " + theta.slots()[n].spec.name] = widened(theta.read_gradient(cx_, n));
    });
  }
  void layers() {
    auto scope = cx_.scope();
    const std::vector<int> offsets{0, 1, 38, 71};
    std::vector<int> position;
    for (const int length : {1, 37, 33})
      for (int t = 0; t < length; ++t) position.push_back(t);
    const sequences<B> seq{cx_.upload(offsets), offsets.data(), cx_.upload(position)};
    layer("sequential", residual{sequential{rms_norm<B>{22}, lora<B>{linear<B>{22, 31}, 4}, silu<B>{}, dropout<B>{0.25, 3}, linear<B>{31, 22}}}, 22);
    using block = transformer_block<B, rms_norm<B>, ops::silu, rotary>;
    layer("stack", stack{2, block(30, 5, true, 41, 0.02, 1)}, 30, seq);
    layer("recompute", recompute<encoder_block<B>>{encoder_block<B>(30, 3, 41)}, 30, seq);
    layer("learned positions", learned_positions<B>{40, 22}, 22, seq);
    layer("sinusoidal positions", sinusoidal_positions<B>{40, 22}, 22, seq);
    layer("zero gate", zero_gate<B>{22}, 22);
  }
  void reductions() {
    on_poison([&] {
      const auto x = normals(20001, 29);
      keep("sum of squares", ops::sum_of_squares<B>(cx_, x));
      keep("first not finite: none", ops::first_not_finite<B>(cx_, x));
      std::vector<T> v = rounded_normals<T, Input>(20001, 29);
      v[9001] = v[17000] = T(INFINITY);
      keep("first not finite", ops::first_not_finite<B>(cx_, const_tensor<B, 1>(cx_.upload(v))));
    });
  }

  context<B> cx_;
  results out_;
};

/// The two ends of the planner-conditioned model: all defaults, and the other choice at every place.
template <Backend B>
using usual_model = planner_lm<B>;
template <Backend B>
using other_model = planner_lm<B, at_feed_forward_input, label_adapter<B, one_gate<B>>, no_positions<B>, rotary, keep_inputs>;

/// Planner, mixing policy, language model, loss and both pullbacks; then `steps` of clipped AdamW. All gradients of the first step, all
/// losses, and the weights at the end.
template <Backend B, class Model, class Input, class Mix>
results joint_steps(typename B::queue queue, const Mix& mix, int steps) {
  using T = typename B::real;
  using A = typename B::accum;
  constexpr index_t vocabulary = 301, labels = 33, label_width = 24, sentences = 20, rows = 173;
  context<B> cx{std::move(queue)};
  cx.random = philox{11};
  const Model model({vocabulary, 40, 44, 2, 3}, labels, label_width, 1);
  const planner<B> plan{label_width, labels, 2, 50, 1};
  parameters<Model> theta(cx, model, philox{1});
  parameters<planner<B>> phi(cx, plan, philox{2});
  move_weights<Input>(cx, theta, 100), move_weights<Input>(cx, phi, 200);
  adamw<B> of_model(cx, theta.flat_weights().size(), {.weight_decay = 0.01}, decay_of_matrices(theta.slots()));
  adamw<B> of_planner(cx, phi.flat_weights().size());

  std::vector<int> tokens, targets, sentence, positions, offsets{0}, context_positions, context_offsets{0};
  for (const int length : {37, 37, 40, 1, 29, 29}) {
    for (int t = 0; t < length; ++t) positions.push_back(t);
    offsets.push_back(static_cast<int>(positions.size()));
  }
  for (int s = 0; s < sentences; ++s) {
    for (int j = 0; j <= s % 8; ++j) context_positions.push_back(j);
    context_offsets.push_back(static_cast<int>(context_positions.size()));
  }
  for (std::uint32_t t = 0; t < rows; ++t) {
    tokens.push_back(static_cast<int>(philox{8}.below(vocabulary, t, 0)));
    targets.push_back(static_cast<int>(philox{8}.below(vocabulary, t, 1)));
    sentence.push_back(static_cast<int>(t * sentences / rows));
  }
  const auto context_rows = static_cast<index_t>(context_positions.size());
  const std::vector<T> embeddings = rounded_normals<T, Input>(context_rows * label_width, 3);

  results out;
  for (int step = 0; step < steps; ++step) {
    poison(cx);
    auto scope = cx.scope();
    cx.random.step = static_cast<std::uint32_t>(step);
    const planned_rows<B> batch{cx.upload(tokens), cx.upload(targets), cx.upload(sentence),
                                {cx.upload(offsets), offsets.data(), cx.upload(positions)}, sentences};
    const sequences<B> contexts{cx.upload(context_offsets), context_offsets.data(), cx.upload(context_positions)};
    const const_tensor<B> e = cx.upload(std::span<const T>(embeddings), context_rows, label_width);
    auto [s, planner_pullback] = plan(cx, phi.weights, e, contexts);
    auto [h, pullback] = model(cx, theta.weights, batch, const_tensor<B>(s), mix);
    const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.lm.token.table), batch.targets,
                                                const_accum_tensor<B>{}, A(1) / A(rows), theta.grads.lm.token.table);
    const const_tensor<B> dz = pullback(loss.dhidden, theta.grads);
    planner_pullback(dz, phi.grads);
    if (step == 0) {
      out["planner logits"] = widened(cx.read(const_tensor<B>(s)));
      out["hidden"] = widened(cx.read(const_tensor<B>(h)));
      out["dz"] = widened(cx.read(dz));
      for (std::size_t n = 0; n < theta.slots().size(); ++n)
        out["d " + theta.slots()[n].spec.name] = widened(theta.read_gradient(cx, n));
      for (std::size_t n = 0; n < phi.slots().size(); ++n)
        out["d planner." + phi.slots()[n].spec.name] = widened(phi.read_gradient(cx, n));
    }
    const auto clip = clip_global_norm(cx, 0.5, theta.flat_grads(), phi.flat_grads());
    if (step == 0) out["gradient norm"] = {read_norm(cx, clip)};
    of_model.step(cx, theta.flat_weights(), theta.flat_grads(), 1e-3, clip.factor);
    of_planner.step(cx, phi.flat_weights(), phi.flat_grads(), 1e-3, clip.factor);
    out["losses"].push_back(double(cx.read_one(loss.total)));
  }
  out["weights after training"] = widened(cx.read(accum_tensor<B>(theta.flat_weights())));
  out["planner weights after training"] = widened(cx.read(accum_tensor<B>(phi.flat_weights())));
  return out;
}
template <Backend B, class Input = float>
results joint_of(typename B::queue queue, int model, int steps) {
  return model == 0 ? joint_steps<B, usual_model<B>, Input>(std::move(queue), mixture{1.3}, steps)
                    : joint_steps<B, other_model<B>, Input>(std::move(queue), gumbel_softmax{0.8}, steps);
}

}  // namespace planlm::testing
