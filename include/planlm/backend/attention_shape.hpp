/// The heads of an attention layer, as layers describe them and backends take them.
#pragma once
#include <planlm/core/config.hpp>

namespace planlm {

/// Heads of an attention layer. Queries are (N, heads * width); keys and values (N, kv_heads * width), each shared by
/// heads / kv_heads query heads (grouped-query attention, 2305.13245).
struct attention_shape {
  index_t heads, kv_heads, width;
  bool causal;
  index_t query_width() const { return heads * width; }
  index_t kv_width() const { return kv_heads * width; }
  index_t packed_width() const { return query_width() + 2 * kv_width(); }
};

}  // namespace planlm
