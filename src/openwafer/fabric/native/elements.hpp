// What each vector operation does with one element: the types of its operands and a pure function.
#pragma once

#include <cstdint>

#include "abi.hpp"

namespace openwafer {

// What elements share besides their operands: the float format, the carry between elements, the random generator.
struct ElementState {
  HalfFormat half = HalfFormat::F16;
  bool carry = false;
  uint32_t random = 0xdeadbeef;
  uint32_t random_steps = 0;
};

// The hardware's generator: a Galois register of x^23 + x^18 + 1, `random_steps` steps a draw.
uint16_t draw_random(ElementState& state);

// A run of elements in memory or a scalar, for operations that touch nothing else.
struct Run {
  uint8_t* address = nullptr;  // null: a scalar
  int32_t step = 0;            // bytes from element to element
  uint32_t value = 0;          // of the scalar
};

struct Kernel {
  const char* name;
  uint8_t sources;
  uint8_t destination_bytes;
  uint8_t source_bytes[3];
  uint32_t (*element)(ElementState&, uint32_t, uint32_t, uint32_t);
  // The same over runs, one element after another, so that overlapping operands behave as on the machine.
  // fold: the first source is the destination's value, which goes from element to element.
  void (*bulk)(ElementState&, const Run& destination, const Run* sources, uint32_t count, bool fold);
};

const Kernel& kernel_of(uint32_t operation);
uint32_t kernel_count();
// Operations that elements.cpp's functions do not describe alone.
constexpr const char* FILTER_OPERATION = "dfilt";

}  // namespace openwafer
