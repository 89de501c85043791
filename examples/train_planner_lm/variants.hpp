/// The variants of the comparison: how each is trained, and how it is tested (methods sections 6 to 9).
#pragma once
#include <string>
#include <vector>
#include "learner.hpp"
#include "options.hpp"

namespace train_planner_lm {

/// What of the language model a variant trains beside its adapters.
enum class tuning { frozen, low_rank, full };
/// Who predicts the labels.
enum class predictor { planner, look_ahead, language_model };
/// What label tables begin as.
enum class table_start { centroids, random, free };

struct variant_plan {
  std::string name, group;
  std::string about;         // a sentence for people
  method train{}, test{};
  bool joint = false;        // the planner is trained through the language model
  bool delayed = false;      // it is thawed later, as --unfreeze-at and --unfreeze-step say
  tuning lm = tuning::frozen;
  predictor labels_by = predictor::planner;
  table_start tables = table_start::centroids;
  std::string trained_as;    // a variant that has the same training
  std::string control = "fixed";     // the variant that differs by the plan alone; empty: itself
  std::vector<double> temperatures;  // tuned on validation documents; empty: as `train` says
  bool adapted = true;       // has adapters: not the language model alone
  bool planning_tokens = false;      // labels are tokens of the language model's own
};

/// All variants with the settings of `o`, in the order of the table.
std::vector<variant_plan> variants_of(const options& o);
/// One of them. Errors: input_error for a name that is none.
variant_plan plan_of(const std::string& name, const options& o);
/// Names that --variants takes: of variants and, first, of groups.
std::vector<std::string> variant_names(const options& o, const std::string& group = "all");
std::vector<std::string> group_names();

}  // namespace train_planner_lm
