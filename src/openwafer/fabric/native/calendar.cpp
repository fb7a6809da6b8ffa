// The calendar's wheel and heap.
#include <algorithm>
#include <bit>

#include "machine.hpp"

namespace openwafer {

void Calendar::add(Cycle cycle, Tile tile) {
  if (cycle >= base_ + SIZE) {
    far_.emplace(cycle, tile);
    return;
  }
  const Cycle slot = std::max(cycle, base_) % SIZE;
  wheel_[slot].push_back(tile);
  used_[slot / 64] |= uint64_t{1} << (slot % 64);
}

Cycle Calendar::next(Cycle after) const {
  const Cycle from = std::max(after, base_);
  Cycle found = far_.empty() ? NEVER : std::max(far_.top().first, after);
  for (Cycle cycle = from; cycle < base_ + SIZE && cycle < found;) {
    const Cycle slot = cycle % SIZE;
    const uint64_t word = used_[slot / 64] >> (slot % 64);
    if (word == 0) {
      cycle += 64 - slot % 64;
      continue;
    }
    cycle += static_cast<Cycle>(std::countr_zero(word));
    if (cycle < base_ + SIZE) found = std::min(found, cycle);
    break;
  }
  return found;
}

void Calendar::take(Cycle cycle, std::vector<Tile>& tiles) {
  tiles.clear();
  if (cycle < base_ + SIZE) {
    const Cycle slot = cycle % SIZE;
    std::swap(tiles, wheel_[slot]);
    used_[slot / 64] &= ~(uint64_t{1} << (slot % 64));
  }
  base_ = cycle;
  while (!far_.empty() && far_.top().first <= cycle) {
    tiles.push_back(far_.top().second);
    far_.pop();
  }
}

}  // namespace openwafer
