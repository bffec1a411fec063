// Bindings of single kernels, on any instruction set that the machine has. tests/ops compares them with slow twins. The
// engine itself runs plans (bind_plan.cpp).
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

#include <vector>

#include "attention_work.h"
#include "bind.h"
#include "plan.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace octavo;

namespace {

void rms_norm(const std::string& isa, In<float> x, In<float> weight, float eps, Out<float> out) {
  require(x.size() == weight.size() && x.size() == out.size(), "x, weight and out differ in length");
  table_of(isa).rms_norm(x.data(), weight.data(), eps, int(x.size()), out.data());
}

void add(const std::string& isa, In<float> x, Out<float> y) {
  require(x.size() == y.size(), "x and y differ in length");
  table_of(isa).add(x.data(), y.data(), int(x.size()));
}

void gated(const std::string& isa, In<float> gate, In<float> up, int activation, Out<float> out) {
  require(gate.size() == up.size() && gate.size() == out.size(), "gate, up and out differ in length");
  table_of(isa).gated(gate.data(), up.data(), activation, int(gate.size()), out.data());
}

void softcap(const std::string& isa, Out<float> x, float cap) { table_of(isa).softcap(x.data(), cap, int(x.size())); }

void rope_angles(const std::string& isa, In<float> inv_freq, float scale, int position, Out<float> cos_sin) {
  require(cos_sin.size() == 2 * inv_freq.size(), "cos_sin needs two values for each frequency");
  table_of(isa).rope_angles(inv_freq.data(), int(inv_freq.size()), scale, position, cos_sin.data());
}

// A key offset: bias [kv_heads * head_dim], the angles of each 16 positions' middle.
using OffsetArrays = std::tuple<In<float>, In<float, 2>, bool>;

KeyOffset offset_of(const std::optional<OffsetArrays>& arrays, const KvLayer& kv, int positions) {
  if (!arrays) return {};
  const auto& [bias, angles, interleaved] = *arrays;
  require(bias.size() == size_t(kv.kv_heads) * size_t(kv.head_dim), "the bias has the wrong length");
  require(int(angles.shape(0)) > (positions - 1) / kOffsetKeys && angles.shape(1) <= size_t(kv.head_dim),
          "the angles have the wrong shape");
  return {bias.data(), angles.data(), int(angles.shape(1)), interleaved};
}

void qkv(const std::string& isa, KvCache& cache, int layer, In<int32_t> slots, Out<float, 2> q, In<float, 2> k,
         In<float, 2> v, std::optional<In<float>> q_norm, std::optional<In<float>> k_norm, float eps,
         std::optional<In<float, 2>> cos_sin, bool interleaved, std::optional<OffsetArrays> offset,
         std::optional<In<int32_t>> positions, std::optional<Out<float, 2>> q_sinks,
         std::optional<In<float, 2>> sink_cos_sin) {
  const KvLayer& kv = cache.layer(layer);
  const size_t tokens = slots.size(), width = size_t(kv.kv_heads) * size_t(kv.head_dim);
  require(q.shape(0) == tokens && k.shape(0) == tokens && v.shape(0) == tokens, "slots, q, k and v differ in tokens");
  require(q.shape(1) % size_t(kv.head_dim) == 0 && k.shape(1) == width && v.shape(1) == width,
          "q, k or v has the wrong width");
  check_values("slots", slots.data(), tokens, 0, cache.slots());
  StepView step;
  step.tokens = int(tokens);
  step.slots = slots.data();
  require(bool(offset) == bool(positions), "an offset needs positions");
  if (positions) {
    require(positions->size() == tokens, "slots and positions differ in length");
    check_values("positions", positions->data(), tokens, 0, int64_t(std::get<1>(*offset).shape(0)) * kOffsetKeys);
    step.positions = positions->data();
  }
  const QkvArgs args{&step,
                     q.data(),
                     k.data(),
                     v.data(),
                     q.shape(1),
                     width,
                     width,
                     int(q.shape(1)) / kv.head_dim,
                     kv.kv_heads,
                     kv.head_dim,
                     q_norm ? q_norm->data() : nullptr,
                     k_norm ? k_norm->data() : nullptr,
                     eps,
                     cos_sin ? cos_sin->data() : nullptr,
                     cos_sin ? int(cos_sin->shape(1)) : 0,
                     interleaved,
                     kv,
                     offset_of(offset, kv, 1),
                     q_sinks ? q_sinks->data() : nullptr,
                     sink_cos_sin ? sink_cos_sin->data() : nullptr};
  const std::vector<int32_t> all(tokens, 0);
  if (q_sinks) step.sink_positions = all.data();
  for (int t = 0; t < step.tokens; ++t) table_of(isa).qkv(args, t);
}

// Runs one step's attention on this thread, item by item in order. Returns the numbers of items and of merges.
std::pair<int, int> attention(const std::string& isa, const KvCache& cache, int layer, In<float, 2> q,
                              In<int32_t> query_starts, In<int32_t> context_lens, In<int32_t, 2> block_tables,
                              std::optional<In<int32_t>> parents, int window, float scale, float softcap,
                              Out<float, 2> out, std::optional<OffsetArrays> offset,
                              std::optional<In<int32_t>> positions, std::optional<In<int32_t>> sinks,
                              std::optional<In<int32_t>> windows, std::optional<In<float, 2>> q_sinks) {
  const KvLayer& kv = cache.layer(layer);
  const int seqs = int(context_lens.size()), tokens = int(q.shape(0));
  require(query_starts.size() == size_t(seqs) + 1 && block_tables.shape(0) == size_t(seqs), "one entry a sequence");
  require(out.shape(0) == q.shape(0) && out.shape(1) == q.shape(1), "q and out differ in shape");
  StepView step;
  step.tokens = tokens, step.seqs = seqs, step.table_width = int(block_tables.shape(1));
  step.query_starts = query_starts.data(), step.context_lens = context_lens.data(),
  step.block_tables = block_tables.data();
  step.parents = parents_of(parents, size_t(tokens));
  if (sinks) {
    require(positions && positions->size() == size_t(tokens), "positions needs one entry a token");
    require(q_sinks && q_sinks->shape(0) == q.shape(0) && q_sinks->shape(1) == q.shape(1), "q_sinks has q's shape");
    step.positions = positions->data();
    set_eviction(step, sinks, windows, positions);
  }
  const AttentionShape shape{int(q.shape(1)) / kv.head_dim, kv.kv_heads, kv.head_dim, window, scale, softcap};

  const int max_context = step.table_width * kv.block_size;
  check_sequences(step, {0, 0, max_context, cache.num_blocks(), kv.block_size});
  Memory memory(attention_work_bytes(tokens, seqs, max_context, shape));
  std::vector<float> partials(attention_partial_floats(tokens, seqs, max_context, shape));
  AttentionWork work;
  place_attention_work(work, memory.data(), tokens, seqs, max_context, shape);
  build_attention_work(step, kv.block_size, shape, work);

  int longest = 1;
  for (int s = 0; s < seqs; ++s) longest = std::max(longest, step.context_lens[s]);
  // Attention reads the angles of whole steps of 64 keys.
  const KeyOffset shift = offset_of(offset, kv, (longest + 63) / 64 * 64);
  const AttentionArgs args{&step,
                           shape,
                           kv,
                           q.data(),
                           q.shape(1),
                           out.data(),
                           out.shape(1),
                           partials.data(),
                           work.queries,
                           shift,
                           q_sinks ? q_sinks->data() : nullptr};
  for (int i = 0; i < work.num_items; ++i)
    table_of(isa).attention(args, work.items[i], i + 1 < work.num_items ? &work.items[i + 1] : nullptr);
  for (int i = 0; i < work.num_merges; ++i) table_of(isa).attention_merge(args, work.merges[i]);
  return {work.num_items, work.num_merges};
}

// Chooses and copies what each KV head of a prompt keeps. q: of its last tokens.
void snapkv(const std::string& isa, const KvCache& cache, int layer, Out<float, 2> q, In<int32_t, 2> block_table,
            int length, In<int32_t> targets, int keep, int pool, int window, float scale, float softcap) {
  const KvLayer& kv = cache.layer(layer);
  const int tokens = int(q.shape(0));
  const int32_t starts[] = {0, tokens};
  StepView step;
  step.tokens = tokens, step.seqs = 1, step.table_width = int(block_table.shape(1));
  step.query_starts = starts, step.context_lens = &length, step.block_tables = block_table.data();
  check_sequences(step, {0, 0, step.table_width * kv.block_size, cache.num_blocks(), kv.block_size});
  check_values("targets", targets.data(), targets.size(), 0, cache.num_blocks());
  require(tokens <= keep && keep < length && targets.size() * size_t(kv.block_size) >= size_t(keep), "keep is wrong");
  const AttentionShape shape{int(q.shape(1)) / kv.head_dim, kv.kv_heads, kv.head_dim, window, scale, softcap};
  std::vector<float> scratch(snap_floats(tokens, length, shape));
  const SnapArgs args{&step, shape, kv, q.data(), q.shape(1), targets.data(), keep, pool};
  for (int head = 0; head < kv.kv_heads; ++head) table_of(isa).snapkv(args, head, scratch.data());
}

void sample_rows(const std::string& isa, In<float, 2> logits, In<int32_t> targets, nb::object sampling,
                 Out<int32_t> tokens, Out<uint8_t> finite, std::optional<Out<float>> logprobs,
                 std::optional<Out<int32_t>> ranks, std::optional<Out<int32_t>> top_ids,
                 std::optional<Out<float>> top_logprobs, int num_top) {
  const size_t rows = logits.shape(0), vocab = logits.shape(1), n = size_t(num_top);
  require(targets.size() == rows && tokens.size() == rows && finite.size() == rows, "one entry a row");
  check_values("targets", targets.data(), rows, -1, int64_t(vocab));
  SamplingView view{};
  if (!sampling.is_none()) view = sampling_view(sampling, rows, int(vocab));
  const SampleArgs args{sampling.is_none() ? nullptr : &view, int(vocab), num_top, logprobs.has_value()};
  const SampleOut all{tokens.data(),
                      finite.data(),
                      optional_out(logprobs, rows),
                      optional_out(ranks, rows),
                      optional_out(top_ids, rows * n),
                      optional_out(top_logprobs, rows * n)};
  const auto at = [](auto* p, size_t i) { return p ? p + i : p; };
  std::vector<float> scratch(3 * vocab);
  for (size_t r = 0; r < rows; ++r) {
    const SampleOut one{all.token + r,   all.finite + r,         at(all.logprob, r),
                        at(all.rank, r), at(all.top_ids, r * n), at(all.top_logprobs, r * n)};
    table_of(isa).sample(args, int(r), logits.data() + r * vocab, targets.data()[r], scratch.data(), one);
  }
}

}  // namespace

