// What a group of elements costs. Memory has 8 banks of 16-bit words in turn; each gives one word a cycle and takes one. So a
// group takes as many cycles as the busiest bank has words of its sources to give, or of its destination to take.
#include "groups.hpp"

#include <algorithm>

#include "elements.hpp"

namespace openwafer {

namespace {

constexpr uint32_t BANKS = 8;
constexpr uint32_t WORD_BYTES = 2;
constexpr int INNERMOST = 3;

// The dimension along which rows run: the innermost that has more than one element.
int row_dimension(const Operand& operand) {
  int dim = INNERMOST;
  while (dim > 0 && operand.extents[dim] <= 1) --dim;
  return dim;
}

bool has_rows(const Operand& operand) { return operand.kind == Kind::MEMORY && operand.four_dims; }

uint32_t rest_of_row(const Operand& operand) {
  const int dim = row_dimension(operand);
  return operand.extents[dim] > operand.at[dim] ? operand.extents[dim] - operand.at[dim] : 1u;
}

// Words of successive elements from an address on, as the banks see them.
struct Stream {
  uint32_t address = 0;
  int32_t step = 0;
  uint32_t words = 0;  // of an element; 0: not in memory

  bool operator==(const Stream& other) const {
    return address == other.address && step == other.step && words == other.words;
  }
  void move(uint32_t elements) { address += static_cast<uint32_t>(step) * elements; }
};

Stream stream_of(const Operand& operand, uint8_t bytes) {
  if (operand.kind != Kind::MEMORY) return {};
  return {operand.address, row_step(operand), bytes / WORD_BYTES};
}

// The memory traffic of an operation.
struct Traffic {
  Stream sources[2], destination;

  explicit Traffic(const Operation& operation) {
    const Kernel& kernel = kernel_of(operation.vector.operation);
    for (int i = 0, found = 0; i < operation.source_count && found < 2; ++i) {
      const Stream stream = stream_of(operation.sources[i], kernel.source_bytes[i]);
      if (stream.words != 0) sources[found++] = stream;
    }
    if (!operation.destination.pointer) destination = stream_of(operation.destination, kernel.destination_bytes);
  }
  void move(uint32_t elements) {
    for (Stream& source : sources) source.move(elements);
    destination.move(elements);
  }
  // Whether every further group of so many elements costs the same, because the banks of both sources move alike.
  bool steady(uint32_t elements) const {
    if (sources[1].words == 0) return true;
    return (static_cast<uint32_t>(sources[0].step - sources[1].step) * elements) % (WORD_BYTES * BANKS) == 0;
  }
};

// Adds what `elements` of a stream ask of each bank. A stream that stands still is read once.
void ask(uint8_t (&banks)[BANKS], const Stream& stream, uint32_t elements) {
  if (stream.step == 0) elements = 1;
  for (uint32_t element = 0; element < elements; ++element) {
    const uint32_t word = (stream.address + static_cast<uint32_t>(stream.step) * element) / WORD_BYTES;
    for (uint32_t i = 0; i < stream.words; ++i) ++banks[(word + i) % BANKS];
  }
}

uint32_t cost(const Traffic& traffic, uint32_t elements, uint32_t conflict_cycles, uint32_t least) {
  uint8_t reads[BANKS] = {}, writes[BANKS] = {};
  ask(reads, traffic.sources[0], elements);
  if (!(traffic.sources[0] == traffic.sources[1])) ask(reads, traffic.sources[1], elements);
  ask(writes, traffic.destination, elements);
  const uint32_t busiest = std::max<uint32_t>(*std::max_element(reads, reads + BANKS),
                                              *std::max_element(writes, writes + BANKS));
  return std::max(least, busiest > 1 ? 1 + (busiest - 1) * conflict_cycles : 1);
}

// Goes on by so many elements, all of which lie in the row.
void skip(Operand& operand, uint32_t elements) {
  if (operand.kind != Kind::MEMORY) return;
  if (!operand.four_dims) {
    operand.address = static_cast<uint16_t>(operand.address + operand.step * static_cast<int32_t>(elements));
    return;
  }
  const int dim = row_dimension(operand);
  operand.at[dim] = static_cast<uint16_t>(operand.at[dim] + elements - 1);
  operand.address = static_cast<uint16_t>(operand.address + operand.strides[dim] * static_cast<int32_t>(elements - 1));
  operand.advance();
}

uint32_t run_length(const Operation& operation) {
  uint32_t run = operation.remaining;
  operation.each_operand([&](const Operand& operand) {
    if (has_rows(operand)) run = std::min(run, rest_of_row(operand));
  });
  return run;
}

}  // namespace

uint16_t stride_limit(int stride) {
  const int phase = ((stride % 8) + 8) % 8;
  return stride != 1 && (phase == 1 || phase == 7) ? 2 : 0xffff;
}

int32_t row_step(const Operand& operand) {
  return operand.four_dims ? operand.strides[row_dimension(operand)] : operand.step;
}

uint32_t group_limit(const Operation& operation) {
  const uint32_t limit = std::min<uint32_t>(operation.width, operation.remaining);
  return limit <= 1 ? limit : std::min(limit, run_length(operation));
}

uint32_t group_cycles(const Operation& operation, uint32_t elements, uint32_t conflict_cycles) {
  // The last element of a reduction has no next one that needs the sum before it.
  const bool last = operation.fold && elements == operation.remaining;
  return cost(Traffic(operation), elements, conflict_cycles, last ? 1 : operation.group_cycles);
}

uint64_t all_group_cycles(const Operation& operation, uint32_t conflict_cycles) {
  Operation rest = operation;
  uint64_t cycles = 0;
  while (rest.remaining > 0) {
    const uint32_t run = run_length(rest);
    const uint32_t whole = run / rest.width, left = run % rest.width;
    Traffic traffic(rest);
    if (traffic.steady(rest.width)) {
      if (whole > 0) cycles += uint64_t{whole} * cost(traffic, rest.width, conflict_cycles, rest.group_cycles);
      traffic.move(whole * rest.width);
    } else {
      for (uint32_t group = 0; group < whole; ++group) {
        cycles += cost(traffic, rest.width, conflict_cycles, rest.group_cycles);
        traffic.move(rest.width);
      }
    }
    if (left > 0) cycles += cost(traffic, left, conflict_cycles, rest.group_cycles);
    rest.remaining -= run;
    if (rest.remaining > 0) rest.each_operand([&](Operand& operand) { skip(operand, run); });
  }
  if (operation.fold && cycles > 0) cycles -= operation.group_cycles - 1;  // as in group_cycles
  return cycles;
}

}  // namespace openwafer
