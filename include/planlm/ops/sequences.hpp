/// Where sequences begin and end in a batch of packed rows.
#pragma once
#include <planlm/backend/concept.hpp>

namespace planlm {

/// Sequences packed one after another: sequence s holds rows [offsets[s], offsets[s + 1]). No padding rows exist.
template <Backend B>
struct sequences {
  indices<B> offsets;                   // (S + 1), where kernels read it
  const int* host_offsets = nullptr;    // the same numbers in host memory
  indices<B> positions;                 // (N): place of a row inside its sequence
  index_t count() const { return offsets.size() - 1; }
};

}  // namespace planlm
