#include "threads.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

constexpr uint64_t kField = (1u << 20) - 1;
constexpr uint64_t kGenerations = (1u << 24) - 1;
// A worker spins this long for the next step before it sleeps: longer than the gap between two steps of a running
// batch, short enough that an idle process uses no measurable time.
constexpr auto kSpin = std::chrono::microseconds(1500);
// A thread that waits for the units of others pauses this many times (some 60 to 100 us in all) before it offers its
// core to other threads. Two threads usually differ by less than that in one operation. It is short beside the
// milliseconds of another process's time slice.
constexpr int kPauses = 2000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) : threads_(std::max(1, threads)), slots_(new Slot[kMaxOps]) {
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { worker(i); });
}

Pool::~Pool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

bool Pool::take(Slot& slot, uint64_t generation, int thread, int& begin, int& end) {
  uint64_t word = slot.claim.load(std::memory_order_acquire);
  for (;;) {
    const int front = int(word >> 20 & kField), back = int(word & kField);
    if (front >= back || word >> 40 != (generation & kGenerations)) return false;
    const int size = std::max(1, (back - front) * 3 / (4 * threads_));
    const uint64_t next = from_back(thread) ? word - uint64_t(size) : word + (uint64_t(size) << 20);
    if (slot.claim.compare_exchange_weak(word, next, std::memory_order_acq_rel, std::memory_order_acquire)) {
      begin = from_back(thread) ? back - size : front;
      end = begin + size;
      return true;
    }
  }
}

void Pool::execute(uint64_t generation, int thread) {
  const int ops = num_ops_.load(std::memory_order_relaxed);
  for (int op = 0; op < ops; ++op) {
    Slot& slot = slots_[op];
    int begin, end, ran = 0;
    while (take(slot, generation, thread, begin, end)) {
      job_.load(std::memory_order_relaxed)->run(op, begin, end, thread);
      ran += end - begin;
    }
    if (ran) slot.done.fetch_add(ran, std::memory_order_release);  // once: the counter moves between the cores
    for (int spins = 0; slot.done.load(std::memory_order_acquire) < slot.units.load(std::memory_order_relaxed);
         ++spins) {
      if (generation_.load(std::memory_order_relaxed) != generation) return;  // too late: the step is over
      if (spins < kPauses) {
        pause();
      } else {
        std::this_thread::yield();  // the thread that holds the claim may need this core
      }
    }
    if (thread == 0) job_.load(std::memory_order_relaxed)->finished(op);
  }
}

void Pool::worker(int thread) {
  uint64_t seen = 0;
  for (;;) {
    uint64_t now = generation_.load(std::memory_order_acquire);
    if (now == seen) {
      const auto until = std::chrono::steady_clock::now() + kSpin;
      while ((now = generation_.load(std::memory_order_acquire)) == seen && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 64; ++i) pause();
      }
    }
    if (now == seen) {
      parked_.fetch_add(1);
      generation_.wait(seen);
      parked_.fetch_sub(1);
      now = generation_.load(std::memory_order_acquire);
    }
    if (stop_.load()) return;
    seen = now;
    execute(seen, thread);
  }
}

void Pool::run(Job& job) {
  const int ops = job.ops();
  if (threads_ == 1) {
    for (int op = 0; op < ops; ++op) {
      if (const int units = job.units(op)) job.run(op, 0, units, 0);
      job.finished(op);
    }
    return;
  }
  const uint64_t generation = generation_.load(std::memory_order_relaxed) + 1;
  job_.store(&job, std::memory_order_relaxed);
  num_ops_.store(ops, std::memory_order_relaxed);
  for (int op = 0; op < ops; ++op) {
    const int units = job.units(op);
    slots_[op].done.store(0, std::memory_order_relaxed);
    slots_[op].units.store(units, std::memory_order_relaxed);
    slots_[op].claim.store((generation & kGenerations) << 40 | uint64_t(units), std::memory_order_relaxed);
  }
  generation_.store(generation);
  if (parked_.load() > 0) generation_.notify_all();
  execute(generation, 0);
}

}  // namespace octavo
