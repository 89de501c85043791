/// Label mixing where few labels of a row carry weight: the k <= 8 largest, or the largest alone.
///
/// Forward: the row of z is read once, into registers; k rounds over the lanes of its warps give the k largest; then e is the weighted sum of
/// k rows of the table. Reads S K + S k C values (the latter mostly from the cache), writes S C; a dense
/// product would need 2 S K C operations.
/// Pullback: k dots of C per row, dz written once, mostly zeros. What k rows of the table receive per sentence: mixing_scatter.cuh.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <planlm/backend/cuda/mixing_rows.cuh>

namespace planlm {

namespace kernel::mixing {

inline constexpr int most_taken = 8;

struct candidate {
  float value;
  int label;
};
/// Larger values first, then lower labels. A candidate without a label is the last of all.
__device__ inline bool before(const candidate& a, const candidate& b) {
  return a.value > b.value || (a.value == b.value && static_cast<unsigned>(a.label) < static_cast<unsigned>(b.label));
}

/// The first of the candidates of a warp's lanes, in all lanes.
__device__ inline candidate first_of_lanes(const candidate& c) {
  // Order of floats as order of integers; a candidate without a label is 0, below -infinity. Adding 0 makes of -0 a 0.
  const unsigned raw = __float_as_uint(c.value + 0.0f), bits = c.label < 0 ? 0u : (raw & 0x80000000u) ? ~raw : raw | 0x80000000u;
  const unsigned top = __reduce_max_sync(0xFFFFFFFFu, bits);
  const unsigned label = __reduce_min_sync(0xFFFFFFFFu, bits == top && c.label >= 0 ? static_cast<unsigned>(c.label) : 0xFFFFFFFFu);
  return {__uint_as_float((top & 0x80000000u) ? top & 0x7FFFFFFFu : ~top), static_cast<int>(label)};
}
/// Weights of a row's first candidates; one that weighs nothing loses its label.
__device__ inline void weigh(candidate (&best)[most_taken], float (&p)[most_taken], int taken, const cuda_detail::mixing::logit_rule& rule) {
  if (best[0].label < 0) best[0] = {NAN, 0};  // no number, or none above -infinity
  const float factor = rule.inverse_temperature * cuda_detail::mixing::log2_e;
  float total = 0;
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    p[t] = t >= taken || best[t].label < 0 ? 0.0f : taken == 1 ? 1.0f : cuda_detail::mixing::exp2_of((best[t].value - best[0].value) * factor);
    total += p[t];
  }
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    if (taken > 1) p[t] /= total;
    if (p[t] == 0) best[t].label = -1;
  }
}
/// e = sum of weight x row of the table: the columns of `member` of `team` threads.
template <class T>
__device__ void sum_rows(const T* table, T* e, index_t width, bool by_chunks, int member, int team, const candidate (&best)[most_taken],
                         const float (&p)[most_taken]) {
  using chunk = cuda_detail::mixing::chunk<T>;
  if (!by_chunks) {
    for (index_t i = member; i < width; i += team) {
      float sum = 0;
#pragma unroll
      for (int t = 0; t < most_taken; ++t)
        if (best[t].label >= 0) sum += p[t] * static_cast<float>(table[best[t].label * width + i]);
      e[i] = sum;
    }
    return;
  }
  for (index_t i = index_t{member} * chunk::count; i < width; i += team * chunk::count) {
    float sum[chunk::count] = {};
#pragma unroll
    for (int t = 0; t < most_taken; ++t) {
      if (best[t].label < 0) continue;
      float v[chunk::count];
      chunk::load(table + best[t].label * width + i, v);
#pragma unroll
      for (int j = 0; j < chunk::count; ++j) sum[j] += p[t] * v[j];
    }
    chunk::store(e + i, sum);
  }
}

