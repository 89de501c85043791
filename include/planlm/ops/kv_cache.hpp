/// Keys and values that decoding has already seen, and the attention of new rows over them.
///
/// A cache holds, per layer, keys and values (sequences, capacity, kv_heads * width); rotary keys are stored as turned. Where a gate looks at
/// the mean of the rows so far (context_gate.hpp), also the sums behind it, at every position: what is truncated leaves nothing.
/// New rows come packed, any number per sequence: one each when decoding token by token, a whole prompt when a sequence begins. Row at position t of its sequence
/// sees positions 0 .. t. On the CPU its values are bit for bit those of the packed forward pass.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>
#include <string>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/attention.hpp>
#include <planlm/ops/running_mean.hpp>

namespace planlm {

/// Keys and values of one layer, each (sequences, capacity, kv_heads * width), and the sums of rows, (sequences, capacity, columns).
template <Backend B>
struct kv_layer {
  tensor<B, 3> keys, values;
  accum_tensor<B, 3> sums = {};
};

/// New rows and where they go: made by kv_cache::extend, used by every layer.
template <Backend B>
struct decoding_rows {
  sequences<B> seq;    // packed; positions count from the start of the cached sequence
  indices<B> slot;     // (N): the sequence of the cache that a row belongs to
  const int *host_slot = nullptr, *host_position = nullptr;  // (N), valid until the next extend
  index_t longest = 0;      // tokens of the longest of these sequences, new ones included
  bool from_start = false;  // all sequences begin here: what rows see is among the rows
  index_t count() const { return slot.size(); }
};

/// A backend with an attention of few rows over long caches; `decodes(shape)` says for which shapes.
template <class B>
concept HasDecodeAttention = requires(typename B::queue& q, attention_shape shape, const_tensor<B> x, tensor<B> y, kv_layer<B> cache,
                                      decoding_rows<B> rows) {
  { B::decodes(shape) } -> std::same_as<bool>;
  B::decode_attention(q, shape, x, rows, cache, y);
};

/// The caches of all layers of a model and how many tokens each sequence holds. Owns its memory, all of it from
/// construction on; but the host's list of the rows of one extend grows to the longest so far.
template <Backend B>
class kv_cache {
 public:
  /// `sum_columns`: columns of the running sums of each layer, if any.
  /// Errors: shape_error for extents that are not positive.
  kv_cache(context<B>& cx, index_t layers, attention_shape shape, index_t sequences, index_t capacity, index_t sum_columns = 0)
      : layers_(layers), width_(shape.kv_width()), sum_columns_(sum_columns), capacity_(capacity),
        lengths_(checked(layers, shape, sequences, capacity)), values_(cx, 2 * layers * sequences * capacity * width_),
        sums_(cx, layers * sequences * capacity * sum_columns) {
    taken_.resize(lengths_.size());
    equal_.reserve(lengths_.size());
  }

  index_t layers() const { return layers_; }
  index_t sequence_count() const { return static_cast<index_t>(lengths_.size()); }
  index_t capacity() const { return capacity_; }
  index_t sum_columns() const { return sum_columns_; }
  index_t length(index_t slot) const { return lengths_.at(static_cast<std::size_t>(slot)); }
  kv_layer<B> layer(index_t i) const {
    const index_t size = sequence_count() * capacity_ * width_;
    auto* at = values_.values().data + 2 * i * size;
    auto* sums = sum_columns_ ? sums_.values().data + i * sequence_count() * capacity_ * sum_columns_ : nullptr;
    return {{at, sequence_count(), capacity_, width_}, {at + size, sequence_count(), capacity_, width_},
            {sums, sequence_count(), capacity_, sum_columns_}};
  }
  /// Forgets all but the first `length` tokens of a sequence.
  void truncate(index_t slot, index_t length = 0) {
    int& now = lengths_.at(static_cast<std::size_t>(slot));
    now = static_cast<int>(std::clamp<index_t>(length, 0, now));
  }

