/// What parity.cu and parity_bf16.cu share: distances, limits by the name of an array, two runs, the report.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "parity.hpp"

namespace planlm::testing {

/// ||ours - theirs|| / ||theirs||; infinity if anything is not a number.
inline double distance(const std::vector<double>& ours, const std::vector<double>& theirs) {
  if (ours.size() != theirs.size() || ours.empty()) return INFINITY;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
    norm += theirs[i] * theirs[i];
  }
  const double d = difference == 0 ? 0 : std::sqrt(difference / norm);
  return std::isfinite(d) ? d : INFINITY;
}
inline bool same_results(const results& a, const results& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) {
           return x.first == y.first && same_bits(x.second, y.second);
         });
}
inline bool contains(const std::string& text, const char* part) { return text.find(part) != text.npos; }

/// How far the values are from themselves stored in T: nothing stored in T comes nearer. Few values, or all the same, are above the mean.
template <class T>
double distance_when_stored(const std::vector<double>& values) {
  std::vector<double> stored;
  for (const double v : values) stored.push_back(static_cast<double>(static_cast<float>(T(static_cast<float>(v)))));
  return distance(stored, values);
}

/// The number of arrays further apart than limit(name, the reference). The furthest, as a share of its limit, are printed.
template <class Limit>
int compare(const char* what, const results& ours, const results& theirs, const Limit& limit) {
  int failed = ours.size() == theirs.size() ? 0 : 1;
  struct place {
    double share, distance, most;
    std::string name;
  };
  std::vector<place> order;
  for (const auto& [name, values] : theirs) {
    const auto found = ours.find(name);
    const double d = found == ours.end() ? INFINITY : distance(found->second, values), most = limit(name, values);
    if (!(d < most)) std::printf("FAILED %s: %s is off by %.3g, at most %.3g is allowed\n", what, name.c_str(), d, most), ++failed;
    order.push_back({d / most, d, most, name});
  }
  std::sort(order.begin(), order.end(), [](const place& a, const place& b) { return a.share > b.share; });
  std::printf("%s: %zu arrays, %d failed; nearest to their limits:\n", what, theirs.size(), failed);
  for (std::size_t i = 0; i < std::min<std::size_t>(order.size(), 6); ++i)
    std::printf("  %-44s %.3g of %.3g\n", order[i].name.c_str(), order[i].distance, order[i].most);
  return failed;
}

/// All of it on backend B, whose inputs are rounded to Input. Returns the number of failures.
template <class B, class Input, class Limit>
int check_parity(int steps, const Limit& limit) {
  int failed = 0;
  const auto twice = [&](const char* what, const results& first, const results& second) {
    const bool same = same_results(first, second);
    std::printf("%s twice: %s\n", what, same ? "the same bits" : "DIFFERENT BITS");
    failed += !same;
  };
  const auto once = [&] { return operations<B, Input>(typename B::queue()).run(); };
  const results first = once();
  failed += compare("operations", first, operations_on_cpu(), limit);
  twice("operations", first, once());
  for (int model = 0; model < 2; ++model) {
    const char* what = model == 0 ? "joint steps" : "joint steps, other model";
    const auto train = [&] { return joint_of<B, Input>(typename B::queue(), model, steps); };
    const results trained = train();
    failed += compare(what, trained, joint_on_cpu(model, steps, 2), limit);
    twice(what, trained, train());
  }
  return failed;
}

/// main() of a parity program: exit status 0 all agree, 1 some do not, 77 there is no GPU.
template <class B, class Input, class Limit>
int parity_main(int argc, char** argv, int default_steps, const Limit& limit) {
  const int steps = argc == 3 && std::strcmp(argv[1], "--steps") == 0 ? std::max(1, std::atoi(argv[2])) : default_steps;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU: cudaGetDeviceCount says %s\n", status == cudaSuccess ? "0" : cudaGetErrorString(status));
    return 77;
  }
  try {
    return check_parity<B, Input>(steps, limit) == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
}

}  // namespace planlm::testing
