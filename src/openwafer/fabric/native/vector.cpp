// Vector operations: how long they are, what they cost, how they begin, take elements and end.
//
// Operations on memory alone are done at once where nothing else of the PE could interfere, and charge their cycles to
// the main thread's clock. All others go element group by element group through the datapath (thread.cpp).
#include <algorithm>
#include <cstring>

#include "groups.hpp"
#include "control.hpp"
#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

// control_transform marks a control wavelet by the two top bits of its index.
constexpr uint32_t CONTROL_MARK = 0xc0000000;

}  // namespace

Status Pe::vector(const Vector& vector, const OperandArgument* arguments) {
  if (vector.operation >= kernel_count()) {
    fail(vector.location, "vector operation " + std::to_string(vector.operation) + " does not exist");
    return Status::FAILED;
  }
  Operation operation;
  operation.vector = vector;
  fill_ids(operation.vector);
  operation.asynchronous = vector.asynchronous != 0;
  complete_ = true;
  const Kernel& kernel = kernel_of(vector.operation);
  const bool filter = kernel.name == std::string_view(FILTER_OPERATION);
  const int expected = filter ? 1 : kernel.sources + 1;
  if (vector.operands != expected) {
    fail(vector.location, std::string("@") + kernel.name + " takes " + std::to_string(expected) + " operands, not " +
                              std::to_string(vector.operands));
    return Status::FAILED;
  }
  operation.source_count = kernel.sources;
  int argument = 0;
  if (!filter && !resolve(arguments[argument++], true, kernel.destination_bytes, operation.destination,
                          operation.vector, operation.asynchronous)) {
    return Status::FAILED;
  }
  for (int i = 0; i < kernel.sources; ++i) {
    if (!resolve(arguments[argument++], false, kernel.source_bytes[i], operation.sources[i], operation.vector,
                 operation.asynchronous)) {
      return Status::FAILED;
    }
  }
  if (!prepare(operation)) return Status::FAILED;
  const bool descriptors = std::any_of(arguments, arguments + expected, [](const OperandArgument& argument) {
    return argument.kind == OperandKind::DSD;
  });
  if (descriptors && !operation.uses_fabric) clock += machine_.timing().descriptor_cycles[kernel.sources];
  if (!operation.uses_fabric && !operation.asynchronous && active_threads_ == 0) {
    run_at_once(operation);
    return machine_.failed() ? Status::FAILED : Status::DONE;
  }
  if (threads_[MAIN_THREAD] == nullptr) threads_[MAIN_THREAD] = std::make_unique<Operation>();
  *threads_[MAIN_THREAD] = operation;
  main_ = Main::WAIT_ISSUE;
  return clock <= now_ ? issue_pending(now_) : Status::WAITING;
}

void Pe::fill_ids(Vector& vector) const {
  if (vector.end_id == SAID_BEFORE) vector.end_id = said_ids_[0];
  if (vector.control_id == SAID_BEFORE) vector.control_id = said_ids_[1];
  if (vector.thread == SAID_BEFORE) vector.thread = said_ids_[2];
}

// Length, width and priority. The length is that of the first source, else of the next, else of the destination, that
// has one; where only scalars and pointers take part, it is 1.
bool Pe::prepare(Operation& operation) {
  const Kernel& kernel = kernel_of(operation.vector.operation);
  const Timing& timing = machine_.timing();
  uint32_t length = 0;
  bool lengthless = true;
  const auto measure = [&](const Operand& operand, bool writes) {
    uint32_t own = operand.length;
    if (operand.kind == Kind::FIFO) {
      const Fifo& fifo = fifos_[operand.queue];
      own = writes ? fifo.write_length : fifo.read_length;
    } else if (operand.kind != Kind::SCALAR && operand.kind != Kind::NONE && !operand.pointer) {
      lengthless = false;
    }
    if (length == 0) length = own;
  };
  for (int i = 0; i < operation.source_count; ++i) measure(operation.sources[i], false);
  measure(operation.destination, true);
  operation.remaining = length == 0 && lengthless ? 1 : length;

  operation.width = timing.width[operation.vector.operation];
  operation.each_operand([&](const Operand& operand) {
    if (operand.fabric() || operand.kind == Kind::FIFO) operation.uses_fabric = true;
    if (operand.kind == Kind::MEMORY && timing.stride_limits) {
      operation.width = std::min(operation.width, stride_limit(row_step(operand) / 2));
    }
  });
  if (operation.remaining == ENDLESS && !operation.uses_fabric) {
    fail(operation.vector.location, std::string("@") + kernel.name + " on memory has no end; set a length");
    return false;
  }
  if (operation.vector.priority != 0) operation.priority = operation.vector.priority;
  // A pointer as destination and a scalar as first source is a reduction: the value goes from element to element.
  if (operation.destination.zero != 0 && operation.source_count > 0) {
    int place = operation.destination.zero == 1 || operation.source_count == 1 ? 0 : 1;
    operation.cleared = operation.sources[place];
  }
  // A FIFO may cut the operation short, and then what the pointer points to stays as it was.
  if (operation.destination.pointer && operation.uses_fabric && !operation.asynchronous) {
    operation.destination.latch = load(operation.destination.address, kernel.destination_bytes,
                                       operation.vector.location, operation.vector.operation);
  }
  operation.fold = operation.destination.pointer && operation.source_count == 2 &&
                   operation.sources[0].kind == Kind::SCALAR;
  if (operation.fold && timing.fold_element_cycles > 0) {
    operation.width = 1;
    operation.group_cycles = static_cast<uint8_t>(timing.fold_element_cycles);
  }
  return true;
}