/// label, weight (S, taken) and e (S, C), the row of logits in registers. A label of -1 weighs nothing.
template <class T, int Warps, bool Noise>
__global__ void __launch_bounds__(Warps == 8 ? 256 : 128)
    mixing_taken(const T* z, const T* table, T* e, int* label, float* weight, index_t rows, index_t cols, index_t width, int taken, bool by_chunks,
                 cuda_detail::mixing::logit_rule rule) {
  using chunk = cuda_detail::mixing::chunk<T>;
  __shared__ candidate of_warp[8][most_taken];
  const mixing_row<T, Warps> own(cols);
  const index_t r = index_t{blockIdx.x} * (blockDim.x / (32 * Warps)) + threadIdx.x / (32 * Warps);
  const bool inside = r < rows;
  if (Warps == 1 && !inside) return;
  const index_t at = inside ? r : rows - 1;  // threads beyond the end go along to the barrier
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float v[mixing_values];
  own.load(z + at * cols, v, -INFINITY);
  if constexpr (Noise)
#pragma unroll
    for (int c = 0; c < own.chunks; ++c)
      if (own.label(c) < cols) cuda_detail::mixing::add_noise<chunk::count>(rule, at, own.label(c), v + c * chunk::count);
  const auto first_of_own = [&] {
    candidate c{-INFINITY, -1};
#pragma unroll
    for (int i = 0; i < mixing_values; ++i)
      if (v[i] > c.value) c = {v[i], static_cast<int>(own.label(i / chunk::count)) + i % chunk::count};
    return c;
  };
  candidate best[most_taken], c = first_of_own();
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    best[t] = {-INFINITY, -1};
    if (t >= taken) continue;
    best[t] = first_of_lanes(c);
    if (c.label >= 0 && c.label == best[t].label && t + 1 < taken) {
#pragma unroll
      for (int i = 0; i < mixing_values; ++i)
        if (static_cast<int>(own.label(i / chunk::count)) + i % chunk::count == c.label) v[i] = -INFINITY;
      c = first_of_own();
    }
  }
  if constexpr (Warps > 1) {  // the first of the warps' first
    if (lane == 0)
#pragma unroll
      for (int t = 0; t < most_taken; ++t) of_warp[warp][t] = best[t];
    __syncthreads();
    const candidate* all = of_warp[warp / Warps * Warps];
    candidate a = all[lane], b = Warps == 8 ? all[32 + lane] : candidate{-INFINITY, -1};
    if (Warps * most_taken < 32 && lane >= Warps * most_taken) a = {-INFINITY, -1};
#pragma unroll
    for (int t = 0; t < most_taken; ++t) {
      if (t >= taken) continue;
      if (before(b, a)) {
        const candidate other = a;
        a = b, b = other;
      }
      best[t] = first_of_lanes(a);
      if (a.label >= 0 && a.label == best[t].label) a = b, b = {-INFINITY, -1};
    }
  }
  float p[most_taken];
  weigh(best, p, taken, rule);
  if (!inside) return;
  if (warp % Warps == 0 && lane == 0)
#pragma unroll
    for (int t = 0; t < most_taken; ++t)
      if (t < taken) label[r * taken + t] = best[t].label, weight[r * taken + t] = p[t];
  sum_rows(table, e + r * width, width, by_chunks, own.member, 32 * Warps, best, p);
}
/// The same for any row: one warp; each lane keeps the first of its labels.
template <class T>
__global__ void __launch_bounds__(128) mixing_taken_any(const T* z, const T* table, T* e, int* label, float* weight, index_t rows, index_t cols,
                                                        index_t width, int taken, bool by_chunks, cuda_detail::mixing::logit_rule rule) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  candidate own[most_taken], best[most_taken];
