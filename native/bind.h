// What the bindings share: array types, checks, and the sampling arrays as native code sees them. Arrays are numpy's,
// checked for type, rank and contiguity by nanobind; lengths are checked here.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace octavo {

template <class T, int Rank = 1>
using In = nanobind::ndarray<const T, nanobind::ndim<Rank>, nanobind::c_contig, nanobind::device::cpu>;
template <class T, int Rank = 1>
using Out = nanobind::ndarray<T, nanobind::ndim<Rank>, nanobind::c_contig, nanobind::device::cpu>;

inline void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

inline const KernelTable& table_of(const std::string& isa) {
  const KernelTable* t = kernels(isa.c_str());
  if (!t) throw std::invalid_argument("instruction set '" + isa + "' is not available");
  return *t;
}

template <class T>
T* optional_out(const std::optional<Out<T>>& a, size_t length) {
  if (!a) return nullptr;
  require(a->size() == length, "an output has the wrong size");
  return a->data();
}

// The array `name` of a SamplingArrays, of that length (or at least, if not exact).
template <class T, int Rank = 1>
const T* field(nanobind::handle arrays, const char* name, size_t length, bool exact = true) {
  auto a = nanobind::cast<In<T, Rank>>(arrays.attr(name));
  require(exact ? a.shape(0) == length : a.shape(0) >= length, name);
  return a.data();
}

// Batch.parents, or null. A node's parent is an earlier row of its own sequence.
inline const int32_t* parents_of(const std::optional<In<int32_t>>& parents, const In<int32_t>& query_starts) {
  if (!parents) return nullptr;
  const size_t seqs = query_starts.size() - 1;
  require(parents->size() == size_t(query_starts.data()[seqs]), "parents needs one entry a token");
  for (size_t s = 0; s < seqs; ++s) {
    const int32_t start = query_starts.data()[s], stop = query_starts.data()[s + 1];
    for (int32_t t = start; t < stop; ++t) {
      const int32_t parent = parents->data()[t];
      require(parent < 0 || (parent >= start && parent < t), "a node's parent must be an earlier row of its sequence");
    }
  }
  return parents->data();
}

inline SamplingView sampling_view(nanobind::handle a, size_t rows) {
  SamplingView v{};
  v.temperature = field<float>(a, "temperature", rows);
  v.top_p = field<float>(a, "top_p", rows);
  v.min_p = field<float>(a, "min_p", rows);
  v.typical_p = field<float>(a, "typical_p", rows);
  v.repetition = field<float>(a, "repetition", rows);
  v.presence = field<float>(a, "presence", rows);
  v.frequency = field<float>(a, "frequency", rows);
  v.top_k = field<int32_t>(a, "top_k", rows);
  v.seeds = field<uint64_t>(a, "seeds", rows);
  v.positions = field<int64_t>(a, "positions", rows);
  v.penalty_starts = field<int32_t>(a, "penalty_starts", rows + 1);
  const auto penalties = size_t(v.penalty_starts[rows]);
  v.penalty_tokens = field<int32_t>(a, "penalty_tokens", penalties, false);
  v.penalty_counts = field<int32_t>(a, "penalty_counts", penalties, false);
  v.bias_starts = field<int32_t>(a, "bias_starts", rows + 1);
  const auto biases = size_t(v.bias_starts[rows]);
  v.bias_tokens = field<int32_t>(a, "bias_tokens", biases, false);
  v.bias_values = field<float>(a, "bias_values", biases, false);
  v.mask_rows = field<int32_t>(a, "mask_rows", rows);
  auto masks = nanobind::cast<In<uint32_t, 2>>(a.attr("masks"));
  v.masks = masks.data();
  v.mask_words = int(masks.shape(1));
  for (size_t r = 0; r < rows; ++r) require(v.mask_rows[r] < int(masks.shape(0)), "mask_rows");
  return v;
}

}  // namespace octavo
