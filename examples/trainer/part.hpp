/// What every trainer knows of the weights that it trains, in plain numbers: the border between files, tables and progress on one side and a
/// backend on the other. parts_on.hpp is the implementation, a template over the backend.
#pragma once
#include <span>
#include <string>
#include <vector>
#include <planlm/training/parameters.hpp>

namespace trainer {

using namespace planlm;

/// What one step reports.
struct step_result {
  double loss;
  index_t tokens;
  double gradient;  // its norm; an optimiser skips a step where that is no finite number
};
/// Weights on the device; where they are trained, their gradients and AdamW. Values are float32 whatever the device computes in.
class part {
 public:
  virtual ~part() = default;
  virtual const std::vector<parameter_slot>& slots() const = 0;
  /// Values of all tensors, flat, padding included.
  virtual index_t size() const = 0;
  virtual std::vector<float> read() = 0;
  virtual void write(std::span<const float> values) = 0;
  /// Replaces the tensor `name`.
  virtual void write(const std::string& name, std::span<const float> values) = 0;
  /// Of another part of the same kind.
  virtual void copy(const part& from) = 0;
  /// Names of the optimiser's arrays, each of size(); none where nothing is trained.
  virtual std::vector<std::string> moments() const = 0;
  virtual std::vector<float> read_moment(std::size_t n) = 0;
  virtual void write_moment(std::size_t n, std::span<const float> values) = 0;
  /// Steps the optimiser has taken.
  virtual index_t& count() = 0;
  /// The first tensor with a value that is no finite number; empty if there is none.
  virtual std::string first_not_finite() = 0;
};

/// A part and its name in a checkpoint.
struct named_part {
  std::string name;
  part* values;
};

}  // namespace trainer
