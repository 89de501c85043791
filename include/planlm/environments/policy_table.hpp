/// Rows of choices of an environment: logits to log-probabilities over what is permitted, and back.
///
/// A row of logits belongs to a state: forward (actions + 1), the exit last; backward (actions), which action is undone. Only permitted
/// entries are read; the others get log-probability -infinity and no gradient.
#pragma once
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/environments/environment.hpp>

namespace planlm {

namespace detail {
template <class Permitted>
void log_softmax_where(const double* logits, int n, const Permitted& permitted, double* out) {
  log_sum all;
  for (int j = 0; j < n; ++j)
    if (permitted(j)) all.add(logits[j]);
  const double total = all.value();
  for (int j = 0; j < n; ++j) out[j] = permitted(j) ? logits[j] - total : minus_infinity;
}
}  // namespace detail

/// log P_F(. | state) from its logits (actions + 1).
template <Environment E>
void forward_row(const E& env, index_t state, const double* logits, double* out) {
  const int exit = env.actions();
  const auto permitted = [&](int j) { return j == exit ? bool(env.stops(state)) : env.child(state, j) != -1; };
  detail::log_softmax_where(logits, exit + 1, permitted, out);
}
/// log P_B(. | state) from its logits (actions).
template <Environment E>
void backward_row(const E& env, index_t state, const double* logits, double* out) {
  detail::log_softmax_where(logits, env.actions(), [&](int j) { return env.parent(state, j) != -1; }, out);
}
/// dlogits += d - p sum(d), for either row: `row` is the log-probabilities made above.
inline void row_pullback(const double* row, const double* d, int n, double* dlogits) {
  double sum = 0;
  for (int j = 0; j < n; ++j)
    if (row[j] != minus_infinity) sum += d[j];
  for (int j = 0; j < n; ++j)
    if (row[j] != minus_infinity) dlogits[j] += d[j] - std::exp(row[j]) * sum;
}

/// All states at once: logits (states, actions + 1) -> the forward table.
template <Environment E>
std::vector<double> forward_table(const E& env, const std::vector<double>& logits) {
  const auto width = static_cast<std::size_t>(env.actions()) + 1, states = static_cast<std::size_t>(env.states());
  if (logits.size() != states * width)
    throw shape_error("forward_table: " + std::to_string(logits.size()) + " logits, expected " + std::to_string(states * width) +
                      " (states, actions + 1)");
  std::vector<double> table(logits.size());
  for (std::size_t s = 0; s < states; ++s)
    forward_row(env, static_cast<index_t>(s), &logits[s * width], &table[s * width]);
  return table;
}
/// The gradient of the logits: `width` entries a state.
inline std::vector<double> table_pullback(const std::vector<double>& table, const std::vector<double>& d, int width) {
  if (table.size() != d.size() || width < 1 || table.size() % static_cast<std::size_t>(width) != 0)
    throw shape_error("table_pullback: a table of " + std::to_string(table.size()) + ", gradients of " + std::to_string(d.size()) +
                      ", rows of " + std::to_string(width));
  std::vector<double> dlogits(table.size(), 0.0);
  for (std::size_t at = 0; at < table.size(); at += static_cast<std::size_t>(width))
    row_pullback(&table[at], &d[at], width, &dlogits[at]);
  return dlogits;
}

/// How a sampler leaves its policy, in this order: `exit_penalty` off the exit's logit, division by the temperature, softmax, a share
/// `uniform` of the uniform distribution over what is permitted.
struct exploration {
  double temperature = 1, uniform = 0, exit_penalty = 0;
};
/// The behaviour's log-probabilities from a forward row (actions + 1) of logits or log-probabilities; -infinity stays so.
inline void explore_row(const double* row, int n, const exploration& rule, double* out) {
  if (!(rule.temperature > 0) || !(rule.uniform >= 0 && rule.uniform <= 1))
    throw error("exploration: temperature " + std::to_string(rule.temperature) + " and uniform share " +
                std::to_string(rule.uniform) + ", expected above 0 and in [0, 1]");
  int permitted = 0;
  log_sum all;
  for (int j = 0; j < n; ++j) {
    out[j] = row[j] == minus_infinity ? row[j] : (row[j] - (j + 1 == n ? rule.exit_penalty : 0)) / rule.temperature;
    permitted += row[j] != minus_infinity;
    all.add(out[j]);
  }
  const double total = all.value();
  for (int j = 0; j < n; ++j) {
    if (out[j] == minus_infinity) continue;
    out[j] -= total;
    if (rule.uniform > 0) out[j] = std::log((1 - rule.uniform) * std::exp(out[j]) + rule.uniform / permitted);
  }
}

}  // namespace planlm
