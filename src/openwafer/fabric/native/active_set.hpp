// A set of small numbers that come out in order, as bits and bits of the words that have any: what lies side by side in
// memory is then done side by side, and a large set with few members costs little.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace openwafer {

class ActiveSet {
 public:
  void reserve(size_t numbers) {
    if (words_.size() * 64 >= numbers) return;
    words_.resize((numbers + 63) / 64);
    summary_.resize((words_.size() + 63) / 64);
  }
  void add(uint32_t number) {
    words_[number / 64] |= uint64_t{1} << number % 64;
    summary_[number / 4096] |= uint64_t{1} << number / 64 % 64;
    empty_ = false;
  }
  bool empty() const { return empty_; }
  size_t bytes() const { return (words_.capacity() + summary_.capacity()) * sizeof(uint64_t); }

  // Moves all of them to `numbers`.
  void take(std::vector<uint32_t>& numbers) {
    numbers.clear();
    for (size_t i = 0; i < summary_.size(); i++) {
      for (uint64_t words = summary_[i]; words != 0; words &= words - 1) {
        const size_t at = 64 * i + static_cast<size_t>(std::countr_zero(words));
        for (uint64_t left = words_[at]; left != 0; left &= left - 1) {
          numbers.push_back(static_cast<uint32_t>(64 * at + static_cast<size_t>(std::countr_zero(left))));
        }
        words_[at] = 0;
      }
      summary_[i] = 0;
    }
    empty_ = true;
  }

 private:
  std::vector<uint64_t> words_, summary_;
  bool empty_ = true;
};

}  // namespace openwafer
