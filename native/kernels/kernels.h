// The inputs of kernels, and the table of kernels that each instruction set fills in.
//
// Every .inc file in this folder is compiled once for each instruction set (isa_*.cpp), in that set's namespace, on top
// of the 16-lane vectors of simd/vec.h. A kernel works on one *unit* of an operation: a token, a panel or an attention
// item. The plan spreads units over threads. No kernel allocates memory. A unit's result depends only on its request,
// never on which other units run.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace octavo {

// One step's inputs; see Batch in src/octavo/types.py.
struct StepView {
  int tokens = 0, seqs = 0, rows = 0, table_width = 0;
  const int32_t* token_ids = nullptr;       // [tokens]
  const int32_t* positions = nullptr;       // [tokens]
  const int32_t* slots = nullptr;           // [tokens]
  const int32_t* query_starts = nullptr;    // [seqs + 1]
  const int32_t* context_lens = nullptr;    // [seqs]
  const int32_t* block_tables = nullptr;    // [seqs, table_width]
  const int32_t* logit_rows = nullptr;      // [rows]
  const int32_t* parents = nullptr;         // [tokens], or null: no draft trees
  const int32_t* sinks = nullptr;           // [seqs], or null: no sequence evicts
  const int32_t* windows = nullptr;         // [seqs]
  const int32_t* sink_positions = nullptr;  // [tokens]; -1: its sequence does not evict
};

// ---------------------------------------------------------------- KV cache
// One layer's part of the pool. A block holds K, then V, then what quantised types need to decode them. In each, the
// outermost index is the kv head. P values of the index that is summed over lie side by side, as dot-product
// instructions need them: 1 value for f32, 2 for bf16, 4 for int8.
//   K: [kv_heads][head_dim / P][block_size][P]   (lanes are tokens: q . k needs no horizontal sum)
//   V: [kv_heads][block_size / P][head_dim][P]   (lanes are dims)
//   int8: k_scale, v_scale: f32 [kv_heads][block_size], value = scale * code
//   k8v4: K and k_scale as int8. V has 4-bit codes in groups of 32 dims: [kv_heads][block_size / 4][head_dim /
//   32][16][4]
//     bytes. Byte i of a group has dim i in its low half, dim i + 16 in its high half. Of each group a scale and a
//     minimum: f16 [kv_heads][head_dim / 32][2][block_size], value = minimum + scale * code
// block_size and head_dim are multiples of 16, head_dim of 32 for k8v4.
// Quantised types hold keys and values in the rotated form of rotation.inc, if head_dim is a power of two.
enum class KvType : int { F32 = 0, BF16 = 1, INT8 = 2, K8V4 = 3 };
constexpr int kNumKvTypes = 4;
constexpr int kValueGroup = 32;  // dims of a k8v4 value that share a scale and a minimum
constexpr bool is_quantised(KvType type) { return type >= KvType::INT8; }

struct KvLayer {
  uint8_t* base = nullptr;  // block b starts at base + b * block_bytes; other layers may lie in between
  size_t block_bytes = 0, v_offset = 0, k_scale_offset = 0, v_scale_offset = 0;
  KvType type = KvType::BF16;
  bool rotated = false;
  int kv_heads = 0, head_dim = 0, block_size = 16;
};

// What quantised keys of a k projection with a bias are stored less: see rotation.inc.
constexpr int kOffsetKeys = 16;  // positions that share an offset
struct KeyOffset {
  const float* bias = nullptr;    // [kv_heads][head_dim]; null: no offset
  const float* angles = nullptr;  // [positions / 16][rope_dim]: cosines and sines of each 16 positions' middle
  int rope_dim = 0;
  bool interleaved = false;
};

// ---------------------------------------------------------------- attention
struct AttentionShape {
  int heads, kv_heads, head_dim;
  int window;  // 0: none
  float scale, softcap;
};

