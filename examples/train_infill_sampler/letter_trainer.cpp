/// The network over states that differ, strings over them.
#include "letter_trainer.hpp"
#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <variant>
#include <planlm/ops/token_policy.hpp>
#include <planlm/training/clipping.hpp>

namespace train_infill_sampler {
namespace {

using B = letter_trainer::backend;
constexpr int L = candidates::longest, stop = letter_policy<B>::stop;
constexpr auto outputs = static_cast<std::size_t>(letter_policy<B>::outputs);

/// What a choice is drawn from: running sums of probabilities at a temperature.
std::array<double, outputs> running_sums(std::span<const float> logits, double temperature) {
  const double top = double(*std::max_element(logits.begin(), logits.end()));
  std::array<double, outputs> sums{};
  double all = 0;
  for (std::size_t c = 0; c < outputs; ++c)
    sums[c] = all += std::exp((double(logits[c]) - top) / temperature);
  for (double& s : sums) s /= all;
  return sums;
}
std::array<double, outputs> log_probabilities(std::span<const float> logits) {
  const double top = double(*std::max_element(logits.begin(), logits.end()));
  double all = 0;
  for (const float z : logits) all += std::exp(double(z) - top);
  std::array<double, outputs> out{};
  for (std::size_t c = 0; c < outputs; ++c) out[c] = double(logits[c]) - top - std::log(all);
  return out;
}

}  // namespace

int letter_trainer::state_list::add(const gap& g, const std::array<letter, 3>& written, int n) {
  letter_policy<B>::add_facts(rows, g, written, n);
  state.insert(state.end(), letter_policy<B>::fact_count, count);
  return count++;
}

std::unique_ptr<sampler::part> letter_trainer::make(philox start) {
  return std::make_unique<policy_part>(cx_, net_, start, true, 0);
}
std::unique_ptr<sampler::part> letter_trainer::make_flows(int gaps) {
  auto flows = std::make_unique<flow_part>(cx_, embedding<B>{gaps, 1}, philox{}, true, 0);
  flows->write(std::vector<float>(static_cast<std::size_t>(flows->size()), 0.0f));
  return flows;
}

std::vector<float> letter_trainer::logits(const sampler::part& policy, const state_list& states) {
  auto scope = cx_.scope();
  return cx_.read(net_(cx_, policy_part::of(policy).weights, cx_.upload(states.rows),
                       cx_.upload(states.state), states.count)
                      .value);
}

filled letter_trainer::from_prior(const gap& g, int number, philox random, std::uint64_t row) const {
  filled f{number, static_cast<int>(random.below(L + 1, row, 3)), {}};
  auto [a, b, c] = g.before;
  for (int t = 0; t < f.length; ++t) {
    const auto next =
        static_cast<letter>(lm_.draw(a, b, c, random.uniform(row, static_cast<std::uint32_t>(t))));
    f.letters[static_cast<std::size_t>(t)] = next;
    a = b, b = c, c = next;
  }
  return f;
}

std::vector<filled> letter_trainer::draw(const sampler::part& policy, std::span<const gap> gaps,
                                         std::span<const behaviour> how, int rows, philox random) {
  const auto per_gap = static_cast<std::size_t>(rows);
  std::vector<filled> all(gaps.size() * per_gap);
  std::vector<int> prefix(all.size(), 0);  // of those that go on; -1: stopped
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::size_t g = i / per_gap;
    all[i].gap = static_cast<int>(g);
    if (how[g].prior) all[i] = from_prior(gaps[g], static_cast<int>(g), random, i), prefix[i] = -1;
  }
  std::vector<int> known(gaps.size() * candidates::open);
  for (int n = 0; n < L; ++n) {
    std::fill(known.begin(), known.end(), -1);
    state_list states;
    std::vector<std::size_t> gap_of;
    const auto place = [&](std::size_t i) -> int& {
      return known[static_cast<std::size_t>(all[i].gap * candidates::open + prefix[i])];
    };
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (prefix[i] < 0 || place(i) >= 0) continue;
      place(i) = states.add(gaps[static_cast<std::size_t>(all[i].gap)], all[i].letters, n);
      gap_of.push_back(static_cast<std::size_t>(all[i].gap));
    }
    if (states.count == 0) break;
    const std::vector<float> z = logits(policy, states);
    std::vector<std::array<double, outputs>> sums;
    for (std::size_t s = 0; s < gap_of.size(); ++s)
      sums.push_back(running_sums(std::span(z).subspan(s * outputs, outputs), how[gap_of[s]].temperature));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (prefix[i] < 0) continue;
      const auto& s = sums[static_cast<std::size_t>(place(i))];
      const auto u =
          std::upper_bound(s.begin(), s.end() - 1, random.uniform(i, static_cast<std::uint32_t>(n)));
      const int choice = static_cast<int>(u - s.begin());
      if (choice == stop) {
        prefix[i] = -1;
        continue;
      }
      all[i].letters[static_cast<std::size_t>(n)] = static_cast<letter>(choice);
      all[i].length = n + 1;
      prefix[i] = candidates::child(prefix[i], n, choice);
    }
  }
  return all;
}

