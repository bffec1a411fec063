// A step plan: the forward pass as a flat list of operations over buffers, recorded once and replayed for every batch.
//
// Python (src/octavo/backends/cpu/lower.py) builds it with the methods below. run() executes a step. The trunk runs on
// all tokens, in one parallel region. The head begins where the logit rows are gathered. It runs on at most kHeadRows
// rows at a time, so that logits never need more memory than that.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bounds.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "threads.h"

namespace octavo {

struct PackedWeight {
  int format = 0, N = 0, K = 0;
  const uint8_t* data = nullptr;
  size_t panel_stride = 0;
  int panels() const { return (N - 1) / kPanel + 1; }
  // p may be one before the first panel or one after the last: such a panel is only prefetched.
  const uint8_t* panel(int p) const { return data + ptrdiff_t(p) * ptrdiff_t(panel_stride); }
};

// The KV pool: blocks one after the other, each with the keys and values of all layers. So the system provides a
// block's memory when the block is first used, and a block is copied in one piece.
class KvCache {
 public:
  KvCache(const std::vector<std::pair<int, int>>& heads_and_dims, int num_blocks, int block_size, KvType type);
  const KvLayer& layer(int i) const { return layers_[size_t(i)]; }
  int num_blocks() const { return num_blocks_; }
  int block_size() const { return layers_[0].block_size; }
  int64_t slots() const { return int64_t(num_blocks_) * block_size(); }
  size_t bytes() const { return memory_->bytes(); }
  void copy_block(int from, int to);
  void copy_slot(int from, int to);

  static size_t block_bytes(int kv_heads, int head_dim, int block_size, KvType type);

 private:
  int num_blocks_;
  size_t block_bytes_ = 0;
  std::vector<KvLayer> layers_;
  std::unique_ptr<Memory> memory_;
};

struct StepOutputs {           // null = not wanted
  int32_t* tokens = nullptr;   // [rows]
  uint8_t* finite = nullptr;   // [rows]
  float* logprobs = nullptr;   // [rows]
  int32_t* ranks = nullptr;    // [rows]
  int32_t* top_ids = nullptr;  // [rows][num_top]
  float* top_logprobs = nullptr;
  float* logits = nullptr;  // [rows][vocab]
  float* hidden = nullptr;  // [rows][hidden]
  int num_top = 0;
};

struct Compaction {        // see types.Compaction
  const int32_t* targets;  // blocks
  int keep, pool;
};

struct Step {
  StepView view;
  const int32_t* targets = nullptr;        // [rows]
  const SamplingView* sampling = nullptr;  // null: greedy
  StepOutputs out;
  const Compaction* compaction = nullptr;
};

// One of the matmuls of a linear operation.
struct Segment {
  int weight = -1, up = -1;  // up >= 0: the output is activation(weight x) * (up x)
  int activation = 0;
  int bias = -1;  // a constant
  int out = -1;
  bool residual = false;  // add to the output buffer
};

// The constants of a layer's KeyOffset; -1: it has none.
struct OffsetIds {
  int bias = -1, angles = -1, rope_dim = 0;
  bool interleaved = false;
};

class Plan {
 public:
  static constexpr int kHeadRows = 32;

  Plan(const KernelTable& kernels, std::shared_ptr<Pool> pool, std::shared_ptr<KvCache> kv, int max_tokens,
       int max_seqs, int max_context);
  ~Plan();

  // Building. A method returns an id if later calls need it.
  int weight(const PackedWeight& w);
  int constant(const float* data, int n);
  int buffer(int width);                      // [rows][width] floats
  int act(int K, int group, unsigned sides);  // quantised activations
  void embed(int weight, int out, float scale);
  void linear(int x, int act, int norm, float eps, const std::vector<Segment>& segments);  // norm: a constant, or -1
  void linear_dense(int x, const std::vector<Segment>& segments);
  // Normalises slices of `weight`'s length. residual: out += instead of out =.
  void rms_norm(int x, int width, int weight, float eps, int out, bool residual);
  void add(int x, int out);
  void gated(int gate, int up, int activation, int out);
  void rope_angles(int inv_freq, float scale, int out, int sinks_out);  // sinks_out: at sink_positions
  int middle_angles(int inv_freq, float scale);  // a constant: KeyOffset::angles, up to max_context
  void qkv(int q, int k, int v, int heads, int layer, int q_norm, int k_norm, float eps, int angles, int rope_dim,
           bool interleaved, const OffsetIds& offset, int q_sinks, int sink_angles);
  // q_sinks: the second queries of tokens whose sequences evict; -1: none are needed
  void attention(int q, int q_sinks, int out, int layer, const AttentionShape& shape, const OffsetIds& offset);
  int logit_rows(int x);  // begins the head; returns the buffer of the gathered rows
  void logits(int buffer, int vocab, float softcap);
  void hidden(int buffer, int norm, float eps);  // the norm that gives final hidden states from gathered rows

  void run(const Step& step);

  // Seconds of each operation in the steps since profile(true). Decoding steps (one token per sequence) and other steps
  // are counted separately.
  using Profile = std::map<std::string, double>;
  void profile(bool on);
  const Profile& profiled(bool decoding) const { return profiles_[decoding]; }

  size_t scratch_bytes() const { return scratch_bytes_; }
  // The number of operations in the trunk that a step of that many tokens waits for, one after the other.
  int barriers(int tokens) const;
  StepLimits limits() const;
  int max_tokens() const { return max_tokens_; }
  int max_seqs() const { return max_seqs_; }
  int vocab() const { return vocab_; }
  int hidden_size() const { return hidden_; }

  class Op;
  struct Context;

 private:
  friend struct Context;
  template <class T, class... Args>
  void push(Args&&... args);
  void run_section(const std::vector<std::unique_ptr<Op>>& list, Profile* profile);

  const KernelTable& kernels_;
  std::shared_ptr<Pool> pool_;
  std::shared_ptr<KvCache> kv_;
  int max_tokens_, max_seqs_, max_context_;
  std::vector<std::unique_ptr<Op>> trunk_, head_;
  bool in_head_ = false;
  size_t scratch_bytes_ = 0;
  int embeddings_ = 0, vocab_ = 0, hidden_ = 0;
  bool bound_positions_ = false;
  size_t partial_bytes_ = 0;
  std::unique_ptr<Memory> partials_;
  std::unique_ptr<Context> context_;
  bool profiling_ = false;
  Profile profiles_[2];
};

}  // namespace octavo
