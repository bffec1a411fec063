// The interface and shared context of a step plan's operations. An operation is cut into units that threads claim. A
// unit's result depends only on its inputs.
#pragma once
#include <string>
#include <vector>

#include "act_buffer.h"
#include "attention_work.h"
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
  std::vector<std::vector<float>> scratch;  // one per thread
  struct alignas(64) Own {                  // a thread's own activations, for the matmul that it last took part in
    std::vector<ActBuffer> acts;
    const void* prepared = nullptr;
    uint64_t round = 0;
    std::vector<Peak> peaks;  // of the logits that this thread computed, one per row of the head
    uint64_t peaks_round = 0;
  };
  std::vector<Own> own;

  // The step being run.
  const Step* step = nullptr;
  int rows = 0;         // rows of the section: the step's tokens, or the logit rows of this round of the head
  int row0 = 0;         // first logit row of this round
  bool argmax = false;  // only each row's largest logit is requested, so logits are not stored
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
  virtual std::string name(Context&) const = 0;  // for profiles: operations with the same name are added up
};

namespace ops {
using Op = Plan::Op;
using Context = Plan::Context;
}  // namespace ops
}  // namespace octavo