// Row b, choice t of a string is query 3 b + t; the stop after three letters is certain and asks for nothing.
template <class Gradient>
sampler::step_result letter_trainer::learn(sampler::part& policy, sampler::part* flows,
                                           std::span<const gap> gaps, std::span<const filled> strings,
                                           const sampler::rates& r, const Gradient& gradient) {
  auto scope = cx_.scope();
  auto& store = policy_part::of(policy);
  const auto rows = static_cast<index_t>(strings.size());
  state_list states;
  std::vector<int> known(gaps.size() * candidates::open, -1), query(strings.size() * L, -1),
      token(strings.size() * L, -1), length;
  index_t choices = 0;
  for (std::size_t b = 0; b < strings.size(); ++b) {
    const filled& f = strings[b];
    length.push_back(f.length);
    choices += f.length + 1;
    int prefix = 0;
    for (int t = 0; t <= std::min(f.length, L - 1); ++t) {
      int& state = known[static_cast<std::size_t>(f.gap * candidates::open + prefix)];
      if (state < 0) state = states.add(gaps[static_cast<std::size_t>(f.gap)], f.letters, t);
      query[b * L + static_cast<std::size_t>(t)] = state;
      if (t == f.length) break;
      const int next = f.letters[static_cast<std::size_t>(t)];
      token[b * L + static_cast<std::size_t>(t)] = next;
      prefix = candidates::child(prefix, t, next);
    }
  }
  const indices<B> of_state = cx_.upload(states.state), asked = cx_.upload(query), tokens = cx_.upload(token),
                   lengths = cx_.upload(length);
  auto [z, pullback] = net_(cx_, store.weights, cx_.upload(states.rows), of_state, states.count);
  const auto each = ops::gather_rows(cx_, const_tensor<B>(z), asked);
  auto [values, values_pullback] =
      ops::token_policy(cx_, const_tensor<B>(each), tokens, token_rules<B>{.stop = stop});
  const accum_tensor<B, 2> taken(values.taken.data, rows, index_t{L}),
      stops = cx_.make_zero(rows, index_t{L + 1});
  for (index_t b = 0; b < rows; ++b)
    for (int t = 0; t < L; ++t) stops(b, t) = values.stop[b * L + t];
  auto [loss, dtaken, dstop] = gradient(taken, stops, lengths);
  const auto dstops = cx_.make(rows * L);
  for (index_t b = 0; b < rows; ++b)
    for (int t = 0; t < L; ++t) dstops[b * L + t] = dstop(b, t);
  const auto deach =
      values_pullback(const_accum_tensor<B>(dtaken.data, rows * L), const_accum_tensor<B>(dstops), {});
  const auto dz = cx_.make_zero(index_t{states.count}, index_t{letter_policy<B>::outputs});
  ops::scatter_add_rows(cx_, const_tensor<B>(deach), asked, dz);
  pullback(const_tensor<B>(dz), store.grads);
  return update(policy, flows, loss, choices, r);
}

sampler::step_result letter_trainer::prior_step(sampler::part& policy, std::span<const letter> text, int rows,
                                                philox random, const sampler::rates& r) {
  std::vector<gap> gaps;
  std::vector<filled> strings;
  for (int b = 0; b < rows; ++b) {
    const auto row = static_cast<std::uint64_t>(b);
    const auto three = [&](std::uint32_t index) {
      const std::size_t at = random.below(static_cast<std::uint32_t>(text.size() - 2), row, index);
      return std::array<letter, 3>{text[at], text[at + 1], text[at + 2]};
    };
    gaps.push_back({three(4), three(5), {}, {}});
    strings.push_back(from_prior(gaps.back(), b, random, row));
  }
  return learn(policy, nullptr, gaps, strings, r,
               [&](accum_tensor<B, 2> taken, accum_tensor<B, 2> stops, indices<B> length) {
                 const auto dtaken = cx_.make_zero(taken.rows(), taken.cols()),
                            dstop = cx_.make_zero(stops.rows(), stops.cols());
                 const double share = 1 / double(rows);
                 double loss = 0;
                 for (index_t b = 0; b < taken.rows(); ++b) {
                   const index_t n = length[b];
                   for (index_t t = 0; t < n; ++t)
                     loss -= share * double(taken(b, t)), dtaken(b, t) = static_cast<float>(-share);
                   if (n < L) loss -= share * double(stops(b, n)), dstop(b, n) = static_cast<float>(-share);
                 }
                 return std::tuple{loss, dtaken, dstop};
               });
}