#pragma unroll
  for (int t = 0; t < most_taken; ++t) own[t] = {-INFINITY, -1};
  for (index_t i = lane; i < cols; i += 32) {
    candidate c{cuda_detail::mixing::noisy(rule, z + r * cols, r, i), static_cast<int>(i)};
    if (!(c.value > own[most_taken - 1].value)) continue;
#pragma unroll
    for (int t = 0; t < most_taken; ++t)
      if (before(c, own[t])) {
        const candidate other = own[t];
        own[t] = c, c = other;
      }
  }
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    best[t] = {-INFINITY, -1};
    if (t >= taken) continue;
    best[t] = first_of_lanes(own[0]);
    if (own[0].label >= 0 && own[0].label == best[t].label) {
#pragma unroll
      for (int j = 0; j + 1 < most_taken; ++j) own[j] = own[j + 1];
      own[most_taken - 1] = {-INFINITY, -1};
    }
  }
  float p[most_taken];
  weigh(best, p, taken, rule);
  if (lane == 0)
#pragma unroll
    for (int t = 0; t < most_taken; ++t)
      if (t < taken) label[r * taken + t] = best[t].label, weight[r * taken + t] = p[t];
  sum_rows(table, e + r * width, width, by_chunks, lane, 32, best, p);
}

/// w (S, K) = softmax of the `taken` first labels of a row, zero elsewhere: for many taken. One warp finds one label after the other.
template <class T>
__global__ void mixing_weights_of_taken(const T* z, T* w, index_t rows, index_t cols, index_t taken, cuda_detail::mixing::logit_rule rule) {
  using namespace cuda_detail::mixing;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  const T* from = z + r * cols;
  candidate top{}, last{};
  for (index_t t = 0; t < taken; ++t) {
    candidate c{-INFINITY, -1};
    for (index_t i = lane; i < cols; i += 32) {
      const candidate other{noisy(rule, from, r, i), static_cast<int>(i)};
      if ((t == 0 || before(last, other)) && before(other, c)) c = other;
    }
#pragma unroll
    for (int width = 16; width > 0; width /= 2) {
      const candidate other{__shfl_xor_sync(0xFFFFFFFFu, c.value, width), __shfl_xor_sync(0xFFFFFFFFu, c.label, width)};
      if (before(other, c)) c = other;
    }
    if (t == 0) top = c;
    last = c;
  }
  const float factor = rule.inverse_temperature * log2_e;
  float total = 0;
  const auto weight = [&](index_t i) {
    const candidate c{noisy(rule, from, r, i), static_cast<int>(i)};
    return before(last, c) ? 0.0f : exp2_of((c.value - top.value) * factor);
  };
  for (index_t i = lane; i < cols; i += 32) total += weight(i);
  const float inverse = 1.0f / warp_sum(total);
  for (index_t i = lane; i < cols; i += 32) w[r * cols + i] = weight(i) * inverse;
}

/// dz (S, K): at a row's labels weight (g - sum of weight g) / T with g = <de, row of the table>, zero elsewhere.
template <class T, bool Vectors>
__global__ void __launch_bounds__(128) mixing_taken_pullback(const T* table, const int* label, const float* weight, const T* de, T* dz, index_t rows,
                                                             index_t cols, index_t width, int taken, float inverse_temperature) {
  using chunk = cuda_detail::mixing::chunk<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  int at[most_taken];
  float p[most_taken], g[most_taken], mean = 0;
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    at[t] = t < taken ? label[r * taken + t] : -1;
    p[t] = t < taken ? weight[r * taken + t] : 0.0f;
    g[t] = 0;
  }
  constexpr int step = Vectors ? chunk::count : 1;
  for (index_t i = index_t{lane} * step; i < width; i += 32 * step) {
    float d[step];
    if constexpr (Vectors) chunk::load(de + r * width + i, d);
    else d[0] = static_cast<float>(de[r * width + i]);
#pragma unroll
    for (int t = 0; t < most_taken; ++t) {
      if (at[t] < 0) continue;
      float v[step];
      const T* row = table + index_t{at[t]} * width + i;
      if constexpr (Vectors) chunk::load(row, v);
      else v[0] = static_cast<float>(*row);
#pragma unroll
      for (int j = 0; j < step; ++j) g[t] += d[j] * v[j];
    }
  }
