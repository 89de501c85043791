// The CUDA backend in float32 against the CPU backend in double: every operation, and joint training steps.
//
//     parity [--steps N]        exit status: 0 all agree, 1 some do not, 77 there is no GPU to run on
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <planlm/cuda.cuh>

#include "parity.hpp"

namespace {

using namespace planlm;
using testing::results;

/// ||ours - theirs|| / ||theirs||; infinity if anything is not a number.
double distance(const std::vector<double>& ours, const std::vector<double>& theirs) {
  if (ours.size() != theirs.size() || ours.empty()) return INFINITY;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
    norm += theirs[i] * theirs[i];
  }
  const double d = difference == 0 ? 0 : std::sqrt(difference / norm);
  return std::isfinite(d) ? d : INFINITY;
}
bool same_bits(const results& a, const results& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) {
           return x.first == y.first && testing::same_bits(x.second, y.second);
         });
}

/// The number of arrays further apart than `most`; the furthest is printed.
int compare(const char* what, const results& ours, const results& theirs, double most) {
  int failed = ours.size() == theirs.size() ? 0 : 1;
  double worst = 0;
  std::string worst_name;
  for (const auto& [name, values] : theirs) {
    const auto found = ours.find(name);
    const double d = found == ours.end() ? INFINITY : distance(found->second, values);
    // After many steps of Adam, weights whose gradient is rounding error alone differ by the rate.
    const double limit = name.find("after training") != name.npos ? 1e-2 : name == "losses" ? 1e-5 : most;
    if (!(d < limit)) std::printf("FAILED %s: %s is off by %.3g, at most %.3g is allowed\n", what, name.c_str(), d, limit), ++failed;
    if (limit == most && d >= worst) worst = d, worst_name = name;
  }
  std::printf("%s: %zu arrays, the furthest is '%s' at %.3g; %d failed\n", what, theirs.size(), worst_name.c_str(), worst, failed);
  for (const char* name : {"losses", "weights after training", "planner weights after training"})
    if (theirs.contains(name) && ours.contains(name)) std::printf("  %s: %.3g\n", name, distance(ours.at(name), theirs.at(name)));
  return failed;
}

int run(int steps) {
  using B = cuda<float>;
  int failed = 0;
  const results first = testing::operations<B>(B::queue()).run();
  failed += compare("operations", first, testing::operations_on_cpu(), 1e-5);
  const bool again = same_bits(first, testing::operations<B>(B::queue()).run());
  std::printf("operations twice: %s\n", again ? "the same bits" : "DIFFERENT BITS");
  failed += !again;
  for (int model = 0; model < 2; ++model) {
    const results once = testing::joint_of<B>(B::queue(), model, steps);
    failed += compare(model == 0 ? "joint steps" : "joint steps, other model", once, testing::joint_on_cpu(model, steps, 2), 1e-5);
    const bool same = same_bits(once, testing::joint_of<B>(B::queue(), model, steps));
    std::printf("joint steps twice: %s\n", same ? "the same bits" : "DIFFERENT BITS");
    failed += !same;
  }
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  const int steps = argc == 3 && std::strcmp(argv[1], "--steps") == 0 ? std::max(1, std::atoi(argv[2])) : 10;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU: cudaGetDeviceCount says %s\n", status == cudaSuccess ? "0" : cudaGetErrorString(status));
    return 77;
  }
  try {
    return run(steps) == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
}