  /// Makes room for counts[i] more tokens of sequence slots[i]; their rows lie in this order. The result's views end with the scope of `cx`.
  /// Errors, which leave every sequence as it was: input_error where one would exceed the capacity, shape_error for slots that do not exist or
  /// repeat, memory_error where the arena is full.
  decoding_rows<B> extend(context<B>& cx, std::span<const int> slots, std::span<const int> counts) {
    check(slots, counts);
    index_t rows = 0, longest = 0;
    for (const int n : counts) rows += n;
    const auto n = static_cast<std::size_t>(rows), s = slots.size();
    staged_.resize(s + 1 + 2 * n);
    int* offset = staged_.data();
    int *position = offset + s + 1, *slot = position + n;
    offset[0] = 0;
    bool from_start = true;
    for (std::size_t i = 0, r = 0; i < s; ++i) {
      const int length = lengths_[static_cast<std::size_t>(slots[i])];
      from_start = from_start && length == 0;
      for (int t = 0; t < counts[i]; ++t, ++r) position[r] = length + t, slot[r] = slots[i];
      offset[i + 1] = offset[i] + counts[i];
      longest = std::max<index_t>(longest, length + counts[i]);
    }
    const auto there = cx.upload(staged_);
    for (std::size_t i = 0; i < s; ++i) lengths_[static_cast<std::size_t>(slots[i])] += counts[i];  // nothing throws any more
    const auto part = [&](const int* at, std::size_t size) { return indices<B>(there.data + (at - offset), size); };
    return {{part(offset, s + 1), offset, part(position, n)}, part(slot, n), slot, position, longest, from_start};
  }
  /// One token of each of these sequences, for a step that is recorded once and replayed: it works for any positions below the capacity,
  /// which lie in the backend's memory, and `advance` belongs to it. The lengths stay as they are; `advanced` tells of the steps that ran.
  decoding_rows<B> standing(context<B>& cx, std::span<const int> slots) {
    decoding_rows<B> rows = step(cx, slots);
    for (const int s : slots) --lengths_[static_cast<std::size_t>(s)];
    rows.host_slot = rows.host_position = nullptr;  // they would not move with the rows
    rows.longest = capacity_;
    rows.from_start = false;
    return rows;
  }
  /// Standing rows move to the next position.
  static void advance(context<B>& cx, const decoding_rows<B>& rows) {
    B::for_each(cx.queue(), rows.count(), next_position{const_cast<int*>(rows.seq.positions.data)});
  }
  /// Errors: input_error where a sequence would exceed the capacity; ask before the steps run.
  void advanced(std::span<const int> slots, int steps) {
    equal_.assign(slots.size(), steps);
    check(slots, equal_);
    for (const int s : slots) lengths_[static_cast<std::size_t>(s)] += steps;
  }
  /// One more token of each of these sequences.
  decoding_rows<B> step(context<B>& cx, std::span<const int> slots) {
    equal_.assign(slots.size(), 1);
    return extend(cx, slots, equal_);
  }

  struct next_position {
    int* position;
    PLANLM_HD void operator()(index_t r) const { ++position[r]; }
  };

 private:
  static std::vector<int> checked(index_t layers, const attention_shape& shape, index_t sequences, index_t capacity) {
    if (layers < 1 || sequences < 1 || capacity < 1 || shape.kv_width() < 1)
      throw shape_error("kv_cache: " + std::to_string(layers) + " layers, " + std::to_string(sequences) + " sequences of " +
                        std::to_string(capacity) + " tokens of width " + std::to_string(shape.kv_width()) + "; all must be positive");
    return std::vector<int>(static_cast<std::size_t>(sequences));
  }
  void check(std::span<const int> slots, std::span<const int> counts) {
    if (slots.size() != counts.size() || slots.empty())
      throw shape_error("kv_cache: " + std::to_string(slots.size()) + " sequences but " + std::to_string(counts.size()) + " counts");
    std::fill(taken_.begin(), taken_.end(), char{0});
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] < 0 || slots[i] >= sequence_count() || taken_[static_cast<std::size_t>(slots[i])]++)
        throw shape_error("kv_cache: sequence " + std::to_string(slots[i]) + " is named twice or is none of the cache's " +
                          std::to_string(sequence_count()));
      const int now = lengths_[static_cast<std::size_t>(slots[i])];
      if (counts[i] < 1) throw shape_error("kv_cache: " + std::to_string(counts[i]) + " new tokens, expected at least 1");
      if (now + index_t{counts[i]} > capacity_)
        throw input_error("kv_cache: sequence " + std::to_string(slots[i]) + " holds " + std::to_string(now) + " tokens and " +
                          std::to_string(counts[i]) + " more exceed its capacity of " + std::to_string(capacity_) +
                          "; truncate it or make the cache longer");
    }
  }

  index_t layers_, width_, sum_columns_, capacity_;
  std::vector<int> lengths_, staged_, equal_;
  std::vector<char> taken_;
  buffer<B> values_;
  buffer<B, typename B::accum> sums_;
};