#pragma unroll
  for (int t = 0; t < most_taken; ++t) {
    if (t < taken) g[t] = cuda_detail::mixing::warp_sum(g[t]);
    mean += at[t] < 0 ? 0.0f : p[t] * g[t];
  }
  T* to = dz + r * cols;
  if constexpr (Vectors) {
    for (index_t i = index_t{lane} * step; i < cols; i += 32 * step) *reinterpret_cast<uint4*>(to + i) = make_uint4(0, 0, 0, 0);
  } else {
    for (index_t i = lane; i < cols; i += 32) to[i] = 0.0f;
  }
  __syncwarp();
  if (lane == 0)
#pragma unroll
    for (int t = 0; t < most_taken; ++t)
      if (at[t] >= 0) to[at[t]] = inverse_temperature * p[t] * (g[t] - mean);
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

/// The labels taken and their weights: (S, taken) each.
struct taken_labels {
  int* label;
  float* weight;
  int count;
  static constexpr std::size_t bytes(index_t rows, index_t count) { return static_cast<std::size_t>(rows * count) * (sizeof(int) + sizeof(float)); }
  static taken_labels at(void* memory, index_t rows, index_t count) {
    auto* label = static_cast<int*>(memory);
    return {label, reinterpret_cast<float*>(label + rows * count), static_cast<int>(count)};
  }
};

template <class T>
void mix_taken(cuda_queue& q, const logit_rule& rule, const T* z, const T* table, T* e, const taken_labels& taken, index_t rows, index_t cols,
               index_t width) {
  if (rows == 0 || cols == 0) return;
  const bool by_chunks = width % chunk<T>::count == 0 && aligned_to_16(table) && aligned_to_16(e);
  const int warps = warps_of_row<T>(cols, z, z);
  if (warps == 0) {
    q.launch("mixing_taken_any", dim3(blocks_of(rows, 4)), dim3(128), 0, kernel::mixing::mixing_taken_any<T>, z, table, e, taken.label, taken.weight, rows,
             cols, width, taken.count, by_chunks, rule);
    return;
  }
  with_warps(warps, [&](auto count) {
    constexpr int n = decltype(count)::value, threads = n == 8 ? 256 : 128;
    const auto f = rule.noise == 0 ? kernel::mixing::mixing_taken<T, n, false> : kernel::mixing::mixing_taken<T, n, true>;
    q.launch("mixing_taken", dim3(blocks_of(rows, threads / (32 * n))), dim3(threads), 0, f, z, table, e, taken.label, taken.weight, rows, cols, width,
             taken.count, by_chunks, rule);
  });
}
template <class T>
void mix_taken_pullback(cuda_queue& q, const logit_rule& rule, const T* table, const taken_labels& taken, const T* de, T* dz, index_t rows,
                        index_t cols, index_t width) {
  if (rows == 0) return;
  const bool vectors = cols % chunk<T>::count == 0 && width % chunk<T>::count == 0 && aligned_to_16(de) && aligned_to_16(table) && aligned_to_16(dz);
  const auto f = vectors ? kernel::mixing::mixing_taken_pullback<T, true> : kernel::mixing::mixing_taken_pullback<T, false>;
  q.launch("mixing_taken_pullback", dim3(blocks_of(rows, 4)), dim3(128), 0, f, table, taken.label, taken.weight, de, dz, rows, cols, width,
           taken.count, rule.inverse_temperature);
}
template <class T>
void mixing_weights_of_taken(cuda_queue& q, const logit_rule& rule, index_t taken, const T* z, T* w, index_t rows, index_t cols) {
  if (rows == 0 || cols == 0) return;
  q.launch("mixing_weights_of_taken", dim3(blocks_of(rows, 4)), dim3(128), 0, kernel::mixing::mixing_weights_of_taken<T>, z, w, rows, cols, taken, rule);
}
}  // namespace cuda_detail::mixing
}  // namespace planlm
