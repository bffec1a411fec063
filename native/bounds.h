// Checks what a step's arrays refer to. The bindings check every id, slot, block and row once, before anything is
// written, because kernels use them as indices and check nothing. A bad value throws std::invalid_argument (ValueError
// in Python), which names the array, the index and the value. The engine then fails only the request that the value
// came with.
//
// A step of T tokens, S sequences with W blocks each and R logit rows takes O(T + S * W + R), plus the length of the
// sampling arrays.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace octavo {

struct StepLimits {
  int embeddings = 0;                  // rows of the embedding table: token ids that can be read
  int vocab = 0;                       // rows of the language-model head: token ids that can be chosen
  int max_context = 0;                 // tokens of a sequence
  int num_blocks = 0, block_size = 0;  // of the KV pool
  bool positions = false;              // positions are below max_context: they are indices of key offsets
  int64_t slots() const { return int64_t(num_blocks) * block_size; }
};

[[noreturn]] inline void refuse(const std::string& what, int64_t value, int64_t least, int64_t most) {
  throw std::invalid_argument(what + " is " + std::to_string(value) + ": must be from " + std::to_string(least) +
                              " to " + std::to_string(most));
}

inline std::string entry(const char* name, size_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

// True if all values lie in low .. stop - 1. It is one pass without branches, so that compilers vectorise it.
inline bool within(const int32_t* values, size_t n, int32_t low, int64_t stop) {
  const uint32_t span = uint32_t(stop - low);
  uint32_t outside = 0;
  for (size_t i = 0; i < n; ++i) outside |= uint32_t(values[i]) - uint32_t(low) >= span;
  return !outside;
}

inline void check_values(const char* name, const int32_t* values, size_t n, int32_t low, int64_t stop) {
  if (within(values, n, low, stop)) return;
  for (size_t i = 0; i < n; ++i)
    if (values[i] < low || values[i] >= stop) refuse(entry(name, i), values[i], low, stop - 1);
}

// Checks the starts [n + 1] of n pieces. The first piece starts at 0, and each has at least `least` entries. The last
// start is where the pieces end.
inline void check_starts(const char* name, const int32_t* starts, size_t n, int least = 0) {
  if (starts[0] != 0) refuse(entry(name, 0), starts[0], 0, 0);
  for (size_t i = 1; i <= n; ++i) {
    const int64_t low = int64_t(starts[i - 1]) + least;
    if (starts[i] < low) refuse(entry(name, i), starts[i], low, INT32_MAX);
  }
}

// Checks one sequence's context, the blocks that hold it, and its draft tree.
inline void check_sequence(const StepView& step, size_t s, const StepLimits& limits) {
  const int start = step.query_starts[s], stop = step.query_starts[s + 1], context = step.context_lens[s];
  const int64_t room = int64_t(step.table_width) * limits.block_size;
  const int64_t most = room < limits.max_context ? room : limits.max_context;
  if (context < stop - start || context > most) refuse(entry("context_lens", s), context, stop - start, most);
  const int32_t* table = step.block_tables + s * size_t(step.table_width);
  const size_t blocks = size_t((context - 1) / limits.block_size) + 1;
  if (!within(table, blocks, 0, limits.num_blocks))
    check_values(entry("block_tables", s).c_str(), table, blocks, 0, limits.num_blocks);
  for (int t = start; step.parents && t < stop; ++t) {
    const int parent = step.parents[t];
    if (parent != -1 && (parent < start || parent >= t))
      throw std::invalid_argument(entry("parents", size_t(t)) + " is " + std::to_string(parent) +
                                  ": must be -1 or an earlier row of its sequence");
  }
}

// Checks what a sequence keeps: its positions then say where keys are.
inline void check_eviction(const StepView& step, size_t s) {
  if (!step.sinks || !step.sinks[s]) return;
  const int unit = kEvictionUnit, sinks = step.sinks[s], window = step.windows[s];
  if (sinks < unit || sinks > kSplit || sinks % unit) refuse(entry("sinks", s), sinks, unit, kSplit);
  if (window < unit || window % unit) refuse(entry("windows", s), window, unit, INT32_MAX);
  const int start = step.query_starts[s], count = step.query_starts[s + 1] - start, first = step.positions[start];
  const int stored = step.context_lens[s] - count, gap = first - stored;
  const int64_t most = stored + std::max(0, first_recent(first, window) - sinks);
  if (gap < 0 || gap % unit || first > most || first > INT32_MAX - count)
    refuse(entry("positions", size_t(start)), first, stored, most);
}

inline void check_sequences(const StepView& step, const StepLimits& limits) {
  const auto seqs = size_t(step.seqs);
  check_starts("query_starts", step.query_starts, seqs, 1);
  if (step.query_starts[seqs] != step.tokens)
    refuse(entry("query_starts", seqs), step.query_starts[seqs], step.tokens, step.tokens);
  for (size_t s = 0; s < seqs; ++s) check_sequence(step, s, limits), check_eviction(step, s);
}

// Positions give the angles of rope. They are indices only with key offsets, and where a sequence evicts, and are
// checked only then.
inline void check_step(const StepView& step, const int32_t* targets, const StepLimits& limits) {
  check_values("token_ids", step.token_ids, size_t(step.tokens), 0, limits.embeddings);
  if (limits.positions) check_values("positions", step.positions, size_t(step.tokens), 0, limits.max_context);
  check_values("slot_mapping", step.slots, size_t(step.tokens), 0, limits.slots());
  check_sequences(step, limits);
  check_values("logit_rows", step.logit_rows, size_t(step.rows), 0, step.tokens);
  check_values("targets", targets, size_t(step.rows), -1, limits.vocab);
}

}  // namespace octavo
