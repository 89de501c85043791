/// One stage of training: steps with progress, metrics, checkpoints, Ctrl-C and a clear word when a loss stops being a number.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include "part.hpp"
#include <planlm/core/philox.hpp>
#include <planlm/io/interrupt.hpp>

namespace planlm {
class metrics_log;
class run_folder;
}  // namespace planlm

namespace trainer {

/// Thrown after the checkpoint is written when the user asked to stop.
struct interrupted {
  int signal;
};

/// What else changes in a stage and is no weight: a replay buffer. Written into checkpoints as it stands, read back before the first step.
struct named_memory {
  std::string name;
  std::function<std::vector<double>()> write;
  std::function<void(std::span<const double>)> read;  // errors: input_error, leaving it as it was
};

/// A number as text that reads back to the same bits.
std::string exact(double value);

/// What a stage is called, how long it is, and all that changes in it: going on needs every bit of that.
struct stage_state {
  std::string name;
  int seed;
  index_t steps;
  std::string rate_flags;                               // what to lower when a loss stops being a number
  std::vector<named_part> parts;
  std::vector<std::pair<std::string, double*>> numbers;
  std::vector<named_memory> memories{};
};

class run {
 public:
  /// `random`: the numbers of a device's dropout, noise and draws; a stage sets its step before every step.
  run(philox& random, const run_folder& folder, const interrupt_guard& interrupt);
  ~run();

  struct summary {
    double seconds = 0, tokens_per_second = 0;
  };

  /// For s in [0, steps): `step(s)`, then `more(s)` -> whether to go on. Starts from the folder's checkpoint if it belongs to this stage.
  /// `where(s)` says where the values of step s stop being numbers.
  summary stage(const stage_state& state, const std::function<step_result(index_t)>& step, const std::function<bool(index_t)>& more,
                const std::function<std::string(index_t)>& where);

  /// What something does at this point of a stage, for the report: a line of metrics.jsonl with the values under `about`.
  void observe(int seed, const std::string& stage, index_t step, const std::string& about, const std::vector<std::pair<std::string, double>>& values);

  /// Throws `interrupted` after a first Ctrl-C.
  void stop_if_asked() const;

  /// The first parameter with a value that is no finite number, in words; empty if there is none.
  std::string parameter_not_finite(const std::vector<named_part>& parts);

  /// What the files of this run carry: settings, text and steps.
  void identify(std::string identity) { identity_ = std::move(identity); }
  const std::string& identity() const { return identity_; }
  std::filesystem::path file(const std::string& name) const;
  std::filesystem::path checkpoint() const { return file("checkpoint.safetensors"); }

  /// Named parameters, written whole or not at all, with what the file says of itself.
  static void save_parameters(part& from, const std::filesystem::path& path, const std::map<std::string, std::string>& about);
  /// Reads what save_parameters wrote, and gives all that it says of itself. Errors: input_error for a damaged file, another run's file
  /// or another model's tensors.
  static std::map<std::string, std::string> load_parameters(part& to, const std::filesystem::path& path,
                                                            const std::map<std::string, std::string>& about);

 private:
  void save(const std::string& key, const stage_state& state, index_t step, double seconds, index_t tokens, double shown);
  index_t load(const std::string& key, const stage_state& state, double& seconds, index_t& tokens, double& shown);

  philox& random_;
  const run_folder& folder_;
  std::unique_ptr<metrics_log> metrics_;
  const interrupt_guard& interrupt_;
  std::string identity_;
};

}  // namespace trainer
