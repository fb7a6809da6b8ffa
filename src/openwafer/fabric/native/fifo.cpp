// FIFOs: rings in a PE's memory. A task can be activated by the push or pop that ends a shortage.
#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

// Remembers that an operation found a FIFO too empty or too full, and how much it still had to do.
bool Pe::note_shortage(const Operation& operation) {
  const Kernel& kernel = kernel_of(operation.vector.operation);
  bool short_of = false;
  const auto look = [&](const Operand& operand, uint8_t bytes, bool writes) {
    if (operand.kind != Kind::FIFO) return;
    Fifo& fifo = fifos_[operand.queue];
    if ((writes ? fifo.bytes - fifo.used : fifo.used) >= bytes) return;
    (writes ? fifo.needs_space : fifo.needs_data) = bytes;
    (writes ? fifo.write_length : fifo.read_length) =
        operation.remaining == ENDLESS ? uint32_t{INFINITE_LENGTH} : operation.remaining;
    short_of = true;
  };
  look(operation.destination, kernel.destination_bytes, true);
  for (int i = 0; i < operation.source_count; ++i) look(operation.sources[i], kernel.source_bytes[i], false);
  return short_of;
}

// What the FIFOs of an operation that find themselves too empty or too full want of it; of several, what waits comes first.
Pe::Shortage Pe::shortage(const Operation& operation) const {
  const Kernel& kernel = kernel_of(operation.vector.operation);
  Shortage found;
  const auto look = [&](const Operand& operand, uint8_t bytes, bool writes) {
    if (operand.kind != Kind::FIFO || found.action == FifoAction::SUSPEND) return;
    const Fifo& fifo = fifos_[operand.queue];
    if ((writes ? fifo.bytes - fifo.used : fifo.used) >= bytes) return;
    const FifoAction action = writes ? fifo.full : fifo.empty;
    if (action != FifoAction::TEST_OR_SUSPEND) found = {action, operand.queue, writes};
  };
  look(operation.destination, kernel.destination_bytes, true);
  for (int i = 0; i < operation.source_count; ++i) look(operation.sources[i], kernel.source_bytes[i], false);
  return found;
}

// `issuable`, with the actions of FIFOs: one that ends the operation lets it issue, once more, for nothing.
uint32_t Pe::ready_elements(const Operation& operation, Cycle cycle) const {
  if (!fifo_actions_) return issuable(operation, cycle);
  const FifoAction action = shortage(operation).action;
  if (action == FifoAction::TEST_OR_SUSPEND) return issuable(operation, cycle);
  if (action == FifoAction::SUSPEND || operation.ready > cycle) return 0;
  return operation.thread >= THREADS || ((blocked_threads_ >> operation.thread) & 1) == 0;
}

// Ends an operation that a FIFO terminates. It counts as complete; how much was left stays in the FIFO's length.
bool Pe::end_by_fifo(Operation& operation, Cycle cycle) {
  const Shortage found = shortage(operation);
  if (found.action != FifoAction::TERMINATE && found.action != FifoAction::FAULT) return false;
  if (found.action == FifoAction::FAULT) {
    const std::string state = found.full ? "full" : "empty";
    fail(operation.vector.location, std::string("@") + operation_name(operation.vector.operation) +
                                        (found.full ? " pushes to FIFO " : " pops from FIFO ") +
                                        std::to_string(found.fifo) + ", which is " + state + " and whose ." + state +
                                        "_action is fault; check before, or choose another action");
    return true;
  }
  note_shortage(operation);
  const Operand& destination = operation.destination;
  if (destination.pointer && !operation.asynchronous) {  // keeps its value, as prepare() saw it
    store(destination.address, kernel_of(operation.vector.operation).destination_bytes, destination.latch,
          operation.vector.location, operation.vector.operation);
  }
  finish(operation, cycle);
  return true;
}

void Pe::fifo_push(Fifo& fifo, uint8_t bytes, uint32_t value, Cycle cycle) {
  for (uint8_t i = 0; i < bytes; i += 2) {  // an element may go round the end
    const uint32_t offset = (fifo.head + fifo.used) % fifo.bytes;
    store(static_cast<uint16_t>(fifo.base + offset), 2, (value >> (8 * i)) & 0xffff, 0, 0);
    fifo.used += 2;
  }
  if (fifo.write_length > 0 && fifo.write_length != INFINITE_LENGTH) --fifo.write_length;
  if (fifo.needs_data == 0 || fifo.used < fifo.needs_data) return;
  fifo.needs_data = 0;
  if (fifo.activate_push < 0) return;
  at({Event::TASK, Action::ACTIVATE, Target::TASK, static_cast<uint8_t>(fifo.activate_push), 0, 0, cycle + 1});
}

uint32_t Pe::fifo_pop(Fifo& fifo, uint8_t bytes, Cycle cycle) {
  uint32_t value = 0;
  for (uint8_t i = 0; i < bytes; i += 2) {
    value |= load(static_cast<uint16_t>(fifo.base + fifo.head), 2, 0, 0) << (8 * i);
    fifo.head = (fifo.head + 2) % fifo.bytes;
    fifo.used -= 2;
  }
  if (fifo.read_length > 0 && fifo.read_length != INFINITE_LENGTH) --fifo.read_length;
  if (fifo.needs_space == 0 || fifo.bytes - fifo.used < fifo.needs_space) return value;
  fifo.needs_space = 0;
  if (fifo.activate_pop < 0) return value;
  at({Event::TASK, Action::ACTIVATE, Target::TASK, static_cast<uint8_t>(fifo.activate_pop), 0, 0, cycle + 1});
  return value;
}

void Pe::fifo_length(uint32_t number, bool write, uint32_t elements) {
  if (number >= fifos_.size() || fifos_[number].bytes == 0) {
    fail(0, "FIFO " + std::to_string(number) + " does not exist; allocate it with @allocate_fifo");
    return;
  }
  (write ? fifos_[number].write_length : fifos_[number].read_length) = elements;
}

}  // namespace openwafer
