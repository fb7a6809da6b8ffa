// Stores of scalar code and the microthreads that read the same memory.
//
// Code is executed ahead of its cycle, so a microthread that is still reading a buffer would see what the code behind it
// stores there later. The view tells code which addresses microthreads read; a store there keeps the old words first, and
// a microthread takes those as long as the store's cycle has not come.
#include <algorithm>
#include <cstring>

#include "pe.hpp"

namespace openwafer {

namespace {

struct Range {
  int64_t low = INT64_MAX, high = 0;
};

// The addresses that an operand still goes over.
void add(Range& range, const Operand& operand, uint32_t elements, uint8_t bytes) {
  if (operand.kind != Kind::MEMORY) return;
  int64_t low = operand.address, high = operand.address;
  if (operand.four_dims) {
    low = high = operand.start;
    for (int dim = 0; dim < 4; ++dim) {
      const int64_t reach = int64_t{operand.strides[dim]} * (std::max<int>(operand.extents[dim], 1) - 1);
      (reach < 0 ? low : high) += reach;
    }
  } else {
    const int64_t reach = int64_t{operand.step} * (int64_t{elements} - 1);
    (reach < 0 ? low : high) += reach;
  }
  range.low = std::min(range.low, low);
  range.high = std::max(range.high, high + bytes);
}

}  // namespace

// After a microthread has begun or ended.
void Pe::watch_sources() {
  Range range;
  for (uint32_t id = 0; id < THREADS; ++id) {
    if (((active_threads_ >> id) & 1) == 0 || threads_[id]->remaining == 0) continue;
    const Operation& operation = *threads_[id];
    const Kernel& kernel = kernel_of(operation.vector.operation);
    for (int i = 0; i < operation.source_count; ++i) {
      add(range, operation.sources[i], operation.remaining, kernel.source_bytes[i]);
    }
  }
  const int64_t low = std::max<int64_t>(range.low, 0), high = std::min<int64_t>(range.high, memory_bytes);
  if (low < high) {
    watched_from = static_cast<uint16_t>(low);
    watched_bytes = static_cast<uint16_t>(high - low);
  } else {
    watched_from = watched_bytes = 0;
    shadow_.reset();
  }
}

// Code is about to store `bytes` at `address`, as of its clock.
void Pe::keep_old(uint32_t address, uint32_t bytes) {
  if (clock <= now_) return;
  if (shadow_ == nullptr) shadow_ = std::make_unique<Shadow>();
  for (uint32_t word = address & ~1u; word < address + bytes && word + 2 <= memory_bytes; word += 2) {
    uint16_t old;
    std::memcpy(&old, memory_.data() + word, sizeof(old));
    shadow_->keep(static_cast<uint16_t>(word), old, clock);
  }
}

}  // namespace openwafer
