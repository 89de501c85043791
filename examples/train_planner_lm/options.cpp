/// The command line.
#include "options.hpp"
#include <algorithm>
#include <thread>
#include <planlm/core/error.hpp>
#include "trainer/flags.hpp"
#include "variants.hpp"

namespace train_planner_lm {

using trainer::listed;

bool parse(int argc, char** argv, options& o, int& status) {
  trainer::flags f{"Trains a planner and a language model on a text, in every variant of the interface between them, and prints the table.\n"
                   "Running the same command again goes on where an interrupted run stopped."};
  f.advise_on_stray_words("; --text takes one file or one folder of files");
  f.path("--text", o.text, "UTF-8 text, JSON lines with a field text, or a folder of them", true);
  f.path("--test-text", o.test_text, "take the test documents from here, not from --text");
  f.path("--out", o.out, "folder for metrics, checkpoints and results", true);
  f.word("--format", o.format, ("of the text: " + format_list()).c_str());
  f.word("--splitter", o.splitter, ("sentences of running text: " + splitter_list()).c_str());
  f.word("--score", o.score, "test, or valid: to choose settings without looking at the test documents");
  f.words("--variants", o.variants, "variants or groups of them, comma-separated (" + listed(group_names()) + "); default paper");
  f.whole("--seeds", o.seeds, "runs with seeds 1 .. N");
  f.whole("--first-seed", o.first_seed, "number of the first seed", 0);
  f.above_zero("--minutes", o.minutes, "fit the work into about this time, all seeds together");
  f.word("--device", o.device, "cpu or cuda");
  f.word("--precision", o.precision, "on cuda: float32, tf32 or bf16 (weights are kept in float32)");
  f.whole("--threads", o.threads, "default: one per processor");
  f.whole("--layers", o.layers, "blocks of the language model");
  f.whole("--width", o.width, "its width");
  f.whole("--heads", o.heads, "its attention heads");
  f.whole("--length", o.length, "tokens of context");
  f.whole("--vocabulary", o.vocabulary, "subword pieces");
  f.whole("--first-adapted", o.first_adapted, "first block that sees the plan", 0);
  f.whole("--labels", o.labels, "clusters of sentences");
  f.whole("--label-width", o.label_width, "width of sentence embeddings");
  f.whole("--context", o.context, "sentences that the planner sees");
  f.whole("--planner-layers", o.planner_layers, "blocks of the planner");
  f.whole("--planner-heads", o.planner_heads, "its attention heads");
  f.whole("--planner-inner", o.planner_inner, "its feed-forward width");
  f.word("--placement", o.placement, "of plans: attention, feed-forward, embedding, inserted or prefix");
  f.word("--gate", o.gate, "of plans: none, zero, one, learned or context");
  f.word("--tables", o.tables, "of label embeddings: per-layer or shared");
  f.word("--table-start", o.table_start, "centroids, random or free");
  f.word("--tuning", o.tuning, "of the language model beside its adapters: frozen, lora or full");
  f.whole("--prefix-rows", o.prefix_rows, "tokens of a prefix");
  f.whole("--paths", o.paths, "label paths that condition a sentence, in training");
  f.whole("--path-steps", o.path_steps, "sentences that a path looks ahead");
  f.whole("--horizon", o.horizon, "steps that the look-ahead planner is trained on");
  f.whole("--plan-layers", o.plan_layers, "blocks of the look-ahead network and of what reads paths");
  f.whole("--rank", o.rank, "of low-rank updates");
  f.above_zero("--alpha", o.alpha, "their scale, divided by the rank");
  f.share("--planner-loss", o.planner_loss, "weight of the planner's cross-entropy in joint training", 1e9);
  f.share("--unfreeze-at", o.unfreeze_at, "share of the stage after which mixture-joint-delayed thaws its planner", 1);
  f.whole("--unfreeze-step", o.unfreeze_step, "the step, instead of --unfreeze-at", 0);
  f.whole("--variant-batch", o.variant_batch, "chunks per step of a variant");
  f.whole("--batch", o.batch, "chunks per step of the base model");
  f.whole("--planner-batch", o.planner_batch, "sentences per planner step");
  f.above_zero("--base-epochs", o.base_epochs, "of the base language model");
  f.above_zero("--variant-epochs", o.variant_epochs, "of each variant");
  f.above_zero("--planner-epochs", o.planner_epochs, "at most; stopped early on validation");
  f.whole("--base-steps", o.base_steps, "instead of --base-epochs");
  f.whole("--variant-steps", o.variant_steps, "instead of --variant-epochs");
  f.whole("--planner-steps", o.planner_steps, "at most, instead of --planner-epochs");
  f.above_zero("--base-rate", o.base_rate, "learning rate of the base model");
  f.above_zero("--adapter-rate", o.adapter_rate, "of adapters");
  f.above_zero("--planner-rate", o.planner_rate, "of the planner alone");
  f.above_zero("--joint-planner-rate", o.joint_planner_rate, "of the planner in joint training");
  f.above_zero("--low-rank-rate", o.low_rank_rate, "of low-rank updates of the language model");
  f.above_zero("--full-rate", o.full_rate, "of the language model where it is trained whole with the adapters");
  f.whole("--generate", o.generate, "documents to continue for the generation metrics; 0 for none", 0);
  f.whole("--generate-tokens", o.generate_tokens, "tokens of each continuation");
  f.above_zero("--clip", o.clip, "largest global gradient norm");
  if (!f.parse(argc, argv, status)) return false;

  using planlm::input_error;
  // Groups become their members; the table's order, each once.
  const std::vector<std::string> known = variant_names(o), groups = group_names();
  if (o.variants.empty() && f.given("--variants")) throw input_error("--variants: the list is empty; leave the flag out for the paper's variants");
  if (o.variants.empty()) o.variants = {"paper"};
  std::vector<std::string> wanted;
  for (const std::string& name : o.variants) {
    if (std::find(groups.begin(), groups.end(), name) != groups.end()) {
      const std::vector<std::string> members = variant_names(o, name);
      wanted.insert(wanted.end(), members.begin(), members.end());
    } else if (std::find(known.begin(), known.end(), name) != known.end()) {
      wanted.push_back(name);
    } else {
      throw input_error("--variants: there is no variant '" + name + "'; choose from the groups " + listed(groups) + " and the variants " + listed(known));
    }
  }
  o.variants.clear();
  for (const std::string& name : known)
    if (std::find(wanted.begin(), wanted.end(), name) != wanted.end()) o.variants.push_back(name);
  check(o);
  return true;
}

void check(options& o) {
  using planlm::input_error;
  const auto in = [](const std::string& list, const std::string& name) {
    return name.find(',') == std::string::npos && (", " + list + ",").find(" " + name + ",") != std::string::npos;
  };
  if (!in(format_list(), o.format)) throw input_error("--format: there is no format '" + o.format + "'; choose from " + format_list());
  if (!in(splitter_list(), o.splitter))
    throw input_error("--splitter: there is no splitter '" + o.splitter + "'; choose from " + splitter_list());
  if (o.score != "test" && o.score != "valid")
    throw input_error("--score: '" + o.score + "' is no part of the documents; choose test or valid");
  if (o.device != "cpu" && o.device != "cuda") throw input_error("--device: there is no device '" + o.device + "'; choose cpu or cuda");
  if (o.precision != "float32" && o.precision != "tf32" && o.precision != "bf16")
    throw input_error("--precision: there is no precision '" + o.precision + "'; choose float32, tf32 or bf16");
  if (o.device == "cpu" && o.precision != "float32")
    throw input_error("--precision " + o.precision + " is for --device cuda; the CPU computes in float32");
  if (o.width % o.heads != 0)
    throw input_error("--width " + std::to_string(o.width) + " is no multiple of --heads " + std::to_string(o.heads));
  if (o.label_width % o.planner_heads != 0)
    throw input_error("--label-width " + std::to_string(o.label_width) + " is no multiple of --planner-heads " +
                      std::to_string(o.planner_heads));
  if (o.first_adapted >= o.layers)
    throw input_error("--first-adapted " + std::to_string(o.first_adapted) + ": the blocks are numbered 0 to " +
                      std::to_string(o.layers - 1));
  if (o.threads > 1024) throw input_error("--threads " + std::to_string(o.threads) + ": give at most 1024, best one per processor");
  if (o.threads == 0) o.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (o.path_steps > o.horizon)
    throw input_error("--path-steps " + std::to_string(o.path_steps) + ": the look-ahead planner is trained on --horizon " + std::to_string(o.horizon));
  if (o.rank > o.width) throw input_error("--rank " + std::to_string(o.rank) + ": no more than --width " + std::to_string(o.width));
  const auto has_prefix = [&](const std::string& name) { return plan_of(name, o).train.reach.where == conditioning::place::prefix; };
  if (o.prefix_rows >= o.length && std::any_of(o.variants.begin(), o.variants.end(), has_prefix))
    throw input_error("--prefix-rows " + std::to_string(o.prefix_rows) + ": leave room for text in --length " + std::to_string(o.length));
  const auto alone = [&](const std::string& flag, const std::string& what) {
    if (o.placement != "attention") throw input_error(flag + " is for --placement attention, not " + what);
  };
  if (o.gate == "context") alone("--gate context", o.placement);
  if (o.tables == "shared") alone("--tables shared", o.placement);
  if (o.gate == "context" && o.tables == "shared") throw input_error("--gate context is for --tables per-layer");
  for (const std::string& name : o.variants) {
    const variant_plan v = plan_of(name, o);
    if (v.labels_by == predictor::look_ahead && v.train.paths.steps > o.horizon)
      throw input_error("--variants " + name + " looks " + std::to_string(v.train.paths.steps) + " steps ahead, beyond --horizon " + std::to_string(o.horizon));
  }
}

}  // namespace train_planner_lm
