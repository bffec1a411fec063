// Cuts a step's attention into items that threads can take in any order. The cut depends only on the step and the
// shape, not on the number of threads.
//
// A sequence with many query tokens is cut by query tiles. A sequence with few (decoding, verification) is also cut
// along its keys, so that a long context occupies all cores. Its partial sums are merged afterwards.
//
// If several of these sequences have the same blocks in a split, one item takes the queries of all of them over it. So
// a shared prefix is read once (a cascade; Hydragen, 2402.05099).
//
// The cut affects speed only: the result is bitwise the same (attention.inc says why). So when the scratch for partial
// sums is full, the remaining sequences are not cut along their keys.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace octavo {

constexpr int kFewQueries = 8;                        // most query tokens of a sequence that is cut along its keys
constexpr int64_t kPartialBudget = int64_t(1) << 22;  // floats of scratch for partial sums: 16 MiB

inline int attention_group(const AttentionShape& shape) { return shape.heads / shape.kv_heads; }

// The most query tokens that one item takes.
inline int attention_tile(const AttentionShape& shape) { return std::max(1, kTileRows / attention_group(shape)); }

inline int64_t attention_partial_row(const AttentionShape& shape) { return shape.head_dim + kPartialHead; }

// ---------------------------------------------------------------- memory
// Floats of scratch for partial sums: enough for any step within these limits.
inline size_t attention_partial_floats(int max_tokens, int max_seqs, int max_context, const AttentionShape& shape) {
  const int64_t queries = std::min<int64_t>(max_tokens, int64_t(max_seqs) * kFewQueries);
  const int64_t splits =
      (max_context + kSplit - 1) / kSplit + 2;  // sinks are one, and recent keys may begin within one
  return size_t(std::min(kPartialBudget, queries * shape.heads * splits * attention_partial_row(shape)));
}

// The most items, and the most merges, of a step within these limits.
inline int attention_max_items(int max_tokens, int max_seqs, int max_context, const AttentionShape& shape) {
  const int64_t tile = attention_tile(shape), whole = shape.kv_heads * ((max_tokens + tile - 1) / tile + max_seqs);
  const int64_t floats = int64_t(attention_partial_floats(max_tokens, max_seqs, max_context, shape));
  return int(whole + floats / (attention_group(shape) * attention_partial_row(shape)));
}

// Lays out the arrays of an AttentionWork one after the other in memory from `at` on, and returns the end.
inline uint8_t* place_attention_work(AttentionWork& work, uint8_t* at, int max_tokens, int max_seqs, int max_context,
                                     const AttentionShape& shape) {
  const auto items = size_t(attention_max_items(max_tokens, max_seqs, max_context, shape));
  auto take = [&at]<class T>(T*& array, size_t count) {
    array = reinterpret_cast<T*>(at);
    at += (count * sizeof(T) + 63) / 64 * 64;
  };
  take(work.items, items);
  take(work.sorted, items);
  take(work.merges, items);
  take(work.queries, size_t(max_tokens));
  take(work.spans, size_t(max_seqs));
  return at;
}

inline size_t attention_work_bytes(int max_tokens, int max_seqs, int max_context, const AttentionShape& shape) {
  AttentionWork work;
  uint8_t* const start = reinterpret_cast<uint8_t*>(uintptr_t(64));
  return size_t(place_attention_work(work, start, max_tokens, max_seqs, max_context, shape) - start);
}

// ---------------------------------------------------------------- one step
class AttentionWorkBuilder {
 public:
  AttentionWorkBuilder(const StepView& step, int block_size, const AttentionShape& shape, AttentionWork& work)
      : step_(step), block_size_(block_size), shape_(shape), work_(work) {}

  void build() {
    work_.num_items = work_.num_merges = 0;
    order_sequences();
    for (int i = 0, q0 = 0; i < step_.seqs; q0 += work_.spans[i++].n) list_queries(work_.spans[i], q0);
    for (int i = 0; i < step_.seqs; ++i) {
      const QuerySpan& span = work_.spans[i];
      span.cut ? add_splits(i) : add_tiles(span, span.n, span.split0, span.split1, span.sinks);
    }
    deal();
  }

 private:
  const int32_t* split_blocks(const QuerySpan& span, int split) const {
    return step_.block_tables + size_t(span.seq) * size_t(step_.table_width) + split * kSplit / block_size_;
  }
  int blocks_in(int split) const { return ((split + 1) * kSplit - 1) / block_size_ - split * kSplit / block_size_ + 1; }

  // Sorts the sequences by the last block of each whole split, so that sequences with a common prefix become
  // neighbours. Sequences that cannot share a split come first.
  void order_sequences() {
    for (int seq = 0; seq < step_.seqs; ++seq) {
      const int q0 = step_.query_starts[seq];
      const bool evicts = eviction_of(step_, seq).sinks > 0;
      work_.spans[seq] = {seq,   q0,     step_.query_starts[seq + 1] - q0, 0, 0, stored_position(step_, seq, q0) + 1,
                          false, evicts, evicts && shape_.window == 0};
    }
    auto whole_splits = [](const QuerySpan& s) { return s.n <= kFewQueries && !s.evicts ? s.straight / kSplit : 0; };
    std::sort(work_.spans, work_.spans + step_.seqs, [&](const QuerySpan& a, const QuerySpan& b) {
      const int x = whole_splits(a), y = whole_splits(b);
      for (int split = 0; split < std::min(x, y); ++split) {
        const int last = blocks_in(split) - 1, p = split_blocks(a, split)[last], q = split_blocks(b, split)[last];
        if (p != q) return p < q;
      }
      return x != y ? x < y : a.seq < b.seq;
    });
  }