bool Pe::bulk_operand(Operation& operation, Operand& operand, uint8_t bytes, Run& run) {
  const uint32_t count = operation.remaining;
  if (operand.kind != Kind::MEMORY) {
    run.value = operand.value;
    return true;
  }
  const int64_t last = int64_t{operand.address} + int64_t{operand.step} * (count - 1);
  const int64_t low = std::min<int64_t>(operand.address, last), high = std::max<int64_t>(operand.address, last);
  if (low < 0 || high + bytes > memory_bytes) return false;  // the slow path finds the element and says which
  run.address = memory_.data() + operand.address;
  run.step = operand.step;
  operand.address = static_cast<uint16_t>(operand.address + operand.step * static_cast<int32_t>(count));
  return true;
}

void Pe::run_at_once(Operation& operation) {
  const Kernel& kernel = kernel_of(operation.vector.operation);
  const uint32_t count = operation.remaining;
  const Timing& timing = machine_.timing();
  const Cycle begin = clock;
  const Cycle cycles = all_group_cycles(operation, timing.bank_conflict_cycles);
  clock += timing.setup_cycles[operation.source_count] + cycles + write_stall(operation, count, cycles);
  machine_.trace.add(begin, x, y, TraceKind::VECTOR_START, MAIN_THREAD,
                     operation.vector.operation | operation.vector.location << 8);
  bool simple = count > 0;
  operation.each_operand([&](const Operand& operand) { simple = simple && !operand.four_dims; });
  if (simple) {
    Run destination, sources[3];
    Operation before = operation;
    bool inside = bulk_operand(operation, operation.destination, kernel.destination_bytes, destination);
    for (int i = 0; i < operation.source_count; ++i) {
      inside = inside && bulk_operand(operation, operation.sources[i], kernel.source_bytes[i], sources[i]);
    }
    if (inside) {
      kernel.bulk(elements_, destination, sources, count, operation.fold);
      operation.done = count;
    } else {
      operation = before;
      simple = false;
    }
  }
  if (!simple) issue_elements(operation, count, clock);
  save_registers(operation);
  machine_.trace.add(clock, x, y, TraceKind::VECTOR_END, MAIN_THREAD,
                     operation.vector.operation | operation.vector.location << 8);
}

// A word that is written waits for banks that reads keep busy: in full where they read 8 words a cycle, else in proportion.
uint32_t Pe::write_stall(Operation& operation, uint32_t elements, Cycle cycles) const {
  const double word_cycles = machine_.timing().written_word_cycles;
  if (word_cycles == 0 || operation.uses_fabric || cycles == 0) return 0;
  const Kernel& kernel = kernel_of(operation.vector.operation);
  const auto words = [&](const Operand& operand, uint8_t bytes) {
    const bool streams = operand.kind == Kind::MEMORY && !operand.pointer && row_step(operand) != 0;
    return streams ? elements * (bytes / 2.0) : 0.0;
  };
  double read = 0;
  for (int i = 0; i < operation.source_count; ++i) read += words(operation.sources[i], kernel.source_bytes[i]);
  const double busy = std::min(1.0, read / (8.0 * static_cast<double>(cycles)));
  operation.owed += word_cycles * words(operation.destination, kernel.destination_bytes) * busy;
  const auto whole = static_cast<uint32_t>(operation.owed);
  operation.owed -= whole;
  return whole;
}

