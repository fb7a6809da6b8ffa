// A queue between the compute element and its router: a small ring of wavelets, allocated once something is bound to it.
#pragma once

#include <memory>

#include "network.hpp"

namespace openwafer {

constexpr uint8_t NO_COLOR = 0xff;
constexpr uint8_t NO_QUEUE = 0xff;

class WaveletQueue {
 public:
  struct Slot {
    Cycle ready;  // the first cycle in which it can be taken
    Wavelet wavelet;
  };

  uint8_t color = NO_COLOR;
  uint8_t priority = 0;
  bool initialised = false;
  bool flushing = false;  // @queue_flush waits for it to become empty

  void allocate(uint8_t depth) {
    if (slots_ != nullptr) return;
    slots_ = std::make_unique<Slot[]>(depth + 1u);  // one more: the wavelet that advances a switch needs no room
    depth_ = depth;
  }
  bool allocated() const { return slots_ != nullptr; }
  uint8_t depth() const { return depth_; }
  uint8_t count() const { return count_; }
  uint8_t room() const { return count_ < depth_ ? depth_ - count_ : 0; }
  const Slot& at(uint8_t index) const { return slots_[place(index)]; }
  const Slot& front() const { return slots_[head_]; }
  // Wavelets that can be taken in `cycle`, up to `limit`.
  uint8_t ready(Cycle cycle, uint8_t limit) const {
    uint8_t n = 0;
    while (n < count_ && n < limit && at(n).ready <= cycle) ++n;
    return n;
  }
  void push(const Wavelet& wavelet, Cycle ready) {
    slots_[place(count_)] = Slot{ready, wavelet};
    ++count_;
  }
  Wavelet pop() {
    const Wavelet wavelet = slots_[head_].wavelet;
    head_ = place(1);
    --count_;
    return wavelet;
  }

 private:
  uint8_t place(uint8_t index) const {  // of the ring, from the head
    const int at = head_ + index;
    return static_cast<uint8_t>(at > depth_ ? at - depth_ - 1 : at);
  }

  std::unique_ptr<Slot[]> slots_;
  uint8_t depth_ = 0, head_ = 0, count_ = 0;
};

}  // namespace openwafer