namespace ops {

namespace kernel {
/// Keys and values of packed row r go to their place in the cache.
template <class T>
struct append_kv {
  const T* packed;  // row r: queries, keys, values
  const int *slot, *position;
  T *keys, *values;
  index_t packed_width, query_width, kv_width, capacity;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = packed + r * packed_width + query_width;
    const index_t at = (slot[r] * capacity + position[r]) * kv_width, n = kv_width;
    T *k = keys + at, *v = values + at;
    team.for_each(n, [=](index_t c) {
      k[c] = from[c];
      v[c] = from[n + c];
    });
  }
};
}  // namespace kernel

/// Stores the keys and values of packed (N, packed_width).
template <Backend B>
void append_kv(context<B>& cx, attention_shape shape, const_tensor<B> packed, const decoding_rows<B>& rows, kv_layer<B> cache) {
  if (packed.rows() != rows.count() || packed.cols() != shape.packed_width() || cache.keys.cols() != shape.kv_width())
    throw shape_error("append_kv: " + std::to_string(packed.rows()) + " rows of width " + std::to_string(packed.cols()) + " for " +
                      std::to_string(rows.count()) + " rows of width " + std::to_string(shape.packed_width()));
  B::for_rows(cx.queue(), rows.count(),
              kernel::append_kv<typename B::real>{packed.data, rows.slot.data, rows.seq.positions.data, cache.keys.data, cache.values.data,
                                                  packed.cols(), shape.query_width(), shape.kv_width(), cache.keys.extent(1)});
}

/// The plain composition: the query heads of a key-value head against its cached keys, row by row. The oracle of fused decoding.
template <Backend B>
tensor<B> decode_attention_plain(context<B>& cx, attention_shape shape, const_tensor<B> packed, const decoding_rows<B>& rows,
                                 kv_layer<B> cache) {
  using T = typename B::real;
  using A = typename B::accum;
  if (!rows.host_position)
    throw error("decode_attention: standing rows need a backend kernel for heads " + std::to_string(shape.width) +
                " wide; take kv_cache::step for every token instead");
  const index_t d = shape.width, group = shape.heads / shape.kv_heads, ld = shape.kv_width(), capacity = cache.keys.extent(1);
  auto y = cx.make(packed.rows(), shape.query_width());
  for (index_t r = 0; r < rows.count(); ++r)
    for (index_t g = 0; g < shape.kv_heads; ++g) {
      auto scope = cx.scope();
      const index_t n = rows.host_position[r] + 1, at = rows.host_slot[r] * capacity * ld + g * d;
      const T *q = packed.row(r) + g * group * d, *k = cache.keys.data + at, *v = cache.values.data + at;
      auto p = cx.make(group, n);
      auto lse = cx.template make_of<A>(group);
      B::gemm(cx.queue(), 1, {q, group, d, d, 1}, {k, d, n, 1, ld}, plain(p), into::replace);
      B::for_rows(cx.queue(), group, kernel::masked_softmax<T>{p.data, lse.data, n, 1, A(1 / std::sqrt(double(d))), false});
      B::gemm(cx.queue(), 1, {p.data, group, n, n, 1}, {v, n, d, ld, 1}, {y.row(r) + g * group * d, group, d, d, 1}, into::replace);
    }
  return y;
}

/// packed (N, packed_width), whose keys and values the cache already holds -> (N, heads * width).
template <Backend B>
tensor<B> decode_attention(context<B>& cx, attention_shape shape, const_tensor<B> packed, const decoding_rows<B>& rows, kv_layer<B> cache) {
  if (!shape.causal) throw error("decode_attention: rows see what lies before them; an attention that is not causal cannot be decoded");
  if constexpr (HasDecodeAttention<B>) {
    if (B::decodes(shape)) {
      auto y = cx.make(packed.rows(), shape.query_width());
      B::decode_attention(cx.queue(), shape, packed, rows, cache, y);
      return y;
    }
  }
  return decode_attention_plain(cx, shape, packed, rows, cache);
}

}  // namespace ops
}  // namespace planlm