// The main thread has come to the cycle in which its operation begins.
Status Pe::issue_pending(Cycle cycle) {
  Operation& operation = *threads_[MAIN_THREAD];
  const Timing& timing = machine_.timing();
  main_ = Main::IDLE;
  const uint32_t setup =
      operation.uses_fabric ? timing.fabric_setup_cycles : timing.setup_cycles[operation.source_count];
  operation.ready = std::max(cycle, clock + setup);
  clock = std::max(clock, cycle);
  operation.started = cycle;
  if (machine_.trace.enabled) note_lack(operation);
  if (operation.asynchronous) {
    if (!start_thread(operation, cycle)) return Status::FAILED;
    clock += timing.start_cycles;
    issue_first(setup, cycle);
    return Status::DONE;
  }
  operation.thread = MAIN_THREAD;
  operation.priority = 0;
  operation.active = true;
  active_threads_ |= 1u << MAIN_THREAD;
  main_ = Main::WAIT_OPERATION;
  machine_.trace.add(cycle, x, y, TraceKind::VECTOR_START, MAIN_THREAD,
                     operation.vector.operation | operation.vector.location << 8);
  if (operation.remaining == 0) {
    finish(operation, cycle);
    main_ = Main::IDLE;
    return Status::DONE;
  }
  return Status::WAITING;
}

// Instructions issue in order: what a microthread can take at once it has read before the code behind it writes, which
// programs rely on that reuse a buffer of one element. Its setup then lies between this issue and what follows from it.
void Pe::issue_first(uint32_t setup, Cycle cycle) {
  Operation& thread = *threads_[last_started_];
  if (!thread.active) return;
  thread.ready = cycle;
  if (thread.destination.kind == Kind::FABRIC_OUT) thread.output_cycles = setup;
  if (issuable(thread, cycle) > 0) {
    issue(thread, cycle);
    if (thread.active && thread.output_cycles == 0) thread.ready += setup;
  } else if (thread.output_cycles == 0) {
    thread.ready = cycle + setup;
  }
}

// The microthread's id: as given; else the output queue's number; else that of the first input queue.
bool Pe::start_thread(Operation& operation, Cycle cycle) {
  uint8_t id = operation.vector.thread;
  if (id == 0xff && operation.destination.kind == Kind::FABRIC_OUT) id = operation.destination.queue;
  for (int i = 0; id == 0xff && i < operation.source_count; ++i) {
    if (operation.sources[i].kind == Kind::FABRIC_IN) id = operation.sources[i].queue;
  }
  const uint32_t location = operation.vector.location;
  if (id >= std::min<uint32_t>(machine_.timing().threads, THREADS)) {
    fail(location, std::string("@") + operation_name(operation.vector.operation) +
                       " is asynchronous but has no microthread: " +
                       (id == 0xff ? std::string("it has no fabric operand") : "id " + std::to_string(id)) +
                       "; give it a queue or microthread of 0 to " + std::to_string(machine_.timing().threads - 1));
    return false;
  }
  if ((active_threads_ >> id) & 1) {
    const Operation& other = *threads_[id];
    fail(location, "re-entry of microthread " + std::to_string(id) + ": @" +
                       operation_name(operation.vector.operation) + " begins while @" +
                       operation_name(other.vector.operation) + " at " + place(other.vector.location) +
                       " still uses it; wait for its end (activate or unblock a task), or use another queue");
    return false;
  }
  if (threads_[id] == nullptr) threads_[id] = std::make_unique<Operation>();
  Operation& thread = *threads_[id];
  thread = operation;
  thread.thread = last_started_ = id;
  thread.active = true;
  active_threads_ |= 1u << id;
  watch_sources();
  machine_.trace.add(cycle, x, y, TraceKind::VECTOR_START, id, thread.vector.operation | location << 8);
  if (thread.remaining == 0) finish(thread, cycle);
  return true;
}

