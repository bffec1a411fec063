// Bindings of weights, cache, pool and plan. Arrays are numpy's. nanobind checks their type, rank and contiguity, this
// file their lengths, bounds.h what a step refers to.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "bind.h"
#include "pack.h"
#include "plan.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace octavo;

namespace {

int format_named(const std::string& type) {
  const int format = format_of(type.c_str());
  if (format < 0) throw std::invalid_argument("no packed format for type " + type);
  return format;
}

// A view of panels that are already packed, in a mapped file. Nothing is copied or written.
PackedWeight view(const std::string& type, const In<uint8_t>& data, int N, int K) {
  PackedWeight w{format_named(type), N, K, data.data(), 0};
  w.panel_stride = panel_bytes(w.format, K);
  require(N > 0 && K > 0 && data.size() >= size_t(w.panels()) * w.panel_stride, "the panels have the wrong size");
  require(reinterpret_cast<uintptr_t>(data.data()) % 64 == 0, "panels must begin at a multiple of 64 bytes");
  return w;
}

// All packed weights of a model, in one piece of memory that Python lays out.
struct Weights {
  explicit Weights(size_t bytes) : memory(bytes) {}
  Memory memory;

  PackedWeight pack(Pool& pool, const std::string& type, In<uint8_t> source, int N, int K, size_t offset) {
    PackedWeight w{format_named(type), N, K, memory.data() + offset, 0};
    w.panel_stride = panel_bytes(w.format, K);
    require(N > 0 && K > 0 && source.size() == size_t(N) * source_row_bytes(w.format, K),
            "the source has the wrong size");
    require(offset % 64 == 0 && offset + size_t(w.panels()) * w.panel_stride <= memory.bytes(),
            "the weight does not fit at this offset");
    const uint8_t* from = source.data();
    uint8_t* to = memory.data() + offset;
    nb::gil_scoped_release release;
    pool.parallel_for(w.panels(), [&](int begin, int end) {
      for (int p = begin; p < end; ++p) pack_panel(w.format, from, N, K, p, to + size_t(p) * w.panel_stride);
    });
    return w;
  }
};

// Does a types.Transfers. All indices are checked before anything is copied.
void transfer(KvCache& kv, const In<int32_t, 2>& moves, const In<int32_t, 2>& copies) {
  require(moves.shape(1) == 2 && copies.shape(1) == 2, "moves and copies are pairs");
  const int32_t *slots = moves.data(), *blocks = copies.data();
  const size_t num_moves = moves.shape(0), num_copies = copies.shape(0);
  check_values("moves", slots, 2 * num_moves, 0, kv.slots());
  check_values("copies", blocks, 2 * num_copies, 0, kv.num_blocks());
  nb::gil_scoped_release release;
  for (size_t i = 0; i < num_moves; ++i) kv.copy_slot(slots[2 * i], slots[2 * i + 1]);
  for (size_t i = 0; i < num_copies; ++i) kv.copy_block(blocks[2 * i], blocks[2 * i + 1]);
}

void run(Plan& plan, In<int32_t> token_ids, In<int32_t> positions, In<int32_t> slots, In<int32_t> query_starts,
         In<int32_t> context_lens, In<int32_t, 2> block_tables, In<int32_t> logit_rows, In<int32_t> targets,
         nb::object sampling, std::optional<In<int32_t>> parents, std::optional<In<int32_t>> sinks,
         std::optional<In<int32_t>> windows, std::optional<In<int32_t>> sink_positions, Out<int32_t> tokens,
         Out<uint8_t> finite, std::optional<Out<float>> logprobs, std::optional<Out<int32_t>> ranks,
         std::optional<Out<int32_t>> top_ids, std::optional<Out<float>> top_logprobs, int num_top,
         std::optional<Out<float>> logits, std::optional<Out<float>> hidden, std::optional<In<int32_t>> compact_to,
         int keep, int pool) {
  const size_t T = token_ids.size(), S = context_lens.size(), R = logit_rows.size();
  require(positions.size() == T && slots.size() == T, "token_ids, positions and slot_mapping differ in length");
  require(query_starts.size() == S + 1 && block_tables.shape(0) == S,
          "query_starts, context_lens and block_tables disagree");
  require(T <= size_t(plan.max_tokens()) && S <= size_t(plan.max_seqs()), "the batch is larger than the plan");
  require(targets.size() == R && tokens.size() == R && finite.size() == R, "the logit rows disagree in length");
  const StepLimits limits = plan.limits();
  Step step;
  step.view = {int(T),
               int(S),
               int(R),
               int(block_tables.shape(1)),
               token_ids.data(),
               positions.data(),
               slots.data(),
               query_starts.data(),
               context_lens.data(),
               block_tables.data(),
               logit_rows.data(),
               parents_of(parents, T)};
  set_eviction(step.view, sinks, windows, sink_positions);
  step.targets = targets.data();
  SamplingView view;
  if (!sampling.is_none()) {
    view = sampling_view(sampling, R, limits.vocab);
    step.sampling = &view;
  }
  step.out = {tokens.data(),
              finite.data(),
              optional_out(logprobs, R),
              optional_out(ranks, R),
              optional_out(top_ids, R * size_t(num_top)),
              optional_out(top_logprobs, R * size_t(num_top)),
              optional_out(logits, R * size_t(plan.vocab())),
              optional_out(hidden, R * size_t(plan.hidden_size())),
              num_top};
  check_step(step.view, step.targets, limits);
  const Compaction compaction{compact_to ? compact_to->data() : nullptr, keep, pool};
  if (compact_to) {
    require(S == 1 && T <= size_t(kMostSnapQueries) && !parents && !sinks, "a compaction is a step of one sequence");
    if (keep < int(T) || keep >= context_lens.data()[0]) refuse("keep", keep, int64_t(T), context_lens.data()[0] - 1);
    require(pool > 0 && compact_to->size() * size_t(limits.block_size) >= size_t(keep), "too few targets");
    check_values("compact_to", compact_to->data(), compact_to->size(), 0, limits.num_blocks);
    step.compaction = &compaction;
  }
  nb::gil_scoped_release release;
  plan.run(step);
}

using OffsetTuple = std::tuple<int, int, int, bool>;
OffsetIds offset_of(const OffsetTuple& t) { return {std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t)}; }

