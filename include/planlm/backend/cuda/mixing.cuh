/// Label mixing on the GPU: e = w E with the label weights w of a rule, and its pullback dE += w^T de, dz from dw = de E^T.
///
/// Three products of 2 S K C operations bound it from below, and the bytes that must move: z read twice, dz, e written, de read, E read twice,
/// dE read and written, b (3 S K + 2 S C + 4 K C) in all. Dense rules write w once (S K values, read again by the second product and by the
/// pullback of the rows): the products run at the rate of cuBLASLt. Products that make w on their way were slower: see docs/kernels.md.
/// Rules that take few labels never write w: see mixing_sparse.cuh.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cuda/mixing_hopper.cuh>
#include <planlm/backend/cuda/mixing_rows.cuh>
#include <planlm/backend/cuda/mixing_scatter.cuh>
#include <planlm/backend/cuda/mixing_sparse.cuh>
#include <planlm/backend/mixing_rule.hpp>

namespace planlm::cuda_detail::mixing {

/// How many labels of a row the sparse kernels take; 0 where the rule is dense.
inline index_t few_taken(const mixing_rule& rule, index_t labels) {
  if (!can_sort_labels(labels)) return 0;
  const index_t taken = rule.discrete ? 1 : std::min(rule.taken, labels);
  return taken <= kernel::mixing::most_taken ? taken : 0;
}
/// Bytes that the pullback needs besides z, table and e.
template <class T>
std::size_t mixing_bytes(const mixing_rule& rule, index_t rows, index_t labels) {
  const index_t taken = few_taken(rule, labels);
  return taken > 0 ? taken_labels::bytes(rows, taken) : static_cast<std::size_t>(rows * labels) * sizeof(T);
}

/// The one-hot of the first label where the rule is discrete, of the `taken` first or of all: dense w.
template <class T>
void dense_weights(cuda_queue& q, const mixing_rule& rule, const T* z, T* w, index_t rows, index_t labels) {
  const index_t taken = rule.discrete ? 1 : rule.taken;
  if (taken > 0 && taken < labels) mixing_weights_of_taken(q, logits_of(rule), taken, z, w, rows, labels);
  else mixing_weights(q, logits_of(rule), z, w, rows, labels);
}

/// Whether dz comes as the epilogue of its product. That saves three passes over S K values and costs one over 2 S C, and the own product runs
/// at three quarters of cuBLASLt's rate: on an H200 it pays from twice as many labels as columns.
template <class T>
bool fuses_logit_gradient(const cuda_queue& q, const T* de, const T* table, const T* w, const T* dz, index_t rows, index_t labels, index_t width) {
  return std::is_same_v<T, bfloat16> && labels >= 2 * width && has_logit_gradient(q, rows, labels, width) && aligned_to_16(de) &&
         aligned_to_16(table) && aligned_to_16(w) && aligned_to_16(dz);
}

/// z (S, K), table (K, C) -> e (S, C); `kept` has mixing_bytes bytes.
template <class B, class T>
void mix(cuda_queue& q, const mixing_rule& rule, view<const T, 2, device_memory> z, view<const T, 2, device_memory> table,
         view<T, 2, device_memory> e, void* kept) {
  const index_t rows = z.rows(), labels = z.cols(), width = table.cols();
  if (const index_t taken = few_taken(rule, labels); taken > 0)
    return mix_taken(q, logits_of(rule), z.data, table.data, e.data, taken_labels::at(kept, rows, taken), rows, labels, width);
  const view<T, 2, device_memory> w(static_cast<T*>(kept), rows, labels);
  dense_weights(q, rule, z.data, w.data, rows, labels);
  B::gemm(q, 1, plain(view<const T, 2, device_memory>(w)), plain(table), plain(e), into::replace);
}

/// de (S, C) -> dtable (K, C) += w^T de unless it is empty, dz (S, K) unless the rule is not differentiable.
template <class B, class T>
void mix_pullback(cuda_queue& q, const mixing_rule& rule, view<const T, 2, device_memory> z, view<const T, 2, device_memory> table,
                  view<const T, 2, device_memory> e, const void* kept, view<const T, 2, device_memory> de, view<T, 2, device_memory> dz,
                  view<T, 2, device_memory> dtable) {
  const index_t rows = z.rows(), labels = z.cols(), width = table.cols(), taken = few_taken(rule, labels);
  const logit_rule logits = logits_of(rule);
  const T* w = nullptr;
  if (taken > 0) {
    const auto chosen = taken_labels::at(const_cast<void*>(kept), rows, taken);
    if (dtable) add_taken(q, chosen, de.data, dtable.data, rows, labels, width);
    if (!rule.differentiable) return;
    if (!rule.discrete) return mix_taken_pullback(q, logits, table.data, chosen, de.data, dz.data, rows, labels, width);
  } else {
    w = static_cast<const T*>(kept);
    if (dtable) B::gemm(q, 1, operand<const T>{w, labels, rows, 1, labels}, plain(de), plain(dtable), into::add);
    if (!rule.differentiable) return;
    if constexpr (std::is_same_v<T, bfloat16>)
      if (fuses_logit_gradient<T>(q, de.data, table.data, w, dz.data, rows, labels, width)) {
        auto* const dots = static_cast<float*>(q.scratch(static_cast<std::size_t>(rows) * sizeof(float)));
        row_dots(q, de.data, e.data, dots, rows, width);
        return logit_gradient(q, de.data, table.data, w, dots, dz.data, rows, labels, width, logits.inverse_temperature);
      }
  }
  B::gemm(q, 1, plain(de), transposed(table), plain(dz), into::replace);
  if (rule.discrete) mixing_weights_pullback(q, logits, true, z.data, dz.data, rows, labels);
  else mixing_weights_pullback(q, logits, false, w, dz.data, rows, labels);
}

}  // namespace planlm::cuda_detail::mixing
