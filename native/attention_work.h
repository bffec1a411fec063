// Cuts a step's attention into items that threads can take in any order: a function of the step and the shape alone.
//
// A sequence with many query tokens is cut by query tiles. One with few (decoding, verification) is also cut along its
// keys, so that a long context occupies all cores; the parts are merged afterwards. Either way the result is bitwise
// the same (attention.inc), so the cut is a matter of speed: when the scratch for partial sums is full, the remaining
// sequences stay whole.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/kernels.h"

namespace octavo {

constexpr int kFewQueries = 8;                        // at most these many query tokens: worth cutting along the keys
constexpr int64_t kPartialBudget = int64_t(1) << 22;  // floats of scratch: 16 MiB

inline int attention_group(const AttentionShape& shape) { return shape.heads / shape.kv_heads; }

// Query tokens an item takes.
inline int attention_tile(const AttentionShape& shape) { return std::max(1, kTileRows / attention_group(shape)); }

inline int64_t attention_partial_row(const AttentionShape& shape) { return shape.head_dim + kPartialHead; }

// Scratch floats for partial sums that no step within these limits exceeds.
inline size_t attention_partial_floats(int max_tokens, int max_seqs, int max_context, const AttentionShape& shape) {
  const int64_t queries = std::min<int64_t>(max_tokens, int64_t(max_seqs) * kFewQueries);
  const int64_t splits = (max_context + kSplit - 1) / kSplit;
  return size_t(std::min(kPartialBudget, queries * shape.heads * splits * attention_partial_row(shape)));
}

// Room to allow for items, and for merges.
inline int attention_max_items(int max_tokens, int max_seqs, int max_context, const AttentionShape& shape) {
  const int64_t tile = attention_tile(shape), whole = shape.kv_heads * ((max_tokens + tile - 1) / tile + max_seqs);
  const int64_t floats = int64_t(attention_partial_floats(max_tokens, max_seqs, max_context, shape));
  return int(whole + floats / (attention_group(shape) * attention_partial_row(shape)));
}

class AttentionWorkBuilder {
 public:
  AttentionWorkBuilder(const StepView& step, const AttentionShape& shape, AttentionWork& work)
      : step_(step), shape_(shape), work_(work) {}

  void build() {
    work_.num_items = work_.num_merges = 0;
    for (int seq = 0; seq < step_.seqs; ++seq) add_sequence(seq);
    std::sort(work_.items, work_.items + work_.num_items, [&](const AttentionItem& a, const AttentionItem& b) {
      const int64_t x = cost(a), y = cost(b);
      return x != y                   ? x > y
             : a.q0 != b.q0           ? a.q0 < b.q0
             : a.kv_head != b.kv_head ? a.kv_head < b.kv_head
                                      : a.split0 < b.split0;
    });
  }

 private:
  void add_sequence(int seq) {
    const int start = step_.query_starts[seq], stop = step_.query_starts[seq + 1], tile = attention_tile(shape_);
    for (int q0 = start; q0 < stop; q0 += tile) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        add_tile({seq, head, q0, std::min(tile, stop - q0), 0, 0, -1}, stop - start <= kFewQueries);
      }
    }
  }

  // The tile over all splits that one of its tokens sees: as one item, or as one for each split and a merge.
  void add_tile(AttentionItem item, bool few) {
    item.split0 = first_visible(cache_position(step_, item.seq, item.q0), shape_.window) / kSplit;
    item.split1 = cache_position(step_, item.seq, item.q0 + item.n - 1) / kSplit + 1;
    const int splits = item.split1 - item.split0, rows = item.n * attention_group(shape_);
    const int64_t end = partial_ + int64_t(splits) * rows;
    if (!few || splits == 1 || end * attention_partial_row(shape_) > kPartialBudget) {
      work_.items[work_.num_items++] = item;
      return;
    }
    item.partial = int32_t(partial_);
    work_.merges[work_.num_merges++] = item;
    for (int split = item.split0; split < item.split1; ++split, partial_ += rows) {
      work_.items[work_.num_items++] = {item.seq, item.kv_head, item.q0, item.n, split, split + 1, int32_t(partial_)};
    }
  }

  // Query tokens times keys, roughly.
  int64_t cost(const AttentionItem& item) const {
    const int last = cache_position(step_, item.seq, item.q0 + item.n - 1);
    const int first = first_visible(cache_position(step_, item.seq, item.q0), shape_.window);
    const int keys = std::min(last + 1, item.split1 * kSplit) - std::max(first, item.split0 * kSplit);
    return int64_t(item.n) * keys;
  }

  const StepView& step_;
  const AttentionShape& shape_;
  AttentionWork& work_;
  int64_t partial_ = 0;  // scratch rows given out
};

// Fills work.items and work.merges, which have room for attention_max_items each; longest items first.
inline void build_attention_work(const StepView& step, const AttentionShape& shape, AttentionWork& work) {
  AttentionWorkBuilder(step, shape, work).build();
}

}  // namespace octavo
