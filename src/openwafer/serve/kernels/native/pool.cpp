#include "pool.hpp"

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <chrono>

namespace openwafer::serve {

namespace {

constexpr uint64_t UNTAKEN = 0xffffffff;
// Longer than Python and torch take between two native calls of a decode step, and shorter than anybody minds.
constexpr auto SPIN = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until `ready`, for a while.
template <class F>
bool spin(F ready) {
  const auto end = std::chrono::steady_clock::now() + SPIN;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
  stopping_ = true;
  state_.fetch_add(UNTAKEN + 1);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run(int64_t count, void (*body)(void*, int64_t), void* context) {
  if (count == 1 || workers_.empty()) {
    for (int64_t chunk = 0; chunk < count; ++chunk) body(context, chunk);
    return;
  }
  if (count <= 0) return;
  const std::lock_guard lock(one_job_);
  count_ = count;
  body_ = body;
  context_ = context;
  undone_.store(count, std::memory_order_relaxed);
  const uint64_t job = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(job << 32 | uint64_t(count));  // ordered before the look at `sleeping_`, as sleepers order theirs
  if (sleeping_.load() > 0) state_.notify_all();
  do_chunks();
  if (!spin([&] { return undone_.load(std::memory_order_acquire) == 0; })) {
    for (int64_t left; (left = undone_.load(std::memory_order_acquire)) != 0;) undone_.wait(left);
  }
}

bool Pool::take(int64_t& chunk) {
  uint64_t state = state_.load(std::memory_order_acquire);
  while ((state & UNTAKEN) != 0) {
    if (state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      chunk = count_ - int64_t(state & UNTAKEN);
      return true;
    }
  }
  return false;
}

void Pool::do_chunks() {
  for (int64_t chunk; take(chunk);) {
    body_(context_, chunk);
    if (undone_.fetch_sub(1, std::memory_order_acq_rel) == 1) undone_.notify_one();
  }
}

void Pool::work() {
  while (!stopping_) {
    do_chunks();
    const auto something = [&] { return (state_.load(std::memory_order_acquire) & UNTAKEN) != 0 || stopping_; };
    if (spin(something)) continue;
    sleeping_.fetch_add(1);
    const uint64_t state = state_.load();
    if ((state & UNTAKEN) == 0 && !stopping_) state_.wait(state);
    sleeping_.fetch_sub(1);
  }
}

namespace {

std::mutex guard;
std::shared_ptr<Pool>* pool = nullptr;
int wanted = 1;

#if !defined(_WIN32)
// A child has none of the threads; the parent's pool is left where it is, because its destructor would wait for them.
void forget() {
  pool = nullptr;
  new (&guard) std::mutex;
}
#endif

}  // namespace

std::shared_ptr<Pool> shared_pool() {
  const std::lock_guard lock(guard);
  if (pool == nullptr) {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, forget);
    static_cast<void>(registered);
#endif
    pool = new std::shared_ptr<Pool>(std::make_shared<Pool>(wanted));
  }
  return *pool;
}

void set_threads(int count) {
  const std::lock_guard lock(guard);
  wanted = count;
  if (pool != nullptr && (*pool)->threads() != count) *pool = std::make_shared<Pool>(count);
}

int threads() {
  const std::lock_guard lock(guard);
  return wanted;
}

}  // namespace openwafer::serve
