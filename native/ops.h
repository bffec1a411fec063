// The operations of a step plan. Each is cut into units (tokens, activation tiles, panels, attention items) that
// threads claim; what a unit computes depends on nothing but its inputs.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "act_buffer.h"
#include "attention_work.h"
#include "pack.h"
#include "plan.h"

namespace octavo {

struct Buffer {
  float* data;
  int width;
  float* row(int i) const { return data + size_t(i) * size_t(width); }
};

struct Plan::Context {
  Context(const KernelTable& kernels, KvCache& kv) : kernels(kernels), kv(kv) {}

  const KernelTable& kernels;
  KvCache& kv;
  std::vector<PackedWeight> weights;
  std::vector<std::vector<float>> constants;
  std::vector<Buffer> buffers;
  std::vector<ActBuffer> acts;
  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<AttentionShape> shapes;  // the distinct ones; works[i] belongs to shapes[i]
  std::vector<AttentionWork> works;
  float* partials = nullptr;
  std::vector<std::vector<float>> scratch;  // one a thread
  struct alignas(64) Own {                  // a thread's own activations, of the product it last took part in
    std::vector<ActBuffer> acts;
    const void* prepared = nullptr;
    uint64_t round = 0;
    std::vector<Peak> peaks;  // of the logits that this thread made, one a row of the head
    uint64_t peaks_round = 0;
  };
  std::vector<Own> own;

  // The step being run.
  const Step* step = nullptr;
  int rows = 0;         // rows of the section: the step's tokens, or the logit rows of this round of the head
  int row0 = 0;         // first logit row of this round
  bool argmax = false;  // nobody wants more of the logits than each row's largest: they are not stored
  uint64_t round = 0;   // counts sections run: an operation runs once in each

  const StepView& view() const { return step->view; }
  const float* constant(int id) const { return id < 0 ? nullptr : constants[size_t(id)].data(); }
  Buffer& buffer(int id) { return buffers[size_t(id)]; }
};

class Plan::Op {
 public:
  virtual ~Op() = default;
  virtual int units(const Context& c) const { return c.rows; }
  virtual void run(Context& c, int begin, int end, int thread) const = 0;
  virtual std::string name(Context&) const = 0;  // for profiles: operations of one name are counted as one
};

namespace ops {

using Op = Plan::Op;
using Context = Plan::Context;

struct Embed final : Op {
  int weight, out;
  float scale;
  Embed(int weight, int out, float scale) : weight(weight), out(out), scale(scale) {}
  std::string name(Context&) const override { return "embed"; }
  void run(Context& c, int begin, int end, int) const override {
    const PackedWeight& w = c.weights[size_t(weight)];
    for (int t = begin; t < end; ++t) {
      const int id = c.view().token_ids[t];
      float* y = c.buffer(out).row(t);
      unpack_row(w.format, w.panel(id / kPanel), id % kPanel, w.K, y);
      if (scale != 1.0f)
        for (int k = 0; k < w.K; ++k) y[k] *= scale;
    }
  }
};

// Rows to int8 activations, normalised first where a norm is given. Rows that fit one tile are not worth a barrier:
// each thread that takes part in the product quantises them for itself (Linear::activations), and this operation has no
// units.
struct Quantize final : Op {
  int x, act, norm;
  float eps;
  Quantize(int x, int act, int norm, float eps) : x(x), act(act), norm(norm), eps(eps) {}
  std::string name(Context&) const override { return norm < 0 ? "quantise" : "norm + quantise"; }
  int units(const Context& c) const override {
    const int tiles = ActBuffer::tiles(c.rows, c.kernels.max_tile);
    return tiles == 1 ? 0 : tiles;
  }
  void run(Context& c, int begin, int end, int thread) const override {
    for (int i = begin; i < end; ++i) tile(c, c.acts[size_t(act)], i, thread);
  }
  void tile(Context& c, const ActBuffer& a, int i, int thread) const {
    const Buffer& from = c.buffer(x);
    c.kernels.quantize(from.data, size_t(from.width), c.constant(norm), eps, a.args,
                       a.tile(c.rows, c.kernels.max_tile, i), c.scratch[size_t(thread)].data());
  }
};

// One panel of one segment times all rows is a unit. The products land in a small buffer, where the epilogue (gate,
// bias, residual) meets them in cache.
struct Linear final : Op {
  const Quantize* quantize;  // what made the activations; null: dense weights
  int x;                     // the input's buffer
  std::vector<Segment> segments;
  std::vector<int> first;  // first panel of each segment; the last entry is their total
  bool logits = false;     // of the language-model head
  float softcap = 0;       // of the logits
  Linear(const Context& c, const Quantize* quantize, int x, std::vector<Segment> list)
      : quantize(quantize), x(x), segments(std::move(list)), first{0} {
    for (const Segment& s : segments) first.push_back(first.back() + c.weights[size_t(s.weight)].panels());
  }
  std::string name(Context& c) const override {  // "product 576 -> 576 + 192 + 192 Q4_1"
    std::string to, kinds;
    for (const Segment& s : segments) {
      const PackedWeight& w = c.weights[size_t(s.weight)];
      to += (to.empty() ? "" : " + ") + std::string(s.up < 0 ? "" : "2 x ") + std::to_string(w.N);
      const std::string kind = kFormats[w.format].name;
      if (kinds.find(kind) == std::string::npos) kinds += " " + kind;
    }
    return "product " + std::to_string(c.weights[size_t(segments[0].weight)].K) + " -> " + to + kinds;
  }
  int units(const Context& c) const override { return c.rows ? first.back() : 0; }
  void run(Context& c, int begin, int end, int thread) const override {
    const ActBuffer* act = quantize ? &activations(c, thread) : nullptr;
    Peak* peaks = logits && c.argmax ? peaks_of(c, thread) : nullptr;
    const int tiles = ActBuffer::tiles(c.rows, c.kernels.max_tile);
    // Few rows wait for memory, so each thread reads on where its last claim ended.
    const int order = Pool::from_back(thread) && c.rows <= kFewRows ? -1 : 1;
    size_t s = 0;
    for (int u = order > 0 ? begin : end - 1; begin <= u && u < end; u += order) {
      while (u >= first[s + 1]) ++s;
      while (u < first[s]) --s;
      const int p = u - first[s];
      for (int i = 0; i < tiles; ++i) panel_by_tile(c, act, segments[s], p, order, i, peaks);
    }
  }

