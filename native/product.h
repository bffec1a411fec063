// Matmuls with weights, and the quantised activations that they share.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "op.h"

namespace octavo::ops {

// Quantises rows to int8 activations, after RMS norm if a norm is given. Rows that fit one tile are not worth a
// barrier: then this operation has no units, and each thread that takes part in the matmul quantises them for itself
// (Linear::activations).
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

// A unit is one panel of one segment times all rows. The sums go to a small buffer, so that the epilogue (gate, bias,
// softcap, residual) finds them in cache.
struct Linear final : Op {
  const Quantize* quantize;  // the operation that quantises the input; null: dense weights
  int x;                     // the input's buffer
  std::vector<Segment> segments;
  std::vector<int> first;  // first panel of each segment; the last entry is their total
  bool logits = false;     // true for the language-model head
  float softcap = 0;       // of the logits
  Linear(const Context& c, const Quantize* quantize, int x, std::vector<Segment> list)
      : quantize(quantize), x(x), segments(std::move(list)), first{0} {
    for (const Segment& s : segments) first.push_back(first.back() + c.weights[size_t(s.weight)].panels());
  }
  std::string name(Context& c) const override {  // "matmul 576 -> 576 + 192 + 192 Q4_1"
    std::string to, kinds;
    for (const Segment& s : segments) {
      const PackedWeight& w = c.weights[size_t(s.weight)];
      to += (to.empty() ? "" : " + ") + std::string(s.up < 0 ? "" : "2 x ") + std::to_string(w.N);
      const std::string kind = kFormats[w.format].name;
      if (kinds.find(kind) == std::string::npos) kinds += " " + kind;
    }
    return "matmul " + std::to_string(c.weights[size_t(segments[0].weight)].K) + " -> " + to + kinds;
  }
  int units(const Context& c) const override { return c.rows ? first.back() : 0; }
  void run(Context& c, int begin, int end, int thread) const override {
    const ActBuffer* act = quantize ? &activations(c, thread) : nullptr;
    Peak* peaks = logits && c.argmax ? peaks_of(c, thread) : nullptr;
    const int tiles = ActBuffer::tiles(c.rows, c.kernels.max_tile);
    const bool wide = act && c.rows >= c.kernels.wide_tile;
    if (wide) c.kernels.begin_wide(act->args.group);
    // Activations of many rows come from a far cache, so each tile of them is used for several panels in turn.
    const PackedWeight& w0 = c.weights[size_t(segments[0].weight)];
    const bool far = act && size_t(c.rows) * size_t(w0.K) > kNearBytes;
    const int block = far ? std::clamp(int(kNearBytes / w0.panel_stride), 1, kPanelsOfATile) : 1;
    // With few rows the matmul is memory-bound, so each thread continues reading where its last claim ended.
    const int order = Pool::from_back(thread) && c.rows <= kFewRows ? -1 : 1;
    size_t s = 0;
    for (int from = begin; from < end; from += block) {
      for (int i = 0; i < tiles; ++i) {
        for (int at = from; at < std::min(from + block, end); ++at) {
          const int u = order > 0 ? at : begin + end - 1 - at;
          while (u >= first[s + 1]) ++s;
          while (u < first[s]) --s;
          panel_by_tile(c, act, segments[s], u - first[s], order, i, peaks);
        }
      }
    }
  }

 private:
  static constexpr int kPanelsOfATile = 8;
  static constexpr size_t kNearBytes = size_t(192) << 10;
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

}  // namespace octavo::ops
