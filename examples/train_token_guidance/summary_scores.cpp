/// Scores of texts, their file, and differences of two methods.
#include "summary_scores.hpp"
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/metrics/meteor.hpp>
#include <planlm/metrics/rouge.hpp>

namespace train_token_guidance {

using namespace planlm;

summary_score score_summary(const std::vector<std::string>& written,
                            const std::vector<std::string>& reference) {
  return {100 * rouge_n(written, reference, 1).f, 100 * rouge_n(written, reference, 2).f,
          100 * rouge_l(written, reference).f, 100 * meteor{}(written, reference)};
}

void write_scores(const std::filesystem::path& file, const scored_texts& texts) {
  nlohmann::ordered_json all{{"document", texts.document}};
  for (const score_name& s : summary_scores) {
    std::vector<double> values;
    for (const summary_score& one : texts.score) values.push_back(one.*s.of);
    all[s.value] = values;
  }
  write_text_atomic(file, all.dump() + "\n");
}
scored_texts read_scores(const std::filesystem::path& file) {
  std::ifstream in(file);
  const auto all = nlohmann::json::parse(in, nullptr, false);
  try {
    scored_texts texts{all.at("document").get<std::vector<int>>(), {}};
    texts.score.resize(texts.document.size());
    for (const score_name& s : summary_scores) {
      const auto values = all.at(s.value).get<std::vector<double>>();
      for (std::size_t i = 0; i < texts.score.size(); ++i) texts.score[i].*s.of = values.at(i);
    }
    return texts;
  } catch (const std::exception&) {  // of json, or a list that is too short
    throw input_error(file.string() +
                      ": is no file of scores of this program; remove it, its texts are then scored again");
  }
}

interval_estimate difference_over_documents(const std::vector<scored_texts>& a,
                                            const std::vector<scored_texts>& b,
                                            double summary_score::*score) {
  // A bootstrap over documents wants sums and counts: the "nats per token" of its words are points per text.
  const auto by_document = [&](const std::vector<scored_texts>& seeds) {
    std::vector<std::vector<document_loss>> all;
    for (const scored_texts& texts : seeds) {
      std::map<int, document_loss> of;
      for (std::size_t i = 0; i < texts.score.size(); ++i) {
        of[texts.document[i]].nll += texts.score[i].*score;
        of[texts.document[i]].tokens += 1;
      }
      all.emplace_back();
      for (const auto& [document, sum] : of) all.back().push_back(sum);
    }
    return all;
  };
  return paired_bootstrap_over_seeds(by_document(a), by_document(b), 2000, 0);
}

}  // namespace train_token_guidance