std::vector<Segment> segments_of(const std::vector<std::tuple<int, int, int, int, int, bool>>& list) {
  std::vector<Segment> out;
  for (const auto& [weight, up, activation, bias, buffer, residual] : list)
    out.push_back({weight, up, activation, bias, buffer, residual});
  return out;
}

}  // namespace

void bind_plan(nb::module_& m) {
  nb::class_<Pool>(m, "Pool", "Worker threads; the calling thread is one of them.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("threads", &Pool::threads);

  m.attr("LAYOUT_VERSION") = kLayoutVersion;
  nb::class_<PackedWeight>(m, "PackedWeight",
                           "A weight in panels: one that `Weights.pack` made, or a view of panels made earlier.")
      .def(
          "__init__",
          [](PackedWeight* self, const std::string& type, In<uint8_t> data, int N, int K) {
            new (self) PackedWeight(view(type, data, N, K));
          },
          "type"_a, "data"_a.noconvert(), "N"_a, "K"_a, nb::keep_alive<1, 3>(),
          "data: uint8 [packed_bytes(type, N, K)] at a 64-byte boundary; kept, not copied.")
      .def_ro("N", &PackedWeight::N)
      .def_ro("K", &PackedWeight::K)
      .def(
          "row",
          [](const PackedWeight& w, int row) {
            require(row >= 0 && row < w.N, "row out of range");
            auto* out = new float[size_t(w.K)];
            nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
            unpack_row(w.format, w.panel(row / kPanel), row % kPanel, w.K, out);
            return nb::ndarray<nb::numpy, float, nb::ndim<1>>(out, {size_t(w.K)}, owner);
          },
          "row"_a, "The values of a row as float32: [K].");

  nb::class_<Weights>(m, "Weights", "Memory for a model's packed weights.")
      .def(nb::init<size_t>(), "bytes"_a)
      .def_prop_ro("bytes", [](const Weights& w) { return w.memory.bytes(); })
      .def_prop_ro(
          "data",
          [](Weights& w) {
            return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(w.memory.data(), {w.memory.bytes()}, nb::find(w));
          },
          "The whole memory, for writing to a file: uint8 [bytes], read-only.")
      .def("pack", &Weights::pack, "pool"_a, "type"_a, "source"_a, "N"_a, "K"_a, "offset"_a, nb::keep_alive<0, 1>());
  m.def(
      "packed_bytes",
      [](const std::string& type, int N, int K) {
        require(N > 0 && K > 0, "a weight has rows and columns");
        const int format = format_named(type);
        const size_t bytes = size_t((N - 1) / kPanel + 1) * panel_bytes(format, K);
        return (bytes + 63) / 64 * 64;
      },
      "type"_a, "N"_a, "K"_a);
  m.def(
      "act_spec",
      [](const std::string& type) {
        const int format = format_named(type);
        if (is_dense(format)) return std::make_pair(0, 0u);
        return std::make_pair(act_group(kFormats[format]), 1u << side_of(kFormats[format]));
      },
      "type"_a,
      "(k of an activation scale, bit set of the sums wanted) for matmuls with this type; (0, 0) for dense types.");

  nb::class_<KvCache>(m, "KvCache")
      .def(
          "__init__",
          [](KvCache* self, const std::vector<std::pair<int, int>>& layers, int num_blocks, int block_size, int type) {
            require(!layers.empty(), "a cache needs a layer");
            for (auto [heads, dim] : layers)
              require(heads > 0 && dim > 0 && dim % 16 == 0 && dim <= kMaxHeadDim,
                      "head_dim must be a multiple of 16, at most 512");
            require(num_blocks > 0 && block_size > 0 && block_size % 16 == 0, "block_size must be a multiple of 16");
            require(type >= 0 && type < kNumKvTypes, "unknown KV type");
            for (auto [heads, dim] : layers)
              require(KvType(type) != KvType::K8V4 || dim % kValueGroup == 0, "k8v4 needs heads of a multiple of 32");
            new (self) KvCache(layers, num_blocks, block_size, KvType(type));
          },
          "layers"_a, "num_blocks"_a, "block_size"_a, "type"_a)
      .def("transfer", &transfer, "moves"_a, "copies"_a,
           "Copies slots and then blocks, in order: (source, target) pairs, int32 [n, 2].")
      .def_prop_ro("bytes", &KvCache::bytes);

  nb::class_<Plan>(m, "Plan")
      .def(
          "__init__",
          [](Plan* self, const std::string& isa, std::shared_ptr<Pool> pool, std::shared_ptr<KvCache> kv,
             int max_tokens, int max_seqs, int max_context) {
            new (self) Plan(table_of(isa), std::move(pool), std::move(kv), max_tokens, max_seqs, max_context);
          },
          "isa"_a, "pool"_a, "kv"_a, "max_tokens"_a, "max_seqs"_a, "max_context"_a)
      .def("weight", &Plan::weight, nb::keep_alive<1, 2>())
      .def("constant", [](Plan& p, In<float> a) { return p.constant(a.data(), int(a.size())); })
      .def("buffer", &Plan::buffer, "width"_a)
      .def("act", &Plan::act, "K"_a, "group"_a, "sides"_a)
      .def("embed", &Plan::embed, "weight"_a, "out"_a, "scale"_a)
      .def(
          "linear",
          [](Plan& p, int x, int act, int norm, float eps,
             const std::vector<std::tuple<int, int, int, int, int, bool>>& s) {
            p.linear(x, act, norm, eps, segments_of(s));
          },
          "x"_a, "act"_a, "norm"_a, "eps"_a, "segments"_a,
          "segments: (weight, up or -1, activation, bias constant or -1, out buffer, residual)")
      .def(
          "linear_dense",
          [](Plan& p, int x, const std::vector<std::tuple<int, int, int, int, int, bool>>& s) {
            p.linear_dense(x, segments_of(s));
          },
          "x"_a, "segments"_a)
      .def("rms_norm", &Plan::rms_norm, "x"_a, "width"_a, "weight"_a, "eps"_a, "out"_a, "residual"_a)
      .def("add", &Plan::add, "x"_a, "out"_a)
      .def("gated", &Plan::gated, "gate"_a, "up"_a, "activation"_a, "out"_a)
      .def("rope_angles", &Plan::rope_angles, "inv_freq"_a, "scale"_a, "out"_a, "sinks_out"_a)
      .def("middle_angles", &Plan::middle_angles, "inv_freq"_a, "scale"_a,
           "The angles that key offsets need, as a constant.")
      .def(
          "qkv",
          [](Plan& p, int q, int k, int v, int heads, int layer, int q_norm, int k_norm, float eps, int angles,
             int rope_dim, bool interleaved, const OffsetTuple& offset, int q_sinks, int sink_angles) {
            p.qkv(q, k, v, heads, layer, q_norm, k_norm, eps, angles, rope_dim, interleaved, offset_of(offset), q_sinks,
                  sink_angles);
          },
          "q"_a, "k"_a, "v"_a, "heads"_a, "layer"_a, "q_norm"_a, "k_norm"_a, "eps"_a, "angles"_a, "rope_dim"_a,
          "interleaved"_a, "offset"_a, "q_sinks"_a, "sink_angles"_a,
          "offset: (bias constant, middle_angles, rope_dim, interleaved) of a quantised cache's key offset; bias -1: "
          "none")
      .def(
          "attention",
          [](Plan& p, int q, int q_sinks, int out, int layer, int heads, int kv_heads, int head_dim, int window,
             float scale, float softcap, const OffsetTuple& offset) {
            AttentionShape shape;
            std::memset(&shape, 0, sizeof shape);
            shape = {heads, kv_heads, head_dim, window, scale, softcap};
            p.attention(q, q_sinks, out, layer, shape, offset_of(offset));
          },
          "q"_a, "q_sinks"_a, "out"_a, "layer"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "window"_a, "scale"_a,
          "softcap"_a, "offset"_a)
      .def("logit_rows", &Plan::logit_rows, "x"_a)
      .def("logits", &Plan::logits, "buffer"_a, "vocab"_a, "softcap"_a)
      .def("hidden", &Plan::hidden, "buffer"_a, "norm"_a, "eps"_a)
      .def_prop_ro("scratch_bytes", &Plan::scratch_bytes)
      .def("barriers", &Plan::barriers, "tokens"_a,
           "The number of operations in the trunk that a step of that many tokens waits for.")
      .def("profile", &Plan::profile, "on"_a, "Starts or stops counting the seconds of each operation, from 0.")
      .def("profiled", &Plan::profiled, "decoding"_a,
           "{operation: seconds} since `profile(True)`: of decoding steps (one token per sequence), or of the other "
           "steps.")
      .def(
          "run", &run, "token_ids"_a, "positions"_a, "slot_mapping"_a, "query_starts"_a, "context_lens"_a,
          "block_tables"_a, "logit_rows"_a, "targets"_a, "sampling"_a.none(), "parents"_a.none(), "sinks"_a.none(),
          "windows"_a.none(), "sink_positions"_a.none(), "tokens"_a, "finite"_a, "logprobs"_a.none(), "ranks"_a.none(),
          "top_ids"_a.none(), "top_logprobs"_a.none(), "num_top"_a, "logits"_a.none(), "hidden"_a.none(),
          "compact_to"_a = nb::none(), "keep"_a = 0, "pool"_a = 1,
          "Runs a step. Raises ValueError, before anything is written, for a value that lies outside the plan's or the "
          "pool's bounds.");
}
