// The trace: fixed records in memory, in the order in which the machine made them.
#pragma once

#include <cstdint>
#include <vector>

namespace openwafer {

enum class TraceKind : uint16_t { TASK_START, TASK_END, VECTOR_START, VECTOR_END, WAVELET_IN, WAVELET_OUT };

struct TraceRecord {
  uint64_t cycle;
  uint16_t x, y;      // in the program's rectangle
  uint16_t kind;      // TraceKind
  uint16_t a;         // task id; thread of a vector operation (8: the main thread); color of a wavelet
  uint32_t b;         // entry's location; operation | location << 8; data of a wavelet
  uint32_t reserved;
};
static_assert(sizeof(TraceRecord) == 24);

struct Trace {
  bool enabled = false;
  bool wavelets = false;
  std::vector<TraceRecord> records;

  void add(uint64_t cycle, uint16_t x, uint16_t y, TraceKind kind, uint32_t a, uint32_t b) {
    if (enabled) records.push_back({cycle, x, y, static_cast<uint16_t>(kind), static_cast<uint16_t>(a), b, 0});
  }
};

}  // namespace openwafer
