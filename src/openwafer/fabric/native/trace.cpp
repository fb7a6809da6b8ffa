// What the trace says of waits, and of wavelets on their way through routers.
#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

constexpr uint32_t CONTROL_BIT = 1 << 8;
constexpr uint32_t MAP_OPERATION = 255;  // in place of an operation

uint32_t waiter(uint8_t thread, Lack lack, uint8_t number) {
  return thread | static_cast<uint32_t>(lack) << 4 | uint32_t{number} << 8;
}

}  // namespace

// What keeps the operation from going on in `cycle`, and the color or FIFO that it is about.
std::pair<Lack, uint8_t> Pe::lack_of(const Operation& operation, Cycle cycle) const {
  if (operation.thread < THREADS && ((blocked_threads_ >> operation.thread) & 1)) return {Lack::BLOCKED, NO_COLOR};
  std::pair<Lack, uint8_t> found{Lack::SLOT, NO_COLOR};
  const auto look = [&](const Operand& operand, bool writes) {
    if (found.first != Lack::SLOT) return;
    if (operand.kind == Kind::FABRIC_IN && operand.packed == 0 && inputs_[operand.queue].ready(cycle, 1) == 0) {
      found = {Lack::INPUT, inputs_[operand.queue].color};
    } else if (operand.kind == Kind::FABRIC_OUT && outputs_[operand.queue].room() == 0) {
      found = {Lack::OUTPUT, operand.color};
    } else if (operand.kind == Kind::FIFO) {
      const Fifo& fifo = fifos_[operand.queue];
      if (writes ? fifo.used >= fifo.bytes : fifo.used == 0) found = {Lack::FIFO, operand.queue};
    }
  };
  for (int i = 0; i < operation.source_count; ++i) look(operation.sources[i], false);
  look(operation.destination, true);
  return found;
}

void Pe::trace_wait(const Operation& operation, Cycle from, Cycle to) {
  if (to <= from) return;
  const bool in_map = map_ != nullptr && &operation == &map_->operation;
  const uint32_t code = in_map ? MAP_OPERATION : operation.vector.operation;
  machine_.trace.add(from, x, y, TraceKind::WAIT, waiter(operation.thread, operation.lack, operation.lack_number),
                     code | operation.vector.location << 8, static_cast<uint32_t>(to - from));
}

Pe::WaitNote::WaitNote(Pe& pe, Operation& operation, Cycle cycle) : pe_(pe), operation_(operation) {
  if (pe.machine_.trace.enabled) pe.trace_wait(operation, operation.ready, cycle);
}

Pe::WaitNote::~WaitNote() {
  if (pe_.machine_.trace.enabled && operation_.active) pe_.note_lack(operation_);
}

void Pe::note_lack(Operation& operation) {
  std::tie(operation.lack, operation.lack_number) = lack_of(operation, operation.ready);
}

// The main thread waits in @map from its own `clock` on.
void Pe::note_map_lack() {
  Operation& operation = map_->operation;
  operation.thread = MAIN_THREAD;
  for (const Operand& operand : map_->operands) {
    if (operand.kind == Kind::FABRIC_IN && inputs_[operand.queue].ready(now_, 1) == 0) {
      operation.lack = Lack::INPUT;
      operation.lack_number = inputs_[operand.queue].color;
    } else if (operand.kind == Kind::FABRIC_OUT && outputs_[operand.queue].room() == 0) {
      operation.lack = Lack::OUTPUT;
      operation.lack_number = operand.color;
    }
  }
}

// Waits that have not ended.
void Pe::trace_open_waits(Cycle cycle) {
  for (uint8_t thread = 0; thread <= MAIN_THREAD; ++thread) {
    if ((active_threads_ >> thread) & 1) trace_wait(*threads_[thread], threads_[thread]->ready, cycle);
  }
  if (main_ == Main::WAIT_MAP) trace_wait(map_->operation, clock, cycle);
}

// All records so far; waits that have not ended appear as if they ended now.
std::vector<TraceRecord> Machine::trace_records() {
  const size_t made = trace.records.size();
  const size_t limit = trace.limit;
  trace.limit = SIZE_MAX;
  if (trace.enabled) {
    for (const auto& pe : pes_) {
      if (pe != nullptr) pe->trace_open_waits(cycle_);
    }
  }
  std::vector<TraceRecord> all = trace.records;
  trace.records.resize(made);
  trace.limit = limit;
  return all;
}

void Machine::set_trace(bool enabled, bool wavelets, bool passages, size_t limit) {
  trace.enabled = enabled;
  trace.wavelets = enabled && wavelets;
  trace.limit = limit;
  network_.observe(enabled && passages);
}

// Routers outside of the program's rectangle are not part of the trace.
void Machine::passed(Tile tile, const Wavelet& wavelet, uint8_t from, uint8_t sides, Cycle cycle) {
  const uint32_t x = tile % options_.width - options_.left, y = tile / options_.width - options_.top;
  if (x >= options_.width || y >= options_.height) return;
  trace.add(cycle, static_cast<uint16_t>(x), static_cast<uint16_t>(y), TraceKind::PASSAGE,
            wavelet.color | uint32_t{from} << 8, wavelet.data, sides | (wavelet.control ? CONTROL_BIT : 0));
}

}  // namespace openwafer