void bind_ops(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("ops", "Single kernels, for tests.");
  m.def("rms_norm", &rms_norm, "isa"_a, "x"_a, "weight"_a, "eps"_a, "out"_a);
  m.def("add", &add, "isa"_a, "x"_a, "y"_a, "y += x");
  m.def("gated", &gated, "isa"_a, "gate"_a, "up"_a, "activation"_a, "out"_a, "activation: 0 silu, 1 gelu_tanh");
  m.def("softcap", &softcap, "isa"_a, "x"_a, "cap"_a);
  m.def("rope_angles", &rope_angles, "isa"_a, "inv_freq"_a, "scale"_a, "position"_a, "cos_sin"_a);
  m.def("qkv", &qkv, "isa"_a, "kv"_a, "layer"_a, "slots"_a, "q"_a, "k"_a, "v"_a, "q_norm"_a.none(), "k_norm"_a.none(),
        "eps"_a, "cos_sin"_a.none(), "interleaved"_a, "offset"_a.none() = nb::none(), "positions"_a.none() = nb::none(),
        "q_sinks"_a = nb::none(), "sink_cos_sin"_a = nb::none(),
        "offset: (bias, angles of each 16 positions' middle, interleaved)");
  m.def(
      "kv_memory",
      [](KvCache& cache) {
        return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(cache.layer(0).base, {cache.bytes()}, nb::find(cache));
      },
      "kv"_a, "The whole pool's bytes: block after block, each with all layers.");
#if defined(OCTAVO_SANITIZE)  // mistakes that the sanitizers must find: tests/native/test_sanitizers.py
  m.def("overrun", [](KvCache& cache, ptrdiff_t at) { cache.layer(0).base[at] = 0; }, "kv"_a, "at"_a);
  m.def("overflow", [](int x) { return x + 1; }, "x"_a);
#endif
  m.def("attention", &attention, "isa"_a, "kv"_a, "layer"_a, "q"_a, "query_starts"_a, "context_lens"_a,
        "block_tables"_a, "parents"_a.none(), "window"_a, "scale"_a, "softcap"_a, "out"_a,
        "offset"_a.none() = nb::none(), "positions"_a = nb::none(), "sinks"_a = nb::none(), "windows"_a = nb::none(),
        "q_sinks"_a = nb::none());
  m.def("snapkv", &snapkv, "isa"_a, "kv"_a, "layer"_a, "q"_a, "block_table"_a, "length"_a, "targets"_a, "keep"_a,
        "pool"_a, "window"_a, "scale"_a, "softcap"_a);
  m.def(
      "copy_slot",
      [](KvCache& cache, int from, int to) {
        const int32_t pair[] = {from, to};
        check_values("slots", pair, 2, 0, cache.slots());
        cache.copy_slot(from, to);
      },
      "kv"_a, "source"_a, "target"_a);
  m.def("sample_rows", &sample_rows, "isa"_a, "logits"_a, "targets"_a, "sampling"_a.none(), "tokens"_a, "finite"_a,
        "logprobs"_a.none(), "ranks"_a.none(), "top_ids"_a.none(), "top_logprobs"_a.none(), "num_top"_a);
}