// How many elements the operation could take in this cycle.
uint32_t Pe::issuable(const Operation& operation, Cycle cycle) const {
  if (operation.ready > cycle) return 0;
  if (operation.thread < THREADS && ((blocked_threads_ >> operation.thread) & 1)) return 0;
  const Kernel& kernel = kernel_of(operation.vector.operation);
  uint32_t count = group_limit(operation);
  bool fifo_ends = false;
  const auto limit = [&](const Operand& operand, uint8_t bytes, bool writes) {
    switch (operand.kind) {
      case Kind::FABRIC_IN: {
        const WaveletQueue& queue = inputs_[operand.queue];
        const uint8_t wavelets = queue.ready(cycle, operand.simd >= 2 ? 2 : 1);
        if (wavelets > 0 && operation.vector.control != Action::NONE && queue.front().wavelet.control) return;
        uint32_t room = operand.simd != 0 ? operand.packed + 2u * wavelets : wavelets;
        if (operand.simd == 2 && room < std::min<uint32_t>(4, operation.remaining)) room = 0;
        count = std::min(count, room);
        return;
      }
      case Kind::FABRIC_OUT: {
        const uint8_t room = std::min<uint8_t>(outputs_[operand.queue].room(), operand.simd >= 2 ? 2 : 1);
        count = std::min<uint32_t>(count, operand.simd != 0 ? 2u * room - (room > 0 ? operand.packed : 0u) : room);
        return;
      }
      case Kind::FIFO: {
        const Fifo& fifo = fifos_[operand.queue];
        const uint32_t room = (writes ? fifo.bytes - fifo.used : fifo.used) / bytes;
        if (room == 0 && !operation.asynchronous) fifo_ends = true;
        count = std::min(count, room);
        return;
      }
      default: return;
    }
  };
  limit(operation.destination, kernel.destination_bytes, true);
  for (int i = 0; i < operation.source_count; ++i) limit(operation.sources[i], kernel.source_bytes[i], false);
  return fifo_ends ? 1 : count;
}

// A control wavelet at the head of a source, where the operation has an action for it: the operation ends. The wavelet
// stays, for a task or for the next operation: the public program wse-evo-epi takes it out with one of its own.
bool Pe::take_control(Operation& operation, Cycle cycle) {
  if (operation.vector.control == Action::NONE) return false;
  for (int i = 0; i < operation.source_count; ++i) {
    const Operand& source = operation.sources[i];
    if (source.kind != Kind::FABRIC_IN || source.packed > 0) continue;
    if (inputs_[source.queue].ready(cycle, 1) == 0 || !inputs_[source.queue].front().wavelet.control) continue;
    if (operation.vector.control != Action::TERMINATE) {  // which only ends it; others take the place of its own action
      operation.vector.end = operation.vector.control;
      operation.vector.end_target = operation.vector.control_target;
      operation.vector.end_id = operation.vector.control_id;
    }
    finish(operation, cycle);
    return true;
  }
  return false;
}

void Pe::issue(Operation& operation, Cycle cycle) {
  const WaitNote note(*this, operation, cycle);
  ++statistics.busy;
  if (take_control(operation, cycle)) return;
  if (kernel_of(operation.vector.operation).name == std::string_view(FILTER_OPERATION)) {
    issue_filter(operation, cycle);
    return;
  }
  if (!operation.asynchronous && note_shortage(operation)) {  // an empty or full FIFO ends a synchronous operation
    complete_ = false;
    const Operand& destination = operation.destination;
    if (destination.pointer) {
      store(destination.address, kernel_of(operation.vector.operation).destination_bytes, destination.latch,
            operation.vector.location, operation.vector.operation);
    }
    finish(operation, cycle);
    return;
  }
  const uint32_t count = issuable(operation, cycle);
  uint32_t cycles = group_cycles(operation, count, machine_.timing().bank_conflict_cycles);
  cycles += write_stall(operation, count, cycles);
  issue_elements(operation, count, cycle);
  operation.ready = cycle + cycles;
  if (operation.remaining == 0) finish(operation, cycle + cycles - 1);
}

// @dfilt: drops wavelets until `length` control wavelets have come.
void Pe::issue_filter(Operation& operation, Cycle cycle) {
  const Wavelet wavelet = pop_input(operation.sources[0].queue, cycle);
  operation.ready = cycle + 1;
  ++operation.done;
  if (wavelet.control && operation.remaining != ENDLESS && --operation.remaining == 0) finish(operation, cycle);
}

void Pe::issue_elements(Operation& operation, uint32_t count, Cycle cycle) {
  const Kernel& kernel = kernel_of(operation.vector.operation);
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t value[3] = {};
    for (int s = 0; s < operation.source_count; ++s) {
      value[s] = read_element(operation, operation.sources[s], kernel.source_bytes[s], cycle);
    }
    uint32_t result = kernel.element(elements_, value[0], value[1], value[2]);
    if (kernel.destination_bytes == 2) result &= 0xffff;
    if (operation.remaining != ENDLESS) --operation.remaining;
    ++operation.done;
    write_element(operation, operation.destination, kernel.destination_bytes, result, cycle, operation.remaining == 0);
    if (operation.fold) operation.sources[0].value = result;
    if (machine_.failed()) return;
  }
}