 private:
  const ActBuffer& activations(Context& c, int thread) const {
    if (quantize->units(c) > 0) return c.acts[size_t(quantize->act)];
    Context::Own& own = c.own[size_t(thread)];
    const ActBuffer& act = own.acts[size_t(quantize->act)];
    if (own.prepared != this || own.round != c.round) {
      quantize->tile(c, act, 0, thread);
      own.prepared = this;
      own.round = c.round;
    }
    return act;
  }
  static Peak* peaks_of(Context& c, int thread) {
    Context::Own& own = c.own[size_t(thread)];
    if (own.peaks_round != c.round) {
      own.peaks.assign(Plan::kHeadRows, Peak{});
      own.peaks_round = c.round;
    }
    return own.peaks.data();
  }
  void multiply(Context& c, const ActBuffer* act, int weight, int p, int order, const ActTile& tile, float* y) const {
    const PackedWeight& w = c.weights[size_t(weight)];
    if (act) {
      const Upcoming next{tile.t0 == 0 ? w.panel(p + order) : nullptr, order * ptrdiff_t(w.panel_stride)};
      c.kernels.tiles[w.format][tile.n - 1](w.panel(p), next, tile, w.K, y);
    } else {
      const Buffer& from = c.buffer(x);
      c.kernels.dense[w.format - kNumQuantised](w.panel(p), from.row(tile.t0), size_t(from.width), tile.n, w.K, y);
    }
  }
  void panel_by_tile(Context& c, const ActBuffer* act, const Segment& s, int p, int order, int i, Peak* peaks) const {
    const ActTile tile = act ? act->tile(c.rows, c.kernels.max_tile, i) : dense_tile(c, i);
    alignas(64) float y[kMaxTile * kPanel], up[kMaxTile * kPanel];
    multiply(c, act, s.weight, p, order, tile, y);
    if (s.up >= 0) {
      multiply(c, act, s.up, p, order, tile, up);
      c.kernels.gated(y, up, s.activation, tile.n * kPanel, y);
    }
    const PackedWeight& w = c.weights[size_t(s.weight)];
    const Buffer& out = c.buffer(s.out);
    const float* bias = c.constant(s.bias);
    const int row0 = p * kPanel, n = std::min(kPanel, w.N - row0);
    for (int t = 0; t < tile.n; ++t) {
      float* from = y + t * kPanel;
      float* to = out.row(tile.t0 + t) + row0;
      if (bias)
        for (int r = 0; r < n; ++r) from[r] += bias[row0 + r];
      if (softcap > 0) c.kernels.softcap(from, softcap, n);
      if (peaks) continue;
      if (s.residual) {
        for (int r = 0; r < n; ++r) to[r] += from[r];
      } else {
        std::memcpy(to, from, size_t(n) * sizeof(float));
      }
    }
    if (peaks) c.kernels.peaks(y, tile.n, n, row0, peaks + tile.t0);
  }
  static ActTile dense_tile(const Context& c, int i) {
    ActTile tile;
    tile.t0 = i * c.kernels.max_tile;
    tile.n = std::min(c.kernels.max_tile, c.rows - tile.t0);
    return tile;
  }
};

struct RmsNorm final : Op {
  int x, width, weight;
  float eps;
  int out;
  bool residual;
  RmsNorm(int x, int width, int weight, float eps, int out, bool residual)
      : x(x), width(width), weight(weight), eps(eps), out(out), residual(residual) {}
  std::string name(Context&) const override { return residual ? "norm + add" : "norm"; }
  void run(Context& c, int begin, int end, int thread) const override {
    const std::vector<float>& w = c.constants[size_t(weight)];
    const int n = int(w.size());
    for (int t = begin; t < end; ++t)
      for (int k = 0; k < width; k += n) {
        float* y = c.buffer(out).row(t) + k;
        float* target = residual ? c.scratch[size_t(thread)].data() : y;
        c.kernels.rms_norm(c.buffer(x).row(t) + k, w.data(), eps, n, target);
        if (residual) c.kernels.add(target, y, n);
      }
  }
};

struct Add final : Op {
  int x, out;
  Add(int x, int out) : x(x), out(out) {}
  std::string name(Context&) const override { return "add"; }
  void run(Context& c, int begin, int end, int) const override {
    for (int t = begin; t < end; ++t) c.kernels.add(c.buffer(x).row(t), c.buffer(out).row(t), c.buffer(out).width);
  }
};

struct Gated final : Op {
  int gate, up, activation, out;
  Gated(int gate, int up, int activation, int out) : gate(gate), up(up), activation(activation), out(out) {}
  std::string name(Context&) const override { return "gate"; }
  void run(Context& c, int begin, int end, int) const override {
    for (int t = begin; t < end; ++t)
      c.kernels.gated(c.buffer(gate).row(t), c.buffer(up).row(t), activation, c.buffer(out).width,
                      c.buffer(out).row(t));
  }
};

struct RopeAngles final : Op {
  int inv_freq;
  float scale;
  int out;
  RopeAngles(int inv_freq, float scale, int out) : inv_freq(inv_freq), scale(scale), out(out) {}
  std::string name(Context&) const override { return "rotation angles"; }
  void run(Context& c, int begin, int end, int) const override {
    const std::vector<float>& f = c.constants[size_t(inv_freq)];
    for (int t = begin; t < end; ++t)
      c.kernels.rope_angles(f.data(), int(f.size()), scale, c.view().positions[t], c.buffer(out).row(t));
  }
};

struct Qkv final : Op {
  int q, k, v, heads, layer, q_norm, k_norm;
  float eps;
  int angles, rope_dim;
  bool interleaved;
  Qkv(int q, int k, int v, int heads, int layer, int q_norm, int k_norm, float eps, int angles, int rope_dim,
      bool interleaved)
      : q(q),
        k(k),
        v(v),
        heads(heads),
        layer(layer),
        q_norm(q_norm),
        k_norm(k_norm),
        eps(eps),
        angles(angles),
        rope_dim(rope_dim),
        interleaved(interleaved) {}
  std::string name(Context&) const override { return "rotate + cache write"; }
  void run(Context& c, int begin, int end, int) const override {
    const KvLayer& kv = c.kv.layer(layer);
    const Buffer &bq = c.buffer(q), &bk = c.buffer(k), &bv = c.buffer(v);
    const QkvArgs args{&c.view(),
                       bq.data,
                       bk.data,
                       bv.data,
                       size_t(bq.width),
                       size_t(bk.width),
                       size_t(bv.width),
                       heads,
                       kv.kv_heads,
                       kv.head_dim,
                       c.constant(q_norm),
                       c.constant(k_norm),
                       eps,
                       angles < 0 ? nullptr : c.buffer(angles).data,
                       rope_dim,
                       interleaved,
                       kv};
    for (int t = begin; t < end; ++t) c.kernels.qkv(args, t);
  }
};

struct Attention final : Op {
  int q, out, layer;
  size_t shape;
  bool merge;
  Attention(int q, int out, int layer, size_t shape, bool merge)
      : q(q), out(out), layer(layer), shape(shape), merge(merge) {}
  std::string name(Context&) const override { return merge ? "attention merge" : "attention"; }
  int units(const Context& c) const override { return merge ? c.works[shape].num_merges : c.works[shape].num_items; }
  void run(Context& c, int begin, int end, int) const override {
    const Buffer &bq = c.buffer(q), &bo = c.buffer(out);
    const AttentionWork& work = c.works[shape];
    const AttentionArgs args{&c.view(), c.shapes[shape],  c.kv.layer(layer), bq.data,     size_t(bq.width),
                             bo.data,   size_t(bo.width), c.partials,        work.queries};
    for (int i = begin; i < end; ++i) {
      if (merge) {
        c.kernels.attention_merge(args, work.merges[i]);
      } else {
        c.kernels.attention(args, work.items[i], i + 1 < end ? &work.items[i + 1] : nullptr);
      }
    }
  }
};

struct Gather final : Op {
  int x, out;
  Gather(int x, int out) : x(x), out(out) {}
  std::string name(Context&) const override { return "gather"; }
  void run(Context& c, int begin, int end, int) const override {
    for (int r = begin; r < end; ++r) {
      const float* from = c.buffer(x).row(c.view().logit_rows[c.row0 + r]);
      std::memcpy(c.buffer(out).row(r), from, size_t(c.buffer(out).width) * sizeof(float));
    }
  }
};

struct Hidden final : Op {
  int x, norm;
  float eps;
  Hidden(int x, int norm, float eps) : x(x), norm(norm), eps(eps) {}
  std::string name(Context&) const override { return "hidden states"; }
  int units(const Context& c) const override { return c.step->out.hidden ? c.rows : 0; }
  void run(Context& c, int begin, int end, int) const override {
    const int n = c.buffer(x).width;
    for (int r = begin; r < end; ++r)
      c.kernels.rms_norm(c.buffer(x).row(r), c.constant(norm), eps, n,
                         c.step->out.hidden + size_t(c.row0 + r) * size_t(n));
  }
};

struct Sample final : Op {
  int logits, vocab;
  Sample(int logits, int vocab) : logits(logits), vocab(vocab) {}
  std::string name(Context&) const override { return "sample"; }
  void run(Context& c, int begin, int end, int thread) const override {
    if (c.argmax) return choose(c, begin, end);
    const StepOutputs& out = c.step->out;
    const SampleArgs args{c.step->sampling, vocab, out.num_top, out.logprobs != nullptr};
    for (int r = begin; r < end; ++r) {
      float* row = c.buffer(logits).row(r);
      const size_t at = size_t(c.row0 + r), top = at * size_t(out.num_top);
      if (out.logits) std::memcpy(out.logits + at * size_t(vocab), row, size_t(vocab) * sizeof(float));
      const SampleOut one{out.tokens + at,
                          out.finite + at,
                          out.logprobs ? out.logprobs + at : nullptr,
                          out.ranks ? out.ranks + at : nullptr,
                          out.top_ids ? out.top_ids + top : nullptr,
                          out.top_logprobs ? out.top_logprobs + top : nullptr};
      c.kernels.sample(args, int(at), row, c.step->targets ? c.step->targets[at] : -1, c.scratch[size_t(thread)].data(),
                       one);
    }
  }

 private:
  // The largest of each row's logits, of those that each thread saw.
  static void choose(Context& c, int begin, int end) {
    for (int r = begin; r < end; ++r) {
      Peak peak;
      for (const Context::Own& own : c.own) {
        if (own.peaks_round != c.round) continue;
        const Peak& p = own.peaks[size_t(r)];
        peak.nan |= p.nan;
        take(peak, p.value, p.index);
      }
      const size_t at = size_t(c.row0 + r);
      const int32_t target = c.step->targets ? c.step->targets[at] : -1;
      c.step->out.tokens[at] = target >= 0 ? target : is_finite(peak) ? peak.index : 0;
      c.step->out.finite[at] = is_finite(peak);
    }
  }
};

}  // namespace ops
}  // namespace octavo