constexpr int kMaxHeadDim = 512;
// Positions of a split. Each split has its own softmax sums; these are then folded in order.
constexpr int kSplit = 512;
// (token, head) rows of an item's tile. The register tiles of 2, 5 and 6 rows divide it. NEON's register tiles of 4
// rows leave 2 rows, which for_rows handles like any remainder.
constexpr int kTileRows = 30;
constexpr int kPartialHead = 2;  // a row of the scratch: m and l, then head_dim sums

// A query token. Its keys at positions below `straight` are stored at these positions in its sequence's blocks. These
// are all its keys, except for a node of a draft tree: its ancestors' keys come after them, in order of position, but
// each is stored at the place of its row.
struct QueryRow {
  int32_t token;  // row of the batch
  int32_t seq;
  int32_t position;  // its own, the last one that it sees; windows are counted in positions
  int32_t straight;
  int32_t partial;  // its first row in the scratch, if its sequence is cut: `heads` rows for each split that it sees
  int32_t first;    // the first key that it sees, apart from sinks
  int32_t
      sinks;  // it also sees the keys before this position, with its second query. They are a split before all others
};

// Queries q0 .. q0 + n of AttentionWork::queries, with all query heads of one kv head, over the keys of splits split0
// .. split1. The keys are read from the blocks of sequence `seq`; queries of other sequences have the same blocks
// there. whole: the queries see no other splits, and the result goes to the output. Otherwise the sums of each split go
// to the scratch, for attention_merge. sinks: also over the sinks, as the first split.
struct AttentionItem {
  int32_t seq, kv_head, q0, n, split0, split1;
  bool whole, sinks;
};

// What a sequence keeps of its keys (src/octavo/kv/eviction.py): those before position `sinks`, and recent ones. The
// key at position p >= sinks is entry p - gap of the block table: whole blocks between the two are gone.
struct Eviction {
  int sinks = 0, window = 0, gap = 0;  // sinks 0: nothing is evicted
};
constexpr int kEvictionUnit = 16;  // tokens by which the recent ones move on

static inline Eviction eviction_of(const StepView& step, int seq) {
  if (!step.sinks || !step.sinks[seq]) return {};
  const int first = step.query_starts[seq], entry = step.context_lens[seq] - (step.query_starts[seq + 1] - first);
  return {step.sinks[seq], step.windows[seq], step.positions[first] - entry};
}
static inline int first_recent(int position, int window) {
  const int unit = position / kEvictionUnit - window / kEvictionUnit;
  return unit > 0 ? unit * kEvictionUnit : 0;
}

// The place of query token `token` among its sequence's keys, counted in tokens. Dropped keys count.
static inline int stored_position(const StepView& step, int seq, int token) {
  return step.context_lens[seq] - step.query_starts[seq + 1] + token + eviction_of(step, seq).gap;
}
static inline int first_visible(int position, int window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}
// The first key that a query sees, apart from sinks. A layer with a window has no sinks.
static inline int first_visible(int position, int window, const Eviction& eviction) {
  const int own = first_visible(position, window);
  if (!eviction.sinks) return own;
  const int least = window > 0 ? own : eviction.sinks, recent = first_recent(position, eviction.window);
  return recent > least ? recent : least;
}

struct AttentionArgs {
  const StepView* step;
  AttentionShape shape;
  KvLayer kv;
  const float* q;  // [tokens][ldq]: head h at h * head_dim
  size_t ldq;
  float* out;  // [tokens][ldo]
  size_t ldo;
  float* partials;  // scratch; attention_partial_floats (attention_work.h) gives its size
  const QueryRow* queries;
  KeyOffset offset;
  const float* q_sinks;  // as q, rotated to see the sinks; null where no sequence evicts, or the layer has a window
};

// A sequence's queries in AttentionWork::queries, and the splits that at least one of them sees.
struct QuerySpan {
  int32_t seq, q0, n, split0, split1, straight;
  bool cut;  // along its keys, into items of one split each
  bool evicts;
  bool sinks;  // evicts, in a layer without a window
};