  // Fills in the span's queries, from entry q0 of the list on, and decides how the span is cut.
  void list_queries(QuerySpan& span, int q0) {
    QueryRow* rows = work_.queries + q0;
    const int token0 = step_.query_starts[span.seq];
    const Eviction eviction = eviction_of(step_, span.seq);
    int first = std::numeric_limits<int>::max(), last = 0;
    int64_t partial = partial_;
    for (int i = 0; i < span.n; ++i) {
      const int token = token0 + i, parent = step_.parents ? step_.parents[token] : -1;
      int position = stored_position(step_, span.seq, token), straight = position + 1;
      if (parent >= 0) position = rows[parent - token0].position + 1, straight = rows[parent - token0].straight;
      const int begin = first_visible(position, shape_.window, eviction);
      rows[i] = {token, span.seq, position, straight, int32_t(partial), begin, span.sinks ? eviction.sinks : 0};
      partial += int64_t(position / kSplit - begin / kSplit + 1 + span.sinks) * shape_.heads;
      first = std::min(first, begin), last = std::max(last, position);
    }
    span.q0 = q0, span.split0 = first / kSplit, span.split1 = last / kSplit + 1;
    span.cut = span.n <= kFewQueries && span.split1 - span.split0 > 1 &&
               partial * attention_partial_row(shape_) <= kPartialBudget;
    if (span.cut) partial_ = partial;
  }

  // Adds items for n queries over the keys of these splits in the span's blocks. The queries begin with the span's
  // first one and may continue into the spans after it.
  void add_tiles(const QuerySpan& span, int n, int split0, int split1, bool sinks) {
    const int tile = attention_tile(shape_), stop = span.q0 + n;
    for (int q0 = span.q0; q0 < stop; q0 += tile) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        AttentionItem item{span.seq, head, q0, std::min(tile, stop - q0), split0, split1, !span.cut, sinks};
        if (!span.cut || cost(item) > 0) work_.items[work_.num_items++] = item;
      }
    }
  }

  // Adds items for each split of spans[i], including the queries of the following spans that share the split. A split
  // that is shared with the span before has been added there.
  void add_splits(int i) {
    const QuerySpan& span = work_.spans[i];
    if (span.sinks) add_tiles(span, span.n, span.split0, span.split0, true);
    for (int split = span.split0; split < span.split1; ++split) {
      if (i > 0 && in_common(i - 1, split)) continue;
      int n = span.n;
      for (int next = i; in_common(next, split); ++next) n += work_.spans[next + 1].n;
      add_tiles(span, n, split, split + 1, false);
    }
    for (int head = 0; head < shape_.kv_heads; ++head) {
      work_.merges[work_.num_merges++] = {span.seq, head, span.q0, span.n, span.split0, span.split1, false, span.sinks};
    }
  }

  // True if spans[i] and the next span are both cut, and have the same blocks for the whole split.
  bool in_common(int i, int split) const {
    if (i + 1 >= step_.seqs) return false;
    const QuerySpan &a = work_.spans[i], &b = work_.spans[i + 1];
    return a.cut && b.cut && !a.evicts && !b.evicts && split >= std::max(a.split0, b.split0) &&
           (split + 1) * kSplit <= std::min(a.straight, b.straight) &&
           !std::memcmp(split_blocks(a, split), split_blocks(b, split), size_t(blocks_in(split)) * sizeof(int32_t));
  }

  // A block's heads lie side by side, and the processor's prefetcher reads on past the end of one head. So the kv_heads
  // items over the same keys stay together, as a hand of kv_heads cards. The pool gives out items in runs from both
  // ends of the list, large runs first. To give every run its share of the expensive hands, the hands are sorted by
  // cost and dealt: first every `stride`-th hand, then the one after each of these, and so on.
  void deal() {
    const int n = work_.num_items, hands = n / shape_.kv_heads, stride = std::max(1, int(std::sqrt(double(hands))));
    std::copy_n(work_.items, n, work_.sorted);
    std::sort(work_.sorted, work_.sorted + n, [&](const AttentionItem& a, const AttentionItem& b) {
      const int64_t x = cost(a), y = cost(b);
      return x != y                 ? x > y
             : a.q0 != b.q0         ? a.q0 < b.q0
             : a.split0 != b.split0 ? a.split0 < b.split0
                                    : a.kv_head < b.kv_head;
    });
    AttentionItem* to = work_.items;
    for (int first = 0; first < stride; ++first) {
      for (int hand = first; hand < hands; hand += stride) {
        to = std::copy_n(work_.sorted + hand * shape_.kv_heads, shape_.kv_heads, to);
      }
    }
  }

  // Roughly the queries times the keys; 0 if the queries see no key of these splits.
  int64_t cost(const AttentionItem& item) const {
    int first = std::numeric_limits<int>::max(), last = 0;
    for (int q = item.q0; q < item.q0 + item.n; ++q) {
      first = std::min(first, work_.queries[q].first), last = std::max(last, work_.queries[q].position);
    }
    const int keys = std::min(last + 1, item.split1 * kSplit) - std::max(first, item.split0 * kSplit);
    return int64_t(item.n) * (std::max(keys, 0) + (item.sinks ? work_.queries[item.q0].sinks : 0));
  }

  const StepView& step_;
  const int block_size_;
  const AttentionShape& shape_;
  AttentionWork& work_;
  int64_t partial_ = 0;  // rows of scratch in use
};

// Fills the work's arrays. The step must be within the limits that were given to place_attention_work.
inline void build_attention_work(const StepView& step, int block_size, const AttentionShape& shape,
                                 AttentionWork& work) {
  AttentionWorkBuilder(step, block_size, shape, work).build();
}

}  // namespace octavo
