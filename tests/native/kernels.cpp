// Runs every kernel of every instruction set that this build and this processor have on made-up data, and prints one
// line for each: instruction set, what was run, and a hash of the result's bytes. scripts/test-arm compares the
// lines: they must be the same on x86 and ARM, in vectors and in plain C++.
#include "kernels/kernels.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "act_buffer.h"
#include "attention_work.h"
#include "kernels/kv_layout.h"
#include "memory.h"
#include "pack.h"

using namespace octavo;

namespace {

// ---------------------------------------------------------------- data and hashes
class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int below(int n) { return int(next() % uint64_t(n)); }
  float uniform() { return float(int64_t(next() >> 40)) * 0x1p-23f - 1.0f; }  // -1 .. 1
  float bell() { return uniform() + uniform() + uniform(); }
  std::vector<float> floats(size_t n, float scale = 1.0f) {
    std::vector<float> out(n);
    for (float& x : out) x = bell() * scale;
    return out;
  }
  std::vector<int32_t> ints(size_t n, int limit) {
    std::vector<int32_t> out(n);
    for (int32_t& x : out) x = below(limit);
    return out;
  }

 private:
  uint64_t state_;
};

class Hash {  // FNV-1a
 public:
  void add(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) value_ = (value_ ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  }
  template <class T>
  void add(const std::vector<T>& v) {
    add(v.data(), v.size() * sizeof(T));
  }
  // what-detail: names the result; two with the same name must be equal.
  void print(const KernelTable& k, const char* what, const std::string& detail) const {
    std::printf("%s %s-%s %016llx\n", k.name, what, detail.c_str(), static_cast<unsigned long long>(value_));
  }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

// ---------------------------------------------------------------- products
// Byte offsets of the f16 fields of a block (and of the upper half of an f32), -1 ends; random bytes there could be
// infinite.
struct Halves {
  int block_values, at[2];
};
constexpr Halves kHalves[kNumQuantised] = {{32, {0, -1}}, {32, {0, 2}},  {32, {0, -1}},    {32, {0, 2}},
                                           {32, {0, -1}}, {32, {0, -1}}, {256, {80, 82}},  {256, {108, -1}},
                                           {256, {0, 2}}, {256, {0, 2}}, {256, {208, -1}}, {256, {0, -1}},
                                           {32, {0, 2}},  {64, {0, 2}},  {128, {0, 2}},    {64, {2, -1}},
                                           {128, {2, -1}}};

std::vector<uint8_t> source_rows(Random& random, int format, int N, int K) {
  const size_t row = source_row_bytes(format, K);
  std::vector<uint8_t> out(size_t(N) * row);
  for (uint8_t& byte : out) byte = uint8_t(random.next());
  if (is_dense(format)) {  // exponents near 1
    const size_t width = row / size_t(K), top = format == kNumQuantised + 1 ? 0x3c : 0x3f;
    for (size_t i = width - 1; i < out.size(); i += width) out[i] = uint8_t((out[i] & 0x80) | top);
    return out;
  }
  const size_t block = source_row_bytes(format, kHalves[format].block_values);
  for (size_t b = 0; b < out.size(); b += block) {
    for (int at : kHalves[format].at) {  // 2^-6 .. 2^-2, either sign
      if (at >= 0) out[b + size_t(at) + 1] = uint8_t((out[b + size_t(at) + 1] & 0x83) | (0x24 + random.below(4) * 4));
    }
  }
  return out;
}

void product(const KernelTable& k, int format) {
  constexpr int N = 20, K = 768;
  Random random{uint64_t(format)};
  const std::vector<uint8_t> source = source_rows(random, format, N, K);
  const int panels = (N + kPanel - 1) / kPanel;
  const size_t stride = panel_bytes(format, K);
  Memory packed(size_t(panels) * stride);
  for (int p = 0; p < panels; ++p) pack_panel(format, source.data(), N, K, p, packed.data() + size_t(p) * stride);
  Hash hash;
  hash.add(packed.data(), packed.bytes());
  hash.print(k, "pack", kFormats[format].name);

  constexpr int T = 20;
  const std::vector<float> x = random.floats(T * K), norm = random.floats(K);
  std::vector<float> y(size_t(T) * size_t(panels * kPanel));
  for (int limit = 1; limit <= std::min(k.max_tile, T); ++limit) {  // the tile's size must not show
    Hash result;
    if (is_dense(format)) {
      for (int p = 0; p < panels; ++p) {
        for (int t0 = 0; t0 < T; t0 += limit) {
          const int n = std::min(limit, T - t0);
          std::vector<float> tile(size_t(n * kPanel));
          k.dense[format - kNumQuantised](packed.data() + size_t(p) * stride, x.data() + t0 * K, K, n, K, tile.data());
          std::copy(tile.begin(), tile.end(), y.begin() + (p * T + t0) * kPanel);
        }
      }
    } else {
      const ActLayout layout(T, K, act_group(kFormats[format]), 1u << side_of(kFormats[format]));
      Memory memory(layout.bytes);
      const ActBuffer act = ActLayout(layout).place(memory.data());
      std::vector<float> scratch(size_t(act.args.padded));
      for (int i = 0; i < ActBuffer::tiles(T, limit); ++i) {
        const ActTile tile = act.tile(T, limit, i);
        k.quantize(x.data(), K, norm.data(), 1e-5f, act.args, tile, scratch.data());
        if (k.begin_wide) k.begin_wide(act.args.group);
        for (int p = 0; p < panels; ++p) {
          const uint8_t* panel = packed.data() + size_t(p) * stride;
          k.tiles[format][tile.n - 1](panel, {}, tile, K, y.data() + (p * T + tile.t0) * kPanel);
        }
      }
    }
    result.add(y);
    result.print(k, "product", kFormats[format].name);
  }
}

// ---------------------------------------------------------------- norms, activations, rope
void elementwise(const KernelTable& k) {
  Random random{100};
  for (int n : {16, 64, 100, 576}) {
    const std::vector<float> x = random.floats(size_t(n), 3.0f), w = random.floats(size_t(n));
    std::vector<float> out(x), sum(w), capped(x), angles(2 * x.size());
    Hash norm, add, silu, gelu, cap, rope;
    k.rms_norm(x.data(), w.data(), 1e-6f, n, out.data()), norm.add(out);
    k.add(x.data(), sum.data(), n), add.add(sum);
    k.gated(x.data(), w.data(), 0, n, out.data()), silu.add(out);
    k.gated(x.data(), w.data(), 1, n, out.data()), gelu.add(out);
    k.softcap(capped.data(), 2.5f, n), cap.add(capped);
    k.rope_angles(w.data(), n, 1.5f, 4321, angles.data()), rope.add(angles);
    const std::string size = std::to_string(n);
    norm.print(k, "rms_norm", size), add.print(k, "add", size), silu.print(k, "silu", size),
        gelu.print(k, "gelu", size);
    cap.print(k, "softcap", size), rope.print(k, "angles", size);
  }
}

// ---------------------------------------------------------------- attention
struct Pool {  // one layer's KV pool
  KvLayer kv;
  Memory memory;
  Pool(int kv_heads, int head_dim, KvType type, int blocks)
      : kv(kv_geometry(kv_heads, head_dim, 16, type)), memory(kv.block_bytes * size_t(blocks)) {
    kv.base = memory.data();
  }
};

const char* name_of(KvType type) { return type == KvType::F32 ? "f32" : type == KvType::BF16 ? "bf16" : "int8"; }

// Three sequences: two share 512 tokens, one of them with a draft tree; a prefill of 20.
void attention(const KernelTable& k, KvType type, int heads, int kv_heads, int head_dim, int window, bool interleaved) {
  Random random{uint64_t(heads)};
  constexpr int kBlocks = 80, kWidth = 40;
  Pool pool(kv_heads, head_dim, type, kBlocks);
  const std::vector<int32_t> starts = {0, 1, 8, 28}, lens = {600, 543, 20};
  std::vector<int32_t> tables(3 * kWidth), parents(28, -1), slots(kBlocks * 16);
  for (int i = 0; i < kWidth; ++i)
    tables[size_t(i)] = (i * 7) % 40, tables[size_t(kWidth + i)] = i < 32 ? (i * 7) % 40 : 40 + i;
  for (int i = 0; i < 2; ++i) tables[size_t(2 * kWidth + i)] = 60 + i;
  const int32_t tree[] = {2, 2, 3, 4, 4};  // the root is row 2
  std::copy(std::begin(tree), std::end(tree), parents.begin() + 3);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = int32_t(i);

  StepView step;
  step.tokens = int(slots.size());
  step.slots = slots.data();
  const size_t width = size_t(kv_heads * head_dim), wide = size_t(heads * head_dim);
  std::vector<float> q = random.floats(slots.size() * wide, 2.0f);
  const std::vector<float> keys = random.floats(slots.size() * width), values = random.floats(slots.size() * width);
  const std::vector<float> norm = random.floats(size_t(head_dim)),
                           turn = random.floats(slots.size() * size_t(head_dim));
  const QkvArgs prepare{&step, q.data(),    keys.data(), values.data(), wide,        width,
                        width, heads,       kv_heads,    head_dim,      norm.data(), nullptr,
                        1e-6f, turn.data(), head_dim,    interleaved,   pool.kv};
  for (int t = 0; t < step.tokens; ++t) k.qkv(prepare, t);
  const std::string detail = std::string(name_of(type)) + "-" + std::to_string(head_dim);
  Hash written;
  written.add(q), written.add(pool.memory.data(), pool.memory.bytes());
  const std::string of = std::string("-") + name_of(type) + "-" + std::to_string(head_dim);
  written.print(k, "qkv", detail);

  step.tokens = 28, step.seqs = 3, step.table_width = kWidth;
  step.query_starts = starts.data(), step.context_lens = lens.data(), step.block_tables = tables.data();
  step.parents = parents.data();
  const AttentionShape shape{heads, kv_heads, head_dim, window, 0.11f, window ? 20.0f : 0.0f};
  Memory memory(attention_work_bytes(28, 3, kWidth * 16, shape));
  std::vector<float> partials(attention_partial_floats(28, 3, kWidth * 16, shape)), out(28 * wide);
  AttentionWork work;
  place_attention_work(work, memory.data(), 28, 3, kWidth * 16, shape);
  build_attention_work(step, 16, shape, work);
  const AttentionArgs args{&step, shape, pool.kv, q.data(), wide, out.data(), wide, partials.data(), work.queries};
  for (int i = 0; i < work.num_items; ++i) k.attention(args, work.items[i], i + 1 < work.num_items ? &work.items[i + 1] : nullptr);
  for (int i = 0; i < work.num_merges; ++i) k.attention_merge(args, work.merges[i]);
  Hash hash;
  hash.add(out);
  hash.print(k, "attention", detail);
}

// ---------------------------------------------------------------- sampling
void sampling(const KernelTable& k) {
  constexpr int kRows = 12, kVocab = 3000, kTop = 5;
  Random random{7};
  std::vector<float> temperature(kRows), top_p(kRows), min_p(kRows), typical(kRows), repetition(kRows), presence(kRows),
      frequency(kRows), bias(4 * kRows);
  std::vector<int32_t> top_k(kRows), starts(kRows + 1), counts = random.ints(4 * kRows, 3), mask_rows(kRows),
                                                        seen = random.ints(4 * kRows, kVocab),
                                                        biased = random.ints(4 * kRows, kVocab);
  std::vector<uint64_t> seeds(kRows);
  std::vector<int64_t> positions(kRows);
  std::vector<uint32_t> masks((kVocab + 31) / 32);
  for (size_t r = 0; r < kRows; ++r) {
    temperature[r] = r % 4 ? 0.4f + 0.2f * float(r) : 0.0f;
    top_k[r] = r % 3 ? 0 : 40;
    top_p[r] = r % 2 ? 0.9f : 1.0f;
    min_p[r] = r % 5 ? 0.0f : 0.02f;
    typical[r] = r == 7 ? 0.8f : 1.0f;
    repetition[r] = r > 6 ? 1.2f : 1.0f;
    presence[r] = frequency[r] = r > 8 ? 0.3f : 0.0f;
    mask_rows[r] = r == 10 ? 0 : -1;
    starts[r + 1] = int32_t(4 * (r + 1));
    seeds[r] = random.next();
    positions[r] = random.below(1000);
  }
  for (float& b : bias) b = random.bell();
  for (uint32_t& m : masks) m = uint32_t(random.next());
  const SamplingView view{temperature.data(), top_p.data(),     min_p.data(),  typical.data(),   repetition.data(),
                          presence.data(),    frequency.data(), top_k.data(),  seeds.data(),     positions.data(),
                          starts.data(),      seen.data(),      counts.data(), starts.data(),    biased.data(),
                          bias.data(),        mask_rows.data(), masks.data(),  int(masks.size())};
  const SampleArgs args{&view, kVocab, kTop, true};
  std::vector<float> scratch(3 * kVocab), tops(kTop);
  Hash hash;
  for (int r = 0; r < kRows; ++r) {
    const std::vector<float> logits = random.floats(kVocab, 3.0f);
    int32_t token = -1, rank = -1;
    uint8_t finite = 0;
    float logprob = 0;
    std::vector<int32_t> ids(kTop);
    k.sample(args, r, logits.data(), r == 5 ? 17 : -1, scratch.data(),
             {&token, &finite, &logprob, &rank, ids.data(), tops.data()});
    for (int32_t value : {token, rank, int32_t(finite)}) hash.add(&value, sizeof value);
    hash.add(&logprob, sizeof logprob), hash.add(ids), hash.add(tops);
  }
  hash.print(k, "sample", "rows");
}

}  // namespace

int main() {
  for (const char* isa : kIsaNames) {
    const KernelTable* k = kernels(isa);
    if (!k) continue;
    for (int format = 0; format < kNumFormats; ++format) product(*k, format);
    elementwise(*k);
    for (KvType type : {KvType::F32, KvType::BF16, KvType::INT8}) {
      attention(*k, type, 6, 2, 32, 0, false);
      attention(*k, type, 7, 1, 80, 100, true);
    }
    sampling(*k);
  }
}
