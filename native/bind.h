// What the bindings share: array types, checks, and the native view of the sampling arrays. Arrays are numpy's.
// nanobind checks their type, rank and contiguity, this file their lengths, bounds.h their values.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bounds.h"
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

// The array `name` of a SamplingArrays. Its length must be `length`, or at least that if not exact.
template <class T, int Rank = 1>
const T* field(nanobind::handle arrays, const char* name, size_t length, bool exact = true) {
  auto a = nanobind::cast<In<T, Rank>>(arrays.attr(name));
  if (exact ? a.shape(0) != length : a.shape(0) < length)
    throw std::invalid_argument(std::string(name) + " has the wrong length");
  return a.data();
}

// Batch.parents, or null.
inline const int32_t* parents_of(const std::optional<In<int32_t>>& parents, size_t tokens) {
  if (!parents) return nullptr;
  require(parents->size() == tokens, "parents needs one entry a token");
  return parents->data();
}

// What a step's sequences keep of their keys: all three arrays or none. `check_sequences` checks the values.
inline void set_eviction(StepView& step, const std::optional<In<int32_t>>& sinks,
                         const std::optional<In<int32_t>>& windows, const std::optional<In<int32_t>>& sink_positions) {
  if (!sinks) return;
  require(windows && sinks->size() == size_t(step.seqs) && windows->size() == size_t(step.seqs),
          "sinks and windows need one entry a sequence");
  require(sink_positions && sink_positions->size() == size_t(step.tokens), "sink_positions needs one entry a token");
  step.sinks = sinks->data(), step.windows = windows->data(), step.sink_positions = sink_positions->data();
}

// Edits in CSR form: row r has tokens[starts[r]] to tokens[starts[r + 1] - 1]. Checks both arrays and returns the
// number of tokens.
inline size_t edited_tokens(nanobind::handle a, const char* starts_name, const char* tokens_name, size_t rows,
                            int vocab, const int32_t*& starts, const int32_t*& tokens) {
  starts = field<int32_t>(a, starts_name, rows + 1);
  check_starts(starts_name, starts, rows);
  const auto count = size_t(starts[rows]);
  tokens = field<int32_t>(a, tokens_name, count, false);
  check_values(tokens_name, tokens, count, 0, vocab);
  return count;
}

inline SamplingView sampling_view(nanobind::handle a, size_t rows, int vocab) {
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
  const size_t penalties =
      edited_tokens(a, "penalty_starts", "penalty_tokens", rows, vocab, v.penalty_starts, v.penalty_tokens);
  v.penalty_counts = field<int32_t>(a, "penalty_counts", penalties, false);
  const size_t biases = edited_tokens(a, "bias_starts", "bias_tokens", rows, vocab, v.bias_starts, v.bias_tokens);
  v.bias_values = field<float>(a, "bias_values", biases, false);
  auto masks = nanobind::cast<In<uint32_t, 2>>(a.attr("masks"));
  v.masks = masks.data();
  v.mask_words = int(masks.shape(1));
  v.mask_rows = field<int32_t>(a, "mask_rows", rows);
  check_values("mask_rows", v.mask_rows, rows, -1, int64_t(masks.shape(0)));
  require(masks.shape(0) == 0 || masks.shape(1) * 32 >= size_t(vocab), "masks needs a bit for each token");
  return v;
}

}  // namespace octavo
