/// What a run keeps of its labels: numbers for programs that generate, and what people can read of them.
#include "experiment.hpp"
#include <algorithm>
#include <set>
#include <nlohmann/json.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/safetensors.hpp>
#include <planlm/metrics/plan_following.hpp>
#include <planlm/planning/label_map.hpp>

namespace train_planner_lm {

void experiment::write_labels() const {
  std::vector<std::int32_t> labels;
  std::vector<float> vectors;
  std::vector<std::string> texts;
  const auto width = static_cast<std::size_t>(labels_.vectors.width);
  for (const text::sentence_ref s : train_sentences_) {
    labels.push_back(labels_.labels[static_cast<std::size_t>(data_.row_of(s))]);
    const auto row = labels_.vectors.row(data_.row_of(s));
    vectors.insert(vectors.end(), row.begin(), row.end());
    texts.push_back(data_.corpus.text.documents[static_cast<std::size_t>(s.document)].sentences[static_cast<std::size_t>(s.sentence)]);
  }
  const label_usage usage = usage_of_labels(labels, options_.labels);
  const label_plane plane = label_map(labels_.centroids, labels_.vectors.width);
  const auto nearest = typical_sentences(vectors, labels, labels_.centroids, labels_.vectors.width, 24);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (std::size_t k = 0; k < nearest.size(); ++k) {
    // A sentence of a usual length says more than three words do; the same text is shown once.
    std::vector<std::string> shown;
    std::set<std::string> seen;
    for (const bool any_length : {false, true})
      for (const index_t row : nearest[k]) {
        const std::string& text = texts[static_cast<std::size_t>(row)];
        const bool usual = text.size() >= 30 && text.size() <= 240;
        if (shown.size() < 4 && (usual || any_length) && seen.insert(text).second) shown.push_back(text);
      }
    list.push_back({{"label", k}, {"share", usage.shares[k]}, {"x", plane.positions[2 * k]}, {"y", plane.positions[2 * k + 1]}, {"typical", shown}});
  }
  write_json_atomic(file("labels.json"), {{"labels", list}, {"perplexity", usage.perplexity}});
  const std::vector<tensor_ref> tensors{{"centroids", {static_cast<index_t>(labels_.centroids.size() / width), static_cast<index_t>(width)},
                                         std::span<const float>(labels_.centroids)}};
  write_safetensors(file("labels.safetensors"), tensors, about_);
}

}  // namespace train_planner_lm
