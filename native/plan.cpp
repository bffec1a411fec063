#include "plan.h"

#include <chrono>
#include <stdexcept>

#include "kernels/kv_layout.h"
#include "ops.h"
#include "product.h"

namespace octavo {
// ---------------------------------------------------------------- KV cache

size_t KvCache::block_bytes(int kv_heads, int head_dim, int block_size, KvType type) {
  return kv_geometry(kv_heads, head_dim, block_size, type).block_bytes;
}

KvCache::KvCache(const std::vector<std::pair<int, int>>& heads_and_dims, int num_blocks, int block_size, KvType type)
    : num_blocks_(num_blocks) {
  for (auto [heads, dim] : heads_and_dims) block_bytes_ += block_bytes(heads, dim, block_size, type);
  memory_ = std::make_unique<Memory>(size_t(num_blocks) * block_bytes_);
  uint8_t* at = memory_->data();
  for (auto [heads, dim] : heads_and_dims) {
    layers_.push_back(kv_geometry(heads, dim, block_size, type));
    layers_.back().base = at;
    at += layers_.back().block_bytes;
    layers_.back().block_bytes = block_bytes_;
  }
}

void KvCache::copy_block(int from, int to) {
  uint8_t* data = memory_->data();
  std::memcpy(data + size_t(to) * block_bytes_, data + size_t(from) * block_bytes_, block_bytes_);
}

void KvCache::copy_slot(int from, int to) {
  for (const KvLayer& l : layers_)
    for (int head = 0; head < l.kv_heads; ++head)
      copy_key(l, kv_place(l, head, from / l.block_size, from % l.block_size),
               kv_place(l, head, to / l.block_size, to % l.block_size));
}

// ---------------------------------------------------------------- building

Plan::Plan(const KernelTable& kernels, std::shared_ptr<Pool> pool, std::shared_ptr<KvCache> kv, int max_tokens,
           int max_seqs, int max_context)
    : kernels_(kernels),
      pool_(std::move(pool)),
      kv_(std::move(kv)),
      max_tokens_(max_tokens),
      max_seqs_(max_seqs),
      max_context_(max_context),
      context_(new Context(kernels_, *kv_)) {
  context_->scratch.resize(size_t(pool_->threads()));
  context_->own.resize(size_t(pool_->threads()));
}

Plan::~Plan() = default;

template <class T, class... Args>
void Plan::push(Args&&... args) {
  (in_head_ ? head_ : trunk_).push_back(std::make_unique<T>(std::forward<Args>(args)...));
  if (trunk_.size() + head_.size() > size_t(Pool::kMaxOps))
    throw std::length_error("the model has more operations than a plan can hold");
}

static uint8_t* reserve(std::vector<std::unique_ptr<Memory>>& memory, size_t bytes) {
  memory.push_back(std::make_unique<Memory>(bytes));
  return memory.back()->data();
}

static void need_scratch(std::vector<std::vector<float>>& scratch, size_t floats) {
  for (auto& s : scratch)
    if (s.size() < floats) s.resize(floats);
}

int Plan::weight(const PackedWeight& w) {
  if (w.panels() > Pool::kMaxUnits) throw std::length_error("a weight has too many rows");
  context_->weights.push_back(w);
  return int(context_->weights.size()) - 1;
}

int Plan::constant(const float* data, int n) {
  context_->constants.emplace_back(data, data + n);
  return int(context_->constants.size()) - 1;
}

int Plan::buffer(int width) {
  const size_t rows = in_head_ ? size_t(kHeadRows) : size_t(max_tokens_), bytes = rows * size_t(width) * sizeof(float);
  scratch_bytes_ += bytes;
  context_->buffers.push_back({reinterpret_cast<float*>(reserve(context_->memory, bytes)), width});
  need_scratch(context_->scratch, size_t(width));
  return int(context_->buffers.size()) - 1;
}

int Plan::act(int K, int group, unsigned sides) {
  auto place = [&](int rows) {
    ActLayout layout(rows, K, group, sides);
    scratch_bytes_ += layout.bytes;
    return layout.place(reserve(context_->memory, layout.bytes));
  };
  context_->acts.push_back(place(std::max(max_tokens_, kHeadRows)));
  for (auto& own : context_->own) own.acts.push_back(place(kernels_.max_tile));
  need_scratch(context_->scratch, size_t(context_->acts.back().args.padded));
  return int(context_->acts.size()) - 1;
}

void Plan::embed(int weight, int out, float scale) {
  embeddings_ = context_->weights[size_t(weight)].N;
  push<ops::Embed>(weight, out, scale);
}
void Plan::linear(int x, int act, int norm, float eps, const std::vector<Segment>& segments) {
  push<ops::Quantize>(x, act, norm, eps);
  const auto* quantize = static_cast<const ops::Quantize*>((in_head_ ? head_ : trunk_).back().get());
  push<ops::Linear>(*context_, quantize, x, segments);
}
void Plan::linear_dense(int x, const std::vector<Segment>& segments) {
  push<ops::Linear>(*context_, nullptr, x, segments);
}
void Plan::rms_norm(int x, int width, int weight, float eps, int out, bool residual) {
  push<ops::RmsNorm>(x, width, weight, eps, out, residual);
}
void Plan::add(int x, int out) { push<ops::Add>(x, out); }
void Plan::gated(int gate, int up, int activation, int out) { push<ops::Gated>(gate, up, activation, out); }
void Plan::rope_angles(int inv_freq, float scale, int out, int sinks_out) {
  push<ops::RopeAngles>(inv_freq, scale, out, sinks_out);
}
void Plan::qkv(int q, int k, int v, int heads, int layer, int q_norm, int k_norm, float eps, int angles, int rope_dim,
               bool interleaved, const OffsetIds& offset, int q_sinks, int sink_angles) {
  bound_positions_ |= offset.bias >= 0;
  push<ops::Qkv>(q, k, v, heads, layer, q_norm, k_norm, eps, angles, rope_dim, interleaved, offset, q_sinks,
                 sink_angles);
}

int Plan::middle_angles(int inv_freq, float scale) {
  const std::vector<float> f = context_->constants[size_t(inv_freq)];
  // Attention reads whole steps of keys.
  const size_t groups = size_t(max_context_ - 1) / kOffsetKeys + 4, width = 2 * f.size();
  std::vector<float> angles(groups * width);
  for (size_t g = 0; g < groups; ++g)
    kernels_.rope_angles(f.data(), int(f.size()), scale, int(g) * kOffsetKeys + kOffsetKeys / 2,
                         angles.data() + g * width);
  scratch_bytes_ += angles.size() * sizeof(float);
  return constant(angles.data(), int(angles.size()));
}

void Plan::attention(int q, int q_sinks, int out, int layer, const AttentionShape& shape, const OffsetIds& offset) {
  auto& shapes = context_->shapes;
  size_t id = 0;
  while (id < shapes.size() && std::memcmp(&shapes[id], &shape, sizeof shape)) ++id;
  if (id == shapes.size()) {
    shapes.push_back(shape);
    const size_t bytes = attention_work_bytes(max_tokens_, max_seqs_, max_context_, shape);
    context_->works.emplace_back();
    place_attention_work(context_->works.back(), reserve(context_->memory, bytes), max_tokens_, max_seqs_, max_context_,
                         shape);
    const size_t partials = attention_partial_floats(max_tokens_, max_seqs_, max_context_, shape) * sizeof(float);
    scratch_bytes_ += bytes;
    if (partials > partial_bytes_) {  // shapes share this scratch: an attention is merged before the next one starts
      scratch_bytes_ += partials - partial_bytes_;
      partial_bytes_ = partials;
      partials_ = std::make_unique<Memory>(partials);
      context_->partials = reinterpret_cast<float*>(partials_->data());
    }
  }
  push<ops::Attention>(q, q_sinks, out, layer, id, offset, false);
  push<ops::Attention>(q, q_sinks, out, layer, id, offset, true);
  push<ops::SnapKv>(q, layer, id);
}

int Plan::logit_rows(int x) {
  in_head_ = true;
  const int out = buffer(context_->buffer(x).width);
  push<ops::Gather>(x, out);
  return out;
}

void Plan::logits(int buffer, int vocab, float softcap) {
  vocab_ = vocab;
  need_scratch(context_->scratch, 3 * size_t(vocab) + 64);
  auto& product = static_cast<ops::Linear&>(*head_.back());
  product.logits = true;
  product.softcap = softcap;
  push<ops::Sample>(buffer, vocab);
}

void Plan::hidden(int buffer, int norm, float eps) {
  hidden_ = context_->buffer(buffer).width;
  push<ops::Hidden>(buffer, norm, eps);
}

int Plan::barriers(int tokens) const {
  Context c(kernels_, *kv_);
  c.rows = tokens;
  c.works.resize(context_->works.size());
  for (auto& work : c.works) work.num_items = 1;
  int n = 0;
  for (const auto& op : trunk_) n += op->units(c) > 0;
  return n;
}

StepLimits Plan::limits() const {
  return {embeddings_, vocab_, max_context_, kv_->num_blocks(), kv_->block_size(), bound_positions_};
}

// ---------------------------------------------------------------- running

namespace {
using Clock = std::chrono::steady_clock;

struct Section final : Pool::Job {
  const std::vector<std::unique_ptr<Plan::Op>>& list;
  Plan::Context& context;
  Plan::Profile* profile;  // null: not profiling
  Clock::time_point last = Clock::now();
  Section(const std::vector<std::unique_ptr<Plan::Op>>& list, Plan::Context& context, Plan::Profile* profile)
      : list(list), context(context), profile(profile) {}
  int ops() const override { return int(list.size()); }
  int units(int op) const override { return list[size_t(op)]->units(context); }
  void run(int op, int begin, int end, int thread) override { list[size_t(op)]->run(context, begin, end, thread); }
  void finished(int op) override {
    if (!profile) return;
    const auto now = Clock::now();
    (*profile)[list[size_t(op)]->name(context)] += std::chrono::duration<double>(now - last).count();
    last = Clock::now();  // not `now`: building the name took a while
  }
};
}  // namespace

void Plan::profile(bool on) {
  profiling_ = on;
  for (Profile& profile : profiles_) profile.clear();
}

void Plan::run_section(const std::vector<std::unique_ptr<Op>>& list, Profile* profile) {
  Section section(list, *context_, profile);
  ++context_->round;
  pool_->run(section);
}

void Plan::run(const Step& step) {
  Context& c = *context_;
  c.step = &step;
  c.rows = step.view.tokens;
  c.argmax = !step.sampling && !step.out.logprobs && !step.out.logits;
  Profile* profile = profiling_ ? &profiles_[step.view.tokens == step.view.seqs] : nullptr;
  for (size_t i = 0; i < c.shapes.size(); ++i)
    build_attention_work(step.view, kv_->block_size(), c.shapes[i], c.works[i]);
  run_section(trunk_, profile);
  for (c.row0 = 0; c.row0 < step.view.rows; c.row0 += kHeadRows) {
    c.rows = std::min(kHeadRows, step.view.rows - c.row0);
    run_section(head_, profile);
  }
}

}  // namespace octavo
