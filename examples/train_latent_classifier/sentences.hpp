/// Sentences of two classes and what each is for: test, validation and labelled sentences are drawn in equal numbers from both classes;
/// the rest loses its labels and is what the base language model reads.
///
/// A sentence that stands twice counts once, and one that stands in both classes not at all: neither side of a split may know the other.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/text/corpus.hpp>

namespace train_latent_classifier {

struct class_text {
  std::string name, source;
  std::vector<std::string> sentences{};
};
using classes = std::array<class_text, 2>;

struct example {
  std::string sentence;
  int label;  // 0 or 1
};

/// How many of each, both classes together.
struct division_sizes {
  int test = 2000, validation = 1000, pool = 400;
};
struct division {
  std::vector<example> test, validation;
  std::array<std::vector<std::string>, 2> pool;  // where labelled sentences are drawn from
  std::vector<std::string> unlabelled;           // in the order of their bytes, which says nothing of a class
};

/// A class from NAME=FILE, one sentence a line. Errors: input_error naming the flag or the file.
inline class_text read_class(const std::string& flag, const std::string& given) {
  const std::size_t at = given.find('=');
  if (at == std::string::npos || at == 0 || at + 1 == given.size())
    throw planlm::input_error(flag + ": '" + given + "' is no NAME=FILE, such as objective=plots.txt");
  class_text c{given.substr(0, at), given.substr(at + 1)};
  if (std::filesystem::is_directory(c.source)) throw planlm::input_error(c.source + ": is a folder; give a file with a sentence on each line");
  for (auto& d : planlm::text::read_corpus(c.source, {planlm::text::corpus_format::lines, planlm::text::splitter_kind::lines}).documents)
    for (std::string& s : d.sentences) c.sentences.push_back(std::move(s));
  return c;
}

/// The same for every seed of a run. Errors: input_error for a class with too few sentences.
inline division divide(const classes& given, const division_sizes& sizes) {
  std::map<std::string, std::set<int>> seen;
  for (int c : {0, 1})
    for (const std::string& s : given[static_cast<std::size_t>(c)].sentences) seen[s].insert(c);
  division out;
  for (int c : {0, 1}) {
    const class_text& from = given[static_cast<std::size_t>(c)];
    std::vector<std::string> own;
    for (const auto& [sentence, in] : seen)
      if (in.size() == 1 && in.contains(c)) own.push_back(sentence);
    const auto half = [c](int both) { return static_cast<std::size_t>((both + 1 - c) / 2); };
    const std::size_t test = half(sizes.test), validation = half(sizes.validation), pool = half(sizes.pool);
    if (own.size() < test + validation + pool + 1)
      throw planlm::input_error(from.source + ": " + std::to_string(own.size()) + " different sentences of the class '" + from.name +
                                "' alone, but --test, --validation and --pool take " + std::to_string(test + validation + pool) +
                                " and the base model learns from the rest; give more sentences or lower them");
    // By position in sorted order, so that it does not matter in which order a file lists them.
    const std::vector<int> order = planlm::text::shuffled_order(static_cast<int>(own.size()), {0, 0, 0x64697600u + static_cast<std::uint32_t>(c)});
    for (std::size_t i = 0; i < order.size(); ++i) {
      std::string& s = own[static_cast<std::size_t>(order[i])];
      if (i < test) out.test.push_back({std::move(s), c});
      else if (i < test + validation) out.validation.push_back({std::move(s), c});
      else if (i < test + validation + pool) out.pool[static_cast<std::size_t>(c)].push_back(std::move(s));
      else out.unlabelled.push_back(std::move(s));
    }
  }
  std::sort(out.unlabelled.begin(), out.unlabelled.end());
  return out;
}

/// More text without labels; sentences that are held out, or known, stay out.
inline void add_unlabelled(division& d, std::vector<std::string> more) {
  std::set<std::string> known(d.unlabelled.begin(), d.unlabelled.end());
  for (const auto* part : {&d.test, &d.validation})
    for (const example& e : *part) known.insert(e.sentence);
  for (const auto& part : d.pool) known.insert(part.begin(), part.end());
  for (std::string& s : more)
    if (known.insert(s).second) d.unlabelled.push_back(std::move(s));
  std::sort(d.unlabelled.begin(), d.unlabelled.end());
}

/// The first `count` labelled sentences of a seed, classes in turn: a smaller set is part of a larger one.
inline std::vector<example> labelled(const division& d, int count, int seed) {
  std::array<std::vector<int>, 2> order;
  for (std::uint32_t c : {0u, 1u})
    order[c] = planlm::text::shuffled_order(static_cast<int>(d.pool[c].size()), {static_cast<std::uint64_t>(seed), 0, 0x6c616200u + c});
  std::vector<example> out;
  for (int i = 0; i < count; ++i) {
    const auto c = static_cast<std::size_t>(i % 2), at = static_cast<std::size_t>(i / 2);
    if (at >= order[c].size())
      throw planlm::input_error("--sizes: " + std::to_string(count) + " labelled sentences, but --pool keeps " +
                                std::to_string(d.pool[0].size() + d.pool[1].size()) + "; raise --pool");
    out.push_back({d.pool[c][static_cast<std::size_t>(order[c][at])], static_cast<int>(c)});
  }
  return out;
}

}  // namespace train_latent_classifier
