// The threads of the native kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace openwafer::serve {

// Runs a job's chunks on the calling thread and some more. Chunks go to whoever is free, so a thread whose core was taken
// delays only the chunk at hand. Threads without work look for it for a while, because a decode step brings the next job
// within microseconds, and sleep then.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // Calls body(context, chunk) for all chunks in [0, count), each once, and returns when all are done.
  void run(int64_t count, void (*body)(void*, int64_t), void* context);

  template <class F>
  void each(int64_t count, F&& body) {
    run(count, [](void* context, int64_t chunk) { (*static_cast<std::remove_reference_t<F>*>(context))(chunk); }, &body);
  }

 private:
  void work();
  bool take(int64_t& chunk);
  void do_chunks();

  // The number of the job in the upper half, chunks that nobody took yet in the lower one. A job is only replaced when all
  // of its chunks are done, so whoever took a chunk may read the job.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> undone_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  int64_t count_ = 0;
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> stopping_{false};
  std::mutex one_job_;
  std::vector<std::thread> workers_;
};

// The pool of this process; made at the first use, and again in a process that was forked.
std::shared_ptr<Pool> shared_pool();
void set_threads(int count);
int threads();

}  // namespace openwafer::serve