// What a layer keeps of a prompt, whose last tokens are the step. See Compaction in src/octavo/types.py.
struct SnapArgs {
  const StepView* step;  // of one sequence
  AttentionShape shape;
  KvLayer kv;
  float* q;  // rotated in place for a rotated cache
  size_t ldq;
  const int32_t* targets;
  int keep, pool;
};
// Floats of scratch for one KV head.
static inline size_t snap_floats(int queries, int context, const AttentionShape& shape) {
  return size_t(queries) * size_t(shape.heads / shape.kv_heads) * 32 + 2 * (size_t(context) + 16);
}
constexpr int kMostSnapQueries = 64;

struct AttentionWork {  // one step's items, for all layers of one shape; attention_work.h builds it
  AttentionItem* items = nullptr;
  int num_items = 0;
  AttentionItem* sorted = nullptr;  // scratch for sorting the items
  AttentionItem* merges = nullptr;  // run after all items: one for each kv head of each sequence that was cut
  int num_merges = 0;
  QueryRow* queries = nullptr;  // [tokens]; sequences with a common prefix are neighbours
  QuerySpan* spans = nullptr;   // [seqs], in the same order
};

// ---------------------------------------------------------------- query, key, value preparation
// For token t: RMS norm of each q and k head (optional), then rotary embedding of q and k (optional), in place for q.
// Then k and v are written to the cache at the token's slot; a quantised cache stores them as rotation.inc says.
struct QkvArgs {
  const StepView* step;
  float* q;
  const float* k;
  const float* v;
  size_t ldq, ldk, ldv;
  int heads, kv_heads, head_dim;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  float eps;
  const float* cos_sin;  // [tokens][rope_dim]: rope_dim / 2 cosines, then rope_dim / 2 sines; null: no rotation
  int rope_dim;
  bool interleaved;
  KvLayer kv;
  KeyOffset offset;
  float* q_sinks = nullptr;             // as q, for the tokens with sink_positions; null: not wanted
  const float* sink_cos_sin = nullptr;  // as cos_sin, at their sink_positions
};

// ---------------------------------------------------------------- sampling
// Mirrors SamplingArrays in src/octavo/types.py; the readable twin is src/octavo/sampling/rules.py.
struct SamplingView {
  const float *temperature, *top_p, *min_p, *typical_p, *repetition, *presence, *frequency;
  const int32_t* top_k;
  const uint64_t* seeds;
  const int64_t* positions;
  const int32_t *penalty_starts, *penalty_tokens, *penalty_counts;
  const int32_t *bias_starts, *bias_tokens;
  const float* bias_values;
  const int32_t* mask_rows;
  const uint32_t* masks;
  int mask_words;
};

struct SampleOut {  // one row's results; null = not wanted
  int32_t* token;
  uint8_t* finite;
  float* logprob;
  int32_t* rank;
  int32_t* top_ids;
  float* top_logprobs;
};

// The largest logit of a row, or of those seen so far. Of equal logits the one with the lowest index counts, in
// whatever order they are seen.
struct Peak {
  float value = -__builtin_inff();
  int32_t index = 0x7fffffff;
  bool nan = false;
};
static inline bool is_finite(const Peak& p) {
  return !p.nan && p.value > -__builtin_inff() && p.value < __builtin_inff();
}
static inline void take(Peak& p, float value, int32_t index) {
  if (value > p.value || (value == p.value && index < p.index)) p.value = value, p.index = index;
}

struct SampleArgs {
  const SamplingView* sampling;
  int vocab;
  int num_top;
  bool want_logprob;
};

// ---------------------------------------------------------------- quantised activations
// T tokens are cut into tiles of at most kMaxTile tokens. A tile's codes are [K / run][n][run] int8 (code_run gives
// run). Value = scale[k / group][token] * code. K is padded with zeros to a whole group.
struct ActTile {
  int t0 = 0, n = 0;
  int8_t* codes = nullptr;
  float* scale = nullptr;         // [K / group][n]
  int32_t* side[kNumSides] = {};  // [K / k_value][n]: sums of codes, in the forms that weight formats need (formats.h)
};