sampler::step_result letter_trainer::step(sampler::part& policy, sampler::part* flows,
                                          std::span<const gap> gaps, std::span<const filled> strings,
                                          const sampler::objective& how, const sampler::rates& r) {
  return learn(policy, flows, gaps, strings, r,
               [&](accum_tensor<B, 2> taken, accum_tensor<B, 2> stops, indices<B> length) {
                 const auto reward = cx_.make_zero(stops.rows(), stops.cols());
                 const auto group = cx_.make_of<int>(stops.rows());
                 std::vector<double> log_z(gaps.size()), members(gaps.size());
                 for (index_t b = 0; b < stops.rows(); ++b) {
                   const filled& f = strings[static_cast<std::size_t>(b)];
                   const gap& g = gaps[static_cast<std::size_t>(f.gap)];
                   group[b] = f.gap;
                   int prefix = 0;
                   double log_q = f.length < L ? double(stops(b, f.length)) : 0;
                   for (int t = 0; t <= f.length; ++t) {
                     reward(b, t) = static_cast<float>(g.log_reward[static_cast<std::size_t>(prefix)]);
                     if (t == f.length) break;
                     log_q += double(taken(b, t));
                     prefix = candidates::child(prefix, t, f.letters[static_cast<std::size_t>(t)]);
                   }
                   log_z[static_cast<std::size_t>(f.gap)] += double(reward(b, f.length)) - log_q;
                   members[static_cast<std::size_t>(f.gap)] += 1;
                 }
                 policy_terms<B> terms{taken, stops, reward, length};
                 terms.group = group, terms.groups = static_cast<index_t>(gaps.size()), terms.longest = L;
                 policy_loss<B> loss;
                 if (flows) {
                   auto& store = flow_part::of(*flows);
                   if (flows->count() == 0)
                     for (std::size_t g = 0; g < gaps.size(); ++g)
                       if (members[g] > 0)
                         store.weights.table(static_cast<index_t>(g), 0) =
                             static_cast<float>(log_z[g] / members[g]);
                   const const_accum_tensor<B> values(store.weights.table.data, terms.groups);
                   loss = std::visit([&](const auto& o) { return o(cx_, terms, values); }, how);
                   for (index_t g = 0; g < terms.groups; ++g) store.grads.table(g, 0) += loss.dflow[g];
                 } else {
                   loss = std::visit([&](const auto& o) { return o(cx_, terms, {}); }, how);
                 }
                 return std::tuple{double(loss.total[0]), loss.dtaken, loss.dstop};
               });
}

sampler::step_result letter_trainer::update(sampler::part& policy, sampler::part* flows, double loss,
                                            index_t tokens, const sampler::rates& r) {
  const auto step = [&](sampler::part& p, double rate) {
    auto& mine = dynamic_cast<trainer::part_of<B>&>(p);
    const auto norm = clip_global_norm(cx_, r.clip, mine.gradients());
    mine.step(rate, norm);
    return double(norm.norm[0]);
  };
  if (flows) step(*flows, r.flow);
  return {loss, tokens, step(policy, r.main)};
}

std::vector<double> letter_trainer::log_q(const sampler::part& policy, const gap& g) {
  state_list states;
  for (int prefix = 0; prefix < candidates::open; ++prefix)
    states.add(g, candidates::spelled(prefix), candidates::length(prefix));
  const std::vector<float> z = logits(policy, states);
  std::vector<double> reach(candidates::count, 0.0), all(candidates::count);
  for (int prefix = 0; prefix < candidates::count; ++prefix) {
    const auto at = static_cast<std::size_t>(prefix);
    all[at] = reach[at];
    if (prefix >= candidates::open) continue;  // the stop is certain
    const auto p = log_probabilities(std::span(z).subspan(at * outputs, outputs));
    all[at] += p[stop];
    for (int c = 0; c < letter_count; ++c)
      reach[static_cast<std::size_t>(candidates::child(prefix, candidates::length(prefix), c))] =
          reach[at] + p[static_cast<std::size_t>(c)];
  }
  return all;
}

distances letter_trainer::exact(const sampler::part& policy, std::span<const gap> gaps) {
  distances mean{0, 0};
  for (const gap& g : gaps) {
    const std::vector<double> q = log_q(policy, g);
    double variation = 0, kl = 0;
    for (std::size_t i = 0; i < q.size(); ++i) {
      variation += std::abs(g.posterior[i] - std::exp(q[i])) / 2;
      if (g.posterior[i] > 0) kl += g.posterior[i] * (g.log_reward[i] - g.log_z - q[i]);
    }
    mean.variation += variation / double(gaps.size());
    mean.kl += kl / double(gaps.size());
  }
  return mean;
}

}  // namespace train_infill_sampler
