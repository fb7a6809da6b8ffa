// How compiled PE code and the fabric talk, in C++. `artifact/_pe_abi.py` is the same contract in Python, and a test
// holds the two together through the sizes and offsets that the module exports.
#pragma once

#include <cstddef>
#include <cstdint>

namespace openwafer {

enum class Status : int32_t { DONE = 0, WAITING = 1, FAILED = 2 };

constexpr int ARGUMENT_WORDS = 32;

struct PeView {
  uint8_t* memory = nullptr;
  uint64_t clock = 0;
  const uint32_t* costs = nullptr;
  const uint64_t* constants = nullptr;
  uint32_t memory_bytes = 0;
  int32_t fuel = 0;
  uint16_t x = 0;
  uint16_t y = 0;
  uint16_t watched_from = 0;
  uint16_t watched_bytes = 0;
  uint32_t arguments[ARGUMENT_WORDS] = {};
};
static_assert(sizeof(PeView) == 48 + 4 * ARGUMENT_WORDS);
static_assert(offsetof(PeView, clock) == 8 && offsetof(PeView, memory_bytes) == 32 && offsetof(PeView, x) == 40);

enum class DescriptorKind : uint8_t { NONE, MEM1D, MEM4D, FABIN, FABOUT, FIFO, CIRCBUF };

enum DescriptorFlag : uint8_t {
  CONTROL = 1,
  ADVANCE_SWITCH = 2,
  INDEXED = 4,
  INDEXED_IN = 8,
  SAVE_ADDRESS = 16,
  SINGLE_STEP = 32,
  ASYNCHRONOUS = 64,
};

struct Descriptor {
  DescriptorKind kind = DescriptorKind::NONE;
  uint8_t flags = 0;
  uint8_t color = 0xff;
  uint8_t queue = 0;
  uint16_t base = 0;
  uint16_t length = 0;
  int16_t stride = 0;
  uint16_t index = 0;
  uint8_t priority = 0;
  uint8_t simd = 0;
  uint8_t control_transform = 0;
  uint8_t zero = 0;
  uint16_t extents[4] = {};
  int16_t strides[4] = {};
};
static_assert(sizeof(Descriptor) == 32);
static_assert(offsetof(Descriptor, base) == 4 && offsetof(Descriptor, priority) == 12 &&
              offsetof(Descriptor, extents) == 16);

enum class OperandKind : uint32_t { NONE, DSD, DSR_DEST, DSR_SRC0, DSR_SRC1, SCALAR, POINTER };

struct OperandArgument {
  OperandKind kind = OperandKind::NONE;
  uint32_t bits = 0;
  const Descriptor* descriptor = nullptr;
};
static_assert(sizeof(OperandArgument) == 16);

enum class Action : uint8_t { NONE, ACTIVATE, UNBLOCK, TERMINATE, BLOCK };
enum class Target : uint8_t { TASK, QUEUE, THREAD, COLOR };

struct Vector {
  uint16_t operation = 0;
  uint8_t operands = 0;
  uint8_t asynchronous = 0;
  uint8_t thread = 0xff;
  uint8_t priority = 0;
  Action end = Action::NONE;
  Target end_target = Target::TASK;
  uint8_t end_id = 0;
  Action control = Action::NONE;
  Target control_target = Target::TASK;
  uint8_t control_id = 0;
  uint8_t unblock = 0;
  Target unblock_target = Target::TASK;
  uint8_t unblock_id = 0;
  uint8_t reserved = 0;
  uint32_t location = 0;
};
static_assert(sizeof(Vector) == 20);
constexpr uint8_t SAID_BEFORE = 0xfe;  // an id that ow_vector_id gave

enum class HalfFormat : uint8_t { F16, BF16, CB16 };
enum class PrintKind : uint8_t { STRING, U16, U32, I16, I32, F16, F32, HEX16, HEX32, BOOL, TIMESTAMP };
enum class MapType : uint8_t { I8, U8, I16, U16, I32, U32, F16, BF16, CB16, F32 };
constexpr uint8_t MAP_WRITE = 0x80;  // added to the type of an operand that @map writes
constexpr uint8_t MAP_END = 0xff;    // ends the list of types
enum class Trap : uint8_t { INDEX, ADDRESS, ASSERT, DIVISION, UNREACHABLE, STACK, SHIFT };

using EntryFunction = int32_t (*)(PeView*, uint8_t*);

// A length without an end, in a descriptor.
constexpr uint16_t INFINITE_LENGTH = 0x7fff;

}  // namespace openwafer
