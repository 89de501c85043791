/// What a summary is worth against the sentence it should have been, and whether two methods differ.
#pragma once
#include <array>
#include <filesystem>
#include <string>
#include <vector>
#include <planlm/training/statistics.hpp>

namespace train_token_guidance {

/// Of one text, 0 to 100.
struct summary_score {
  double rouge_1 = 0, rouge_2 = 0, rouge_l = 0, meteor = 0;  // F scores; METEOR of equal words
};
summary_score score_summary(const std::vector<std::string>& written,
                            const std::vector<std::string>& reference);

struct score_name {
  const char *value, *title;
  double summary_score::*of;
};
inline constexpr std::array<score_name, 4> summary_scores{{{"rouge_1", "ROUGE-1", &summary_score::rouge_1},
                                                           {"rouge_2", "ROUGE-2", &summary_score::rouge_2},
                                                           {"rouge_l", "ROUGE-L", &summary_score::rouge_l},
                                                           {"meteor", "METEOR", &summary_score::meteor}}};

/// Scores of the texts that one method wrote with one seed, and the document of each.
struct scored_texts {
  std::vector<int> document;
  std::vector<summary_score> score;
};
void write_scores(const std::filesystem::path& file, const scored_texts& texts);
/// Errors: input_error for a file that is none.
scored_texts read_scores(const std::filesystem::path& file);

/// Mean of a - b over texts and seeds, with a 95 % interval by drawing documents anew, all texts of a
/// document and all seeds together; a[s] and b[s] are of one seed and the same passages.
planlm::interval_estimate difference_over_documents(const std::vector<scored_texts>& a,
                                                    const std::vector<scored_texts>& b,
                                                    double summary_score::*score);

}  // namespace train_token_guidance
