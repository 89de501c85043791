/// Gaps of documents as tokens, and their likelihood.
#include "triples.hpp"
#include <algorithm>
#include <utility>

namespace train_infill_sampler {

std::vector<triple> find_triples(const sampler::language& l, std::span<const int> documents,
                                 const document_options& o, int most, planlm::philox random) {
  constexpr int least = 4;  // tokens of a neighbour
  std::vector<triple> all;
  for (const int d : documents)
    for (int i = 1; i + 1 < l.sentences(d); ++i) {
      const auto size = [&](int s) { return static_cast<int>(l.sentence(d, s).size()); };
      const auto beside = [&](int s) { return size(s) >= least && size(s) <= o.neighbour; };
      if (size(i) >= o.shortest && size(i) <= o.longest && beside(i - 1) && beside(i + 1))
        all.push_back({d, i});
    }
  const std::size_t kept = std::min(all.size(), static_cast<std::size_t>(most));
  for (std::size_t i = 0; i < kept; ++i)
    std::swap(all[i], all[i + random.below(static_cast<std::uint32_t>(all.size() - i), i, 0)]);
  all.resize(kept);
  return all;
}

tokens triple_set::sentence(int i, int offset) const {
  const triple& t = triples_[static_cast<std::size_t>(i)];
  const auto s = language_->sentence(t.document, t.middle + offset);
  return {s.begin(), s.end()};
}
const std::string& triple_set::words(int i, int offset) const {
  const triple& t = triples_[static_cast<std::size_t>(i)];
  return language_->words(t.document, t.middle + offset);
}
namespace {
void append(tokens& to, const tokens& sentence, int stop) {
  to.insert(to.end(), sentence.begin(), sentence.end());
  to.push_back(stop);
}
}  // namespace
tokens triple_set::prompt(int i) const {
  tokens all{language_->vocabulary.bos()};
  append(all, after(i), language_->stop());
  append(all, before(i), language_->stop());
  return all;
}
tokens triple_set::context(int i) const {
  tokens all{language_->vocabulary.bos()};
  append(all, before(i), language_->stop());
  return all;
}
tokens triple_set::ending(int i) const {
  tokens all{language_->stop()};
  append(all, after(i), language_->stop());
  return all;
}
tokens triple_set::whole(int i, std::span<const int> middle) const {
  tokens all = context(i);
  all.insert(all.end(), middle.begin(), middle.end());
  const tokens end = ending(i);
  all.insert(all.end(), end.begin(), end.end());
  return all;
}

std::vector<double> log_rewards(sampler::machine& m, const sampler::part& lm, const triple_set& triples,
                                std::span<const tokens> middles, std::span<const int> of) {
  constexpr std::size_t most = 4096;  // tokens of a pass
  std::vector<double> all;
  sampler::packed_text text;
  const auto score = [&] {
    const std::vector<float> nll = m.token_nll(lm, text);
    for (std::size_t s = 0; s + 1 < text.offsets.size(); ++s) {
      double sum = 0;
      for (int t = text.offsets[s]; t < text.offsets[s + 1]; ++t)
        if (text.targets[static_cast<std::size_t>(t)] >= 0) sum -= double(nll[static_cast<std::size_t>(t)]);
      all.push_back(sum);
    }
    text = {};
  };
  for (std::size_t b = 0; b < middles.size(); ++b) {
    text.add(triples.whole(of[b], middles[b]), triples.context(of[b]).size());
    if (text.tokens.size() >= most || b + 1 == middles.size()) score();
  }
  return all;
}

}  // namespace train_infill_sampler