uint32_t Pe::read_element(Operation& operation, Operand& operand, uint8_t bytes, Cycle cycle) {
  switch (operand.kind) {
    case Kind::MEMORY: {
      uint32_t value = load(operand.address, bytes, operation.vector.location, operation.vector.operation);
      if (shadow_ != nullptr) {
        for (uint32_t half = 0; half < bytes; half += 2) {
          const auto word = static_cast<uint16_t>(value >> (8 * half));
          const auto place = static_cast<uint16_t>(operand.address + half);
          value ^= static_cast<uint32_t>(word ^ shadow_->at(place, word, cycle)) << (8 * half);
        }
      }
      operand.advance();
      return value;
    }
    case Kind::FIFO: return fifo_pop(fifos_[operand.queue], bytes, cycle);
    case Kind::FABRIC_IN: {
      if (operand.simd != 0) {
        if (operand.packed == 0) {
          operand.latch = pop_input(operand.queue, cycle).data;
          operand.packed = 2;
        }
        const uint32_t value = operand.latch & 0xffff;
        operand.latch >>= 16;
        --operand.packed;
        return value;
      }
      const Wavelet wavelet = pop_input(operand.queue, cycle);
      uint32_t value = wavelet.data;
      if (operand.control_transform && wavelet.control) value |= CONTROL_MARK;
      return bytes == 2 ? value & 0xffff : value;
    }
    default: return operand.value;
  }
}

void Pe::write_element(Operation& operation, Operand& operand, uint8_t bytes, uint32_t value, Cycle cycle, bool last) {
  switch (operand.kind) {
    case Kind::MEMORY:
      store(operand.address, bytes, value, operation.vector.location, operation.vector.operation);
      operand.advance();
      return;
    case Kind::FIFO: fifo_push(fifos_[operand.queue], bytes, value, cycle); return;
    case Kind::FABRIC_OUT: {
      Wavelet wavelet{value, operand.color, (operand.flags & CONTROL) != 0};
      if (operand.simd != 0) {
        operand.latch |= value << (16 * operand.packed);
        if (++operand.packed < 2 && !last) return;
        wavelet.data = operand.latch;
        operand.latch = 0;
        operand.packed = 0;
      } else if (bytes == 2 && (operand.flags & INDEXED) != 0) {
        wavelet.data = value | static_cast<uint32_t>(operand.index) << 16;
      }
      if (operand.control_transform && (wavelet.data & CONTROL_MARK) == CONTROL_MARK) {
        wavelet.data &= ~CONTROL_MARK;
        wavelet.control = true;
      }
      push_output(operand.queue, wavelet, cycle + operation.output_cycles);
      if (last && (operand.flags & ADVANCE_SWITCH) != 0) {
        push_output(operand.queue, {OWN_ADVANCE, operand.color, true}, cycle + operation.output_cycles);
      }
      return;
    }
    default: return;
  }
}

// `zero` of a fabric output: what was sent from memory is cleared.
void Pe::clear_source(Operation& operation) {
  Operand& operand = operation.cleared;
  if (operand.kind != Kind::MEMORY) return;
  const Kernel& kernel = kernel_of(operation.vector.operation);
  const uint8_t bytes = kernel.source_bytes[operation.destination.zero == 2 && operation.source_count > 1 ? 1 : 0];
  for (uint32_t i = 0; i < operation.done && !machine_.failed(); ++i) {
    store(operand.address, bytes, 0, operation.vector.location, operation.vector.operation);
    operand.advance();
  }
}

void Pe::finish(Operation& operation, Cycle cycle) {
  operation.active = false;
  clear_source(operation);
  active_threads_ &= ~(1u << operation.thread);
  if (watched_bytes != 0) watch_sources();
  save_registers(operation);
  const Cycle end = cycle + 1 + machine_.timing().completion_cycles;
  const Vector& vector = operation.vector;
  machine_.trace.add(end, x, y, TraceKind::VECTOR_END, operation.thread, vector.operation | vector.location << 8);
  if (vector.end != Action::NONE && vector.end != Action::TERMINATE) {
    at({Event::TASK, vector.end, vector.end_target, vector.end_id, 0, 0, end});
  }
  if (vector.unblock != 0) at({Event::TASK, Action::UNBLOCK, vector.unblock_target, vector.unblock_id, 0, 0, end});
  if (operation.thread == MAIN_THREAD) {
    statistics.stalled += end > operation.started ? end - operation.started : 0;
    // The next instruction may have been dispatched while this one went through the pipeline: its time begins before now.
    const Cycle overlap = operation.uses_fabric ? machine_.timing().fabric_overlap_cycles : 0;
    clock = std::max<Cycle>(clock + overlap, operation.uses_fabric ? end : cycle + 1) - overlap;
  }
}

}  // namespace openwafer
