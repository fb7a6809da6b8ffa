// The trace: fixed records in memory, in the order in which the machine made them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace openwafer {

enum class TraceKind : uint16_t {
  TASK_START,
  TASK_END,
  VECTOR_START,
  VECTOR_END,
  WAVELET_IN,
  WAVELET_OUT,
  WAIT,     // of a thread in its operation; made when the wait is over, with the cycle in which it began
  PASSAGE,  // of a wavelet through a router
};

// What an operation lacks. SLOT: nothing, another thread has the datapath.
enum class Lack : uint8_t { SLOT, INPUT, OUTPUT, FIFO, BLOCKED };

struct TraceRecord {
  uint64_t cycle;
  uint16_t x, y;      // in the program's rectangle
  uint16_t kind;      // TraceKind
  uint16_t a;         // task id; thread of an operation (8: the main thread); color of a wavelet: see _trace.py
  uint32_t b;         // entry; operation | location << 8; data of a wavelet
  uint32_t c;         // cycles of a wait; sides and bits of a wavelet
};
static_assert(sizeof(TraceRecord) == 24);

struct Trace {
  bool enabled = false;   // tasks, operations, waits
  bool wavelets = false;  // at ramps
  size_t limit = SIZE_MAX;
  size_t dropped = 0;  // records beyond the limit
  std::vector<TraceRecord> records;

  void add(uint64_t cycle, uint16_t x, uint16_t y, TraceKind kind, uint32_t a, uint32_t b, uint32_t c = 0) {
    if (!enabled) return;
    if (records.size() >= limit) {
      ++dropped;
      return;
    }
    records.push_back({cycle, x, y, static_cast<uint16_t>(kind), static_cast<uint16_t>(a), b, c});
  }
};

}  // namespace openwafer