struct ActArgs {
  int K, padded, group;  // padded: K rounded up to whole groups and superblocks
  unsigned sides;        // bit s: side s is wanted
};

// Up to this many rows a matmul is memory-bound; beyond, compute-bound.
constexpr int kFewRows = 2;

// The panels that the thread will read after this one, for prefetching. The next one is at `panel` (null: prefetch
// nothing), each further one `stride` bytes from the one before.
struct Upcoming {
  const uint8_t* panel = nullptr;
  ptrdiff_t stride = 0;
};
using TileFn = void (*)(const uint8_t* panel, Upcoming, const ActTile& x, int K, float* y /* [n][16] */);
using DenseTileFn = void (*)(const uint8_t* panel, const float* x, size_t ldx, int n, int K, float* y /* [n][16] */);

// ---------------------------------------------------------------- the machine's limits
struct LimitLoop {   // repeats one instruction
  const char* kind;  // "int8", "bf16", "f32", ...
  const char* instruction;
  double ops;  // operations of one round
  void (*run)(int rounds);
};
constexpr int kMaxLimits = 4;

struct KernelTable {
  const char* name;
  int max_tile;   // the most tokens of a tile on this instruction set
  int wide_tile;  // a tile of at least this many tokens is wide, see code_run
  // A thread calls this before it multiplies wide tiles whose scales cover `group` k each. Null where there are no wide
  // tiles.
  void (*begin_wide)(int group);
  // matmul.inc
  TileFn tiles[kNumQuantised][kMaxTile];  // [format][tokens - 1]
  DenseTileFn dense[3];                   // f32, f16, bf16
  // quantize.inc: quantises one tile of activations. With a norm, x * rsqrt(mean x^2 + eps) * norm is computed first.
  void (*quantize)(const float* x, size_t ldx, const float* norm, float eps, const ActArgs&, const ActTile&,
                   float* scratch);
  // elementwise.inc
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  void (*add)(const float* x, float* y, int n);                                          // y += x
  void (*gated)(const float* gate, const float* up, int activation, int n, float* out);  // 0 silu, 1 gelu_tanh
  void (*softcap)(float* x, float cap, int n);
  void (*rope_angles)(const float* inv_freq, int half, float scale, int32_t position, float* cos_sin);
  // qkv.inc
  void (*qkv)(const QkvArgs&, int token);
  // attention.inc
  void (*attention)(const AttentionArgs&, const AttentionItem&, const AttentionItem* next);
  void (*attention_merge)(const AttentionArgs&, const AttentionItem&);
  // snapkv.inc
  void (*snapkv)(const SnapArgs&, int kv_head, float* scratch);
  // sample.inc. peaks: updates each token's peak with n logits, those from index `first` on. sample: scratch holds
  // vocab * 3 floats.
  void (*peaks)(const float* y /* [tokens][16] */, int tokens, int n, int first, Peak*);
  void (*sample)(const SampleArgs&, int row, const float* logits, int32_t target, float* scratch, const SampleOut&);
  // limits.inc
  LimitLoop limits[kMaxLimits];
  int num_limits;
  uint64_t (*read)(const uint8_t* data, size_t bytes, int streams);  // reads every cache line
};

// All instruction sets that Octavo knows, best first. A build or a processor may lack some of them.
constexpr const char* kIsaNames[] = {"amx", "avx512", "avx2", "i8mm", "neon", "portable"};

// The number of one token's codes that lie side by side in a tile of n tokens. It is 4, so that one pointer with
// constant displacements reaches every token's 4-byte broadcast. In wide tiles it is 64, the k of a tile register.
static inline int code_run(const KernelTable& kernels, int n) { return n >= kernels.wide_tile ? 64 : 4; }
static constexpr size_t code_place(int run, int n, int token, int k) {
  return (size_t(k / run) * size_t(n) + size_t(token)) * size_t(run) + size_t(k % run);
}

// The kernels of an instruction set; null if this build or this processor lacks it.
const KernelTable* kernels(const char* isa);
}  // namespace octavo
