// Legal disorder, for tests: what the machine's documents leave open is drawn at random. A link takes longer, a wavelet is
// held, a task starts late, and among equals anyone goes first. A program whose answer changes with it has a race.
#pragma once

#include <cstdint>

namespace openwafer {

struct Jitter {
  uint32_t seed = 0;  // 0: none

  explicit operator bool() const { return seed != 0; }

  // A number below `bound`. It depends on its arguments alone, so not on the order in which PEs and routers are done.
  uint32_t draw(uint64_t cycle, uint64_t place, uint32_t bound) const {
    uint64_t bits = (cycle * 0x9e3779b97f4a7c15 + place) * 0xd1342543de82ef95 + seed;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return static_cast<uint32_t>(((bits ^ (bits >> 31)) >> 32) * bound >> 32);
  }
};

}  // namespace openwafer
