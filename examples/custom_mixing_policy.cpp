/// A mixing policy of one's own: sparsemax in place of softmax, so that most labels get a weight of exactly zero.
///
/// The policy checks its gradient, trains a small planner together with the language model it conditions, and shows its weights.
#include <cmath>
#include <cstdio>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/planlm.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>

using namespace planlm;

/// w_i = max(z_i - tau, 0) with tau such that the row sums to 1: the point of the simplex nearest to z.   [1602.02068, algorithm 1]
struct sparsemax {
  template <class T> struct forward {
    const T* z; T* w; index_t cols;
    template <class Team>
    void operator()(const Team& team, index_t r) const {
      const T* from = z + r * cols;
      T* to = w + r * cols;
      const T top = team.template max<T>(cols, [=](index_t i) { return from[i]; });
      T tau = -1, size = 0, before;  // relative to top; rises until the labels above it are the support
      do {
        before = size;
        size = team.template sum<T>(cols, [=](index_t i) { return from[i] - top > tau ? T(1) : T(0); });
        tau = (team.template sum<T>(cols, [=](index_t i) { return from[i] - top > tau ? from[i] - top : T(0); }) - 1) / size;
      } while (size != before);
      team.for_each(cols, [=](index_t i) { to[i] = from[i] - top > tau ? from[i] - top - tau : T(0); });
    }
  };
  template <class T> struct backward {  // dz_i = dw_i - mean of dw over the support; zero off it   [1602.02068, section 2.3]
    const T *w, *dw; T* dz; index_t cols;
    template <class Team>
    void operator()(const Team& team, index_t r) const {
      const T *p = w + r * cols, *d = dw + r * cols;
      T* to = dz + r * cols;
      const T size = team.template sum<T>(cols, [=](index_t i) { return p[i] > 0 ? T(1) : T(0); });
      const T mean = team.template sum<T>(cols, [=](index_t i) { return p[i] > 0 ? d[i] : T(0); }) / size;
      team.for_each(cols, [=](index_t i) { to[i] = p[i] > 0 ? d[i] - mean : T(0); });
    }
  };
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    const auto w = cx.make(z.rows(), z.cols());
    B::for_rows(cx.queue(), w.rows(), forward<typename B::real>{z.data, w.data, w.cols()});
    return vjp{const_tensor<B>(w), [&cx, w](const_tensor<B> dw) {
                 const auto dz = cx.make(w.rows(), w.cols());
                 B::for_rows(cx.queue(), w.rows(), backward<typename B::real>{w.data, dw.data, dz.data, w.cols()});
                 return const_tensor<B>(dz);
               }};
  }
};

namespace {

using B = cpu<float>;
constexpr index_t topics = 4, words = 6, sentence_length = 5, sentences = 16;
constexpr index_t labels = 8, label_width = 6, rows = sentences * sentence_length;

/// Two documents of eight sentences: five words of a topic, the topics taking turns. Word 0 opens a document. The planner sees a noisy
/// picture of the sentences before.
struct example {
  std::vector<int> tokens, targets, sentence, positions, offsets{0, rows / 2, rows};
  std::vector<int> context_offsets{0}, context_positions;
  std::vector<float> embeddings;

  example() {
    const philox random{7};
    int last = 0;
    for (int t = 0; t < rows; ++t) {
      const int s = t / sentence_length, topic = (s + s / 8) % topics;
      if (t == rows / 2) last = 0;
      tokens.push_back(last);
      last = 1 + topic * int(words) + static_cast<int>(random.below(words, static_cast<std::uint64_t>(t), 0));
      targets.push_back(last);
      sentence.push_back(s);
      positions.push_back(t % (rows / 2));
    }
    for (int s = 0; s < sentences; ++s) {
      const int document = s / 8;
      int seen = 0;
      for (int before = document * 8 - 1; before < s; ++before) {  // the first of them stands for the empty context
        context_positions.push_back(seen++);
        for (int i = 0; i < label_width; ++i) {
          const bool in_topic = before >= document * 8 && (before + document) % topics == i;
          embeddings.push_back((in_topic ? 1.f : 0.f) +
                               0.1f * static_cast<float>(random.normal(100 + embeddings.size(), 0)));
        }
      }
      context_offsets.push_back(context_offsets.back() + seen);
    }
  }
};
indices<B> view_of(const std::vector<int>& v) { return {v.data(), v.size()}; }

}  // namespace

int main() {
  context<cpu<double>> exact;
  const double error = testing::gradient_error(exact, label_mixture<cpu<double>>{7, 5}, 13, 7, {}, sparsemax{});
  std::printf("gradient check of sparsemax: largest error %.1e\n\n", error);

  const example data;
  context<B> cx{B::queue(1)};
  const planner_lm<B> model({1 + topics * words, rows / 2, 16, 2, 2}, labels, label_width, 0);
  const planner<B> plan{label_width, labels, 2, 16, 1};
  parameters theta(cx, model, philox{1});
  parameters phi(cx, plan, philox{2});
  adamw<B> of_model(cx, theta.flat_weights().size()), of_planner(cx, phi.flat_weights().size());
  const planned_rows<B> batch{view_of(data.tokens), view_of(data.targets), view_of(data.sentence),
                              {view_of(data.offsets), data.offsets.data(), view_of(data.positions)}, sentences};
  const sequences<B> contexts{view_of(data.context_offsets), data.context_offsets.data(), view_of(data.context_positions)};
  const const_tensor<B> embeddings(data.embeddings.data(), data.context_offsets.back(), label_width);

  double first = 0, last = 0;
  std::vector<float> weights;
  for (int step = 0; step <= 120; ++step) {
    auto scope = cx.scope();
    auto [z, planner_pullback] = plan(cx, phi.weights, embeddings, contexts);
    auto [h, pullback] = model(cx, theta.weights, batch, const_tensor<B>(z), sparsemax{});
    const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.lm.token.table), batch.targets,
                                                const_tensor<B, 1>{}, 1.f / rows, theta.grads.lm.token.table);
    planner_pullback(pullback(loss.dhidden, theta.grads), phi.grads);
    last = cx.read_one(loss.total);
    if (step == 0) first = last;
    if (step % 20 == 0) std::printf("step %3d  loss %.3f nats per word\n", step, last);
    if (step == 120) weights = cx.read(sparsemax{}.weights(cx, const_tensor<B>(z)).value);
    const auto clip = clip_global_norm(cx, 1, theta.flat_grads(), phi.flat_grads());
    of_model.step(cx, theta.flat_weights(), theta.flat_grads(), 5e-3, clip.factor);
    of_planner.step(cx, phi.flat_weights(), phi.flat_grads(), 5e-3, clip.factor);
  }

  std::printf("\nweights of the labels, one sentence of the first document a row:\n");
  index_t zeros = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    zeros += weights[i] == 0;
    if (i >= 8 * labels) continue;
    if (weights[i] == 0) std::printf("     0");
    else std::printf(" %5.3f", double(weights[i]));
    if (i % labels == labels - 1) std::printf("\n");
  }
  std::printf("%d of %d weights are exactly zero\n", int(zeros), int(weights.size()));

  if (!(error < 1e-7)) return std::fprintf(stderr, "custom_mixing_policy: the gradient check failed\n"), 1;
  if (!(last < 0.8 * first)) return std::fprintf(stderr, "custom_mixing_policy: the loss did not go down\n"), 1;
  if (zeros == 0) return std::fprintf(stderr, "custom_mixing_policy: no weight is zero\n"), 1;
  return 0;
}
