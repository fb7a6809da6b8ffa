// What memory held before scalar code, which runs ahead of the machine, stored to it.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>

#include "network.hpp"

namespace openwafer {

class Shadow {
 public:
  // A store in cycle `stored` replaces the 16-bit word at `address`. Calls come in the order of their cycles.
  void keep(uint16_t address, uint16_t old, Cycle stored) { words_[address].push_back({stored, old}); }
  // The word at `address` as it stands in `cycle`, where memory now holds `value`. Calls come in the order of their cycles.
  uint16_t at(uint16_t address, uint16_t value, Cycle cycle) {
    const auto found = words_.find(address);
    if (found == words_.end()) return value;
    std::deque<Old>& olds = found->second;
    while (!olds.empty() && olds.front().stored <= cycle) olds.pop_front();
    if (!olds.empty()) return olds.front().value;
    words_.erase(found);
    return value;
  }
  bool empty() const { return words_.empty(); }

 private:
  struct Old {
    Cycle stored;  // the cycle from which on it is gone
    uint16_t value;
  };
  std::unordered_map<uint16_t, std::deque<Old>> words_;
};

}  // namespace openwafer
