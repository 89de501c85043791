/// What the tests of optimisers share: a host vector as a flat view of the CPU backend.
#pragma once
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/reduce.hpp>
#include <vector>

namespace planlm::testing {

template <class T>
tensor<cpu<T>, 1> flat_view(std::vector<T>& values) {
  return {values.data(), static_cast<index_t>(values.size())};
}
template <class T>
const_scalar<cpu<T>> one_value(const T& value) {
  return {&value, 1};
}

}  // namespace planlm::testing
