// The operations of a step plan, except matmuls (product.h).
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "op.h"
#include "pack.h"

namespace octavo {
namespace ops {

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
  int out, sinks_out;
  RopeAngles(int inv_freq, float scale, int out, int sinks_out)
      : inv_freq(inv_freq), scale(scale), out(out), sinks_out(sinks_out) {}
  std::string name(Context&) const override { return "rope angles"; }
  void run(Context& c, int begin, int end, int) const override {
    const std::vector<float>& f = c.constants[size_t(inv_freq)];
    const int32_t* far = c.view().sink_positions;
    for (int t = begin; t < end; ++t) {
      c.kernels.rope_angles(f.data(), int(f.size()), scale, c.view().positions[t], c.buffer(out).row(t));
      if (far && far[t] >= 0) c.kernels.rope_angles(f.data(), int(f.size()), scale, far[t], c.buffer(sinks_out).row(t));
    }
  }
};

inline KeyOffset key_offset(const Context& c, const OffsetIds& ids) {
  return {c.constant(ids.bias), c.constant(ids.angles), ids.rope_dim, ids.interleaved};
}

struct Qkv final : Op {
  int q, k, v, heads, layer, q_norm, k_norm;
  float eps;
  int angles, rope_dim;
  bool interleaved;
  OffsetIds offset;
  int q_sinks, sink_angles;
  Qkv(int q, int k, int v, int heads, int layer, int q_norm, int k_norm, float eps, int angles, int rope_dim,
      bool interleaved, const OffsetIds& offset, int q_sinks, int sink_angles)
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
        interleaved(interleaved),
        offset(offset),
        q_sinks(q_sinks),
        sink_angles(sink_angles) {}
  std::string name(Context&) const override { return "rope + cache write"; }
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
                       kv,
                       key_offset(c, offset),
                       q_sinks < 0 ? nullptr : c.buffer(q_sinks).data,
                       sink_angles < 0 ? nullptr : c.buffer(sink_angles).data};
    for (int t = begin; t < end; ++t) c.kernels.qkv(args, t);
  }
};

struct Attention final : Op {
  int q, q_sinks, out, layer;
  size_t shape;
  OffsetIds offset;
  bool merge;
  Attention(int q, int q_sinks, int out, int layer, size_t shape, const OffsetIds& offset, bool merge)
      : q(q), q_sinks(q_sinks), out(out), layer(layer), shape(shape), offset(offset), merge(merge) {}
  std::string name(Context&) const override { return merge ? "attention merge" : "attention"; }
  int units(const Context& c) const override { return merge ? c.works[shape].num_merges : c.works[shape].num_items; }
  void run(Context& c, int begin, int end, int) const override {
    const Buffer &bq = c.buffer(q), &bo = c.buffer(out);
    const AttentionWork& work = c.works[shape];
    const AttentionArgs args{&c.view(),
                             c.shapes[shape],
                             c.kv.layer(layer),
                             bq.data,
                             size_t(bq.width),
                             bo.data,
                             size_t(bo.width),
                             c.partials,
                             work.queries,
                             key_offset(c, offset),
                             q_sinks < 0 ? nullptr : c.buffer(q_sinks).data};
    for (int i = begin; i < end; ++i) {
      if (merge) {
        c.kernels.attention_merge(args, work.merges[i]);
      } else {
        c.kernels.attention(args, work.items[i], i + 1 < end ? &work.items[i + 1] : nullptr);
      }
    }
  }
};

struct SnapKv final : Op {
  int q, layer;
  size_t shape;
  SnapKv(int q, int layer, size_t shape) : q(q), layer(layer), shape(shape) {}
  std::string name(Context&) const override { return "snapkv"; }
  int units(const Context& c) const override { return c.step && c.step->compaction ? c.shapes[shape].kv_heads : 0; }
  void run(Context& c, int begin, int end, int thread) const override {
    const Compaction& wanted = *c.step->compaction;
    const Buffer& bq = c.buffer(q);
    const SnapArgs args{&c.view(),        c.shapes[shape], c.kv.layer(layer), bq.data,
                        size_t(bq.width), wanted.targets,  wanted.keep,       wanted.pool};
    auto& scratch = c.scratch[size_t(thread)];
    const size_t floats = snap_floats(c.view().tokens, c.view().context_lens[0], args.shape);
    if (scratch.size() < floats) scratch.resize(floats);
    for (int head = begin; head < end; ++head) c.kernels.snapkv(args, head, scratch.data());
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
  // Chooses the largest logit of each row from the peaks of all threads.
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
