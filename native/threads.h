// A pool that runs a list of operations in order, each cut into units that threads claim.
//
// There is no barrier in the usual sense. An operation is finished when all its units are, whichever threads ran them.
// A thread moves on when it sees that. So a worker that the system has paused delays the others only if it has claimed
// units. A worker that comes late skips the finished operations.
//
// Each operation has one word {generation, front, back}. Even threads claim units from the front, odd threads from the
// back, so that memory is read in two sequential streams. A claim takes 3/4 of a fair share of what is left, so claims
// are few and the end is balanced. The generation keeps a late worker of an earlier run from claiming units of this
// one.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace octavo {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }
  static bool from_back(int thread) { return thread & 1; }

  // A list of operations. Operation `op` has units(op) units; run(op, begin, end, thread) runs some of them. An
  // operation may read what earlier ones wrote. run must not throw, and must not use the pool itself. A thread that
  // claims from the back should run its units from end - 1 down to begin: then it continues reading where its last
  // claim ended.
  class Job {
   public:
    virtual ~Job() = default;
    virtual int ops() const = 0;
    virtual int units(int op) const = 0;
    virtual void run(int op, int begin, int end, int thread) = 0;
    virtual void finished(int) {}  // called by the calling thread when all units of an operation are done
  };
  void run(Job& job);

  // Runs one operation, given as a function(begin, end).
  template <class Fn>
  void parallel_for(int units, Fn&& fn) {
    struct One final : Job {
      int n;
      Fn& fn;
      One(int n, Fn& fn) : n(n), fn(fn) {}
      int ops() const override { return 1; }
      int units(int) const override { return n; }
      void run(int, int begin, int end, int) override { fn(begin, end); }
    } job(units, fn);
    run(job);
  }

  static constexpr int kMaxOps = 16384;
  static constexpr int kMaxUnits = (1 << 20) - 1;

 private:
  struct alignas(128) Slot {
    std::atomic<uint64_t> claim{0};  // generation << 40 | front << 20 | back
    alignas(64) std::atomic<int> done{0};
    std::atomic<int> units{0};
  };
  bool take(Slot& slot, uint64_t generation, int thread, int& begin, int& end);
  void execute(uint64_t generation, int thread);
  void worker(int thread);

  int threads_;
  std::unique_ptr<Slot[]> slots_;
  std::atomic<Job*> job_{nullptr};
  std::atomic<int> num_ops_{0};
  alignas(64) std::atomic<uint64_t> generation_{0};
  std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace octavo
