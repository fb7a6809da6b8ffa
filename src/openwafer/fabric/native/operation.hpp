// A vector operation in progress: its operands as they stand after each element, and what happens at its end.
#pragma once

#include <cstdint>

#include "abi.hpp"
#include "network.hpp"
#include "trace.hpp"

namespace openwafer {

constexpr uint32_t ENDLESS = ~0u;

enum class Kind : uint8_t { NONE, MEMORY, SCALAR, FABRIC_IN, FABRIC_OUT, FIFO };

struct Operand {
  Kind kind = Kind::NONE;
  OperandKind file = OperandKind::NONE;  // the DSR that it came from, if any
  uint8_t number = 0;                    // of that DSR
  uint8_t queue = 0;                     // fabric: the queue; FIFO: its number
  uint8_t flags = 0;
  uint8_t simd = 0;
  uint8_t zero = 0;                      // fabric out: the source that is cleared at the end
  bool control_transform = false;
  bool four_dims = false;
  bool pointer = false;
  uint8_t color = 0xff;
  uint8_t packed = 0;      // fabric in SIMD mode: 16-bit values in `latch`
  uint32_t latch = 0;
  uint32_t value = 0;      // scalar
  uint32_t length = 0;     // elements; 0: gives no length
  uint16_t address = 0;    // memory: byte address of the next element
  uint16_t index = 0;      // fabric out: in the high half of each wavelet
  int32_t step = 0;        // memory, one dim: bytes from element to element
  uint16_t start = 0;      // four dims: the first address
  uint16_t at[4] = {}, extents[4] = {};
  int32_t strides[4] = {};  // in bytes, outermost first

  bool fabric() const { return kind == Kind::FABRIC_IN || kind == Kind::FABRIC_OUT; }
  // Goes on to the next element in memory. Strides are those of the access function: the address of element (i, j, k, l)
  // is base + i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3].
  void advance() {
    if (!four_dims) {
      address = static_cast<uint16_t>(address + step);
      return;
    }
    for (int dim = 3; dim >= 0; --dim) {
      address = static_cast<uint16_t>(address + strides[dim]);
      if (++at[dim] < extents[dim]) return;
      address = static_cast<uint16_t>(address - strides[dim] * extents[dim]);
      at[dim] = 0;
    }
  }
  // Where the next operation begins if the DSR keeps its address: one position on in the outermost dim that is used.
  uint16_t saved_address(uint32_t elements_done) const {
    if (!four_dims) return address;
    if (elements_done == 0) return start;
    int outer = 0;
    while (outer < 3 && extents[outer] <= 1) ++outer;
    return static_cast<uint16_t>(start + strides[outer] * extents[outer]);
  }
};

struct Operation {
  Vector vector;
  Operand destination;
  Operand sources[3];
  Operand cleared;            // a copy of the source whose memory is cleared at the end, as it began
  uint8_t source_count = 0;
  uint8_t thread = 0;
  bool active = false;
  bool asynchronous = false;
  bool fold = false;          // the first source is the value that the destination holds
  bool uses_fabric = false;   // the fabric or a FIFO: can wait
  uint16_t width = 1;         // elements a cycle
  double owed = 0;            // parts of a cycle that its writes have held it up
  uint8_t group_cycles = 1;   // cycles that a group of elements takes without a conflict of banks
  uint8_t priority = 1;       // 1 low, 2 medium, 3 high
  uint32_t remaining = 0;     // elements, or ENDLESS
  uint32_t done = 0;          // elements
  Cycle ready = 0;            // the first cycle of its next issue
  uint32_t output_cycles = 0; // from issue until a wavelet is in its queue, beyond the next cycle
  Cycle started = 0;
  Lack lack = Lack::SLOT;     // traced: what it lacked after its last issue
  uint8_t lack_number = 0xff;

  template <class F>
  void each_operand(F&& visit) {
    visit(destination);
    for (int i = 0; i < source_count; ++i) visit(sources[i]);
  }
  template <class F>
  void each_operand(F&& visit) const {
    visit(destination);
    for (int i = 0; i < source_count; ++i) visit(sources[i]);
  }
};

}  // namespace openwafer
