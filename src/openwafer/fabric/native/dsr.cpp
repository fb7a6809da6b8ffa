// From what code passes (DSDs, registers, scalars, pointers) to operands: data structure registers and queue bindings.
#include <algorithm>

#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

constexpr uint16_t ENDLESS_ROWS = 0xffff;  // a circular buffer goes round until its length is used up

const char* file_name(OperandKind file) {
  switch (file) {
    case OperandKind::DSR_DEST: return "dsr_dest";
    case OperandKind::DSR_SRC0: return "dsr_src0";
    default: return "dsr_src1";
  }
}

}  // namespace

Pe::Dsr* Pe::dsr(OperandKind file, uint32_t number) {
  const Timing& timing = machine_.timing();
  const bool dest = file == OperandKind::DSR_DEST, src0 = file == OperandKind::DSR_SRC0;
  std::vector<Dsr>& registers = dest ? dsr_dest_ : src0 ? dsr_src0_ : dsr_src1_;
  const uint32_t count = dest ? timing.dsr_dest : src0 ? timing.dsr_src0 : timing.dsr_src1;
  if (number >= count) {
    fail(0, std::string(file_name(file)) + " " + std::to_string(number) + " does not exist; there are " +
                std::to_string(count) + " of them, from 0");
    return nullptr;
  }
  if (registers.size() <= number) registers.resize(number + 1);
  return &registers[number];
}

Status Pe::load_dsr(OperandKind file, uint32_t number, const Descriptor& descriptor, const Vector* vector) {
  Dsr* to = dsr(file, number);
  if (to == nullptr) return Status::FAILED;
  to->descriptor = descriptor;
  to->vector = vector != nullptr ? *vector : Vector{};
  fill_ids(to->vector);
  to->loaded = true;
  clock += machine_.timing().dsr_load_cycles;
  return Status::DONE;
}

void Pe::set_dsr_base(OperandKind file, uint32_t number, uint32_t base) {
  Dsr* to = dsr(file, number);
  if (to == nullptr) return;
  const bool memory = to->descriptor.kind == DescriptorKind::MEM1D || to->descriptor.kind == DescriptorKind::MEM4D ||
                      to->descriptor.kind == DescriptorKind::CIRCBUF;
  if (!to->loaded || !memory) {
    fail(0, std::string("@set_dsr_base_addr changes ") + file_name(file) + " " + std::to_string(number) +
                ", which holds no memory DSD; load one first with @load_to_dsr");
    return;
  }
  to->descriptor.base = static_cast<uint16_t>(base);
  to->descriptor.index = 0;
}

bool Pe::resolve(const OperandArgument& argument, bool destination, uint8_t bytes, Operand& operand, Vector& vector,
                 bool& asynchronous) {
  switch (argument.kind) {
    case OperandKind::SCALAR:
      operand.kind = Kind::SCALAR;
      operand.value = bytes == 2 ? argument.bits & 0xffff : argument.bits;
      return true;
    case OperandKind::POINTER:
      operand.kind = Kind::MEMORY;
      operand.pointer = true;
      operand.address = static_cast<uint16_t>(argument.bits);
      return true;
    case OperandKind::DSD: return resolve_descriptor(*argument.descriptor, bytes, operand, vector);
    case OperandKind::DSR_DEST:
    case OperandKind::DSR_SRC0:
    case OperandKind::DSR_SRC1: {
      Dsr* from = dsr(argument.kind, argument.bits);
      if (from == nullptr) return false;
      if (!from->loaded) {
        fail(vector.location, std::string("@") + operation_name(vector.operation) + " uses " +
                                  file_name(argument.kind) + " " + std::to_string(argument.bits) +
                                  ", which holds nothing; load it first with @load_to_dsr");
        return false;
      }
      if (!resolve_descriptor(from->descriptor, bytes, operand, vector)) return false;
      operand.file = argument.kind;
      operand.number = static_cast<uint8_t>(argument.bits);
      if (from->descriptor.flags & ASYNCHRONOUS) {
        asynchronous = true;
        const Vector& loaded = from->vector;
        if (loaded.thread != 0xff) vector.thread = loaded.thread;
        if (loaded.priority != 0) vector.priority = loaded.priority;
        if (loaded.end != Action::NONE) {
          vector.end = loaded.end;
          vector.end_target = loaded.end_target;
          vector.end_id = loaded.end_id;
        }
        if (loaded.control != Action::NONE) {
          vector.control = loaded.control;
          vector.control_target = loaded.control_target;
          vector.control_id = loaded.control_id;
        }
        if (loaded.unblock != 0) {
          vector.unblock = 1;
          vector.unblock_target = loaded.unblock_target;
          vector.unblock_id = loaded.unblock_id;
        }
      }
      return true;
    }
    case OperandKind::NONE: break;
  }
  fail(vector.location, std::string("@") + operation_name(vector.operation) + " has " +
                            (destination ? "no destination" : "a source that is nothing") +
                            "; this is a fault of the compiler");
  return false;
}

bool Pe::resolve_descriptor(const Descriptor& descriptor, uint8_t bytes, Operand& operand, Vector& vector) {
  operand.flags = descriptor.flags;
  operand.length = descriptor.length == INFINITE_LENGTH ? ENDLESS : descriptor.length;
  operand.simd = bytes == 2 ? descriptor.simd : 0;
  operand.control_transform = descriptor.control_transform != 0;
  if (descriptor.priority != 0) vector.priority = descriptor.priority;
  switch (descriptor.kind) {
    case DescriptorKind::MEM1D:
      operand.kind = Kind::MEMORY;
      operand.address = descriptor.base;
      operand.step = bytes * descriptor.stride;
      return true;
    case DescriptorKind::MEM4D: {
      operand.kind = Kind::MEMORY;
      operand.four_dims = true;
      operand.address = operand.start = descriptor.base;
      uint32_t length = 1;
      for (int dim = 0; dim < 4; ++dim) {
        operand.extents[dim] = descriptor.extents[dim];
        operand.strides[dim] = bytes * descriptor.strides[dim];
        length *= descriptor.extents[dim];
      }
      operand.length = length;
      return true;
    }
    case DescriptorKind::CIRCBUF: {  // as a memory vector of rows that all lie on one another
      const uint16_t words = static_cast<uint16_t>(bytes / 2);
      operand.kind = Kind::MEMORY;
      operand.four_dims = true;
      operand.start = descriptor.base;
      operand.address = static_cast<uint16_t>(descriptor.base + 2 * descriptor.index);
      for (uint16_t& extent : operand.extents) extent = ENDLESS_ROWS;
      operand.extents[3] = static_cast<uint16_t>(descriptor.extents[3] / words);
      operand.at[3] = static_cast<uint16_t>(descriptor.index / words);
      operand.strides[3] = bytes;
      return true;
    }
    case DescriptorKind::FABIN:
      operand.kind = Kind::FABRIC_IN;
      return bind_input(descriptor.color, descriptor.queue, vector.location, operand.queue);
    case DescriptorKind::FABOUT:
      operand.kind = Kind::FABRIC_OUT;
      operand.zero = descriptor.zero;
      operand.index = descriptor.index;
      return bind_output(descriptor.color, descriptor.queue, vector.location, operand);
    case DescriptorKind::FIFO:
      operand.kind = Kind::FIFO;
      operand.queue = descriptor.queue;
      if (descriptor.queue >= fifos_.size() || fifos_[descriptor.queue].bytes == 0) {
        fail(vector.location, "FIFO " + std::to_string(descriptor.queue) +
                                  " does not exist; allocate it with @allocate_fifo");
        return false;
      }
      operand.length = 0;  // the FIFO's own lengths count: prepare() knows which side this is
      return true;
    case DescriptorKind::NONE: break;
  }
  fail(vector.location, std::string("@") + operation_name(vector.operation) + describe_no_descriptor(descriptor));
  return false;
}

// What stands where a DSD should. The variable is the one with these bytes, if there is only one.
std::string Pe::describe_no_descriptor(const Descriptor& descriptor) const {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&descriptor);
  const bool zero = std::all_of(bytes, bytes + sizeof(Descriptor), [](uint8_t byte) { return byte == 0; });
  std::string text = " has an operand that is no DSD: ";
  text += zero ? "it was never set, or something has written zeros over " : "something has written over ";
  const auto holds = [&](const Program::DescriptorPlace& place) {
    return place.address + sizeof(Descriptor) <= memory_bytes &&
           std::equal(bytes, bytes + sizeof(Descriptor), memory_.begin() + place.address);
  };
  const auto found = std::find_if(program_.descriptors.begin(), program_.descriptors.end(), holds);
  const auto end = program_.descriptors.end();
  if (found == end || std::any_of(found + 1, end, holds)) {
    return text + "it; check the lengths and addresses of what is written to memory";
  }
  text += found->name;
  if (!found->before.empty()) text += ", which lies behind " + found->before + " in memory";
  return text + "; check the lengths and addresses of what is written there";
}

bool Pe::bind_automatic(uint8_t color) {
  if (queue_of_color_[color] != NO_QUEUE) return true;
  WaveletQueue queue;
  queue.allocate(machine_.timing().automatic_depth);
  queue.color = color;
  queue_of_color_[color] = static_cast<uint8_t>(inputs_.size());
  inputs_.push_back(std::move(queue));
  return true;
}

bool Pe::bind_input(uint8_t color, uint8_t queue, uint32_t location, uint8_t& bound) {
  const size_t numbered = machine_.timing().input_depth.size();
  if (queue == NO_QUEUE && color < COLORS) {
    if (machine_.wse3() && queue_of_color_[color] == NO_QUEUE) {
      fail(location, "no input queue takes color " + std::to_string(color) + "; initialise one with @initialize_queue");
      return false;
    }
    bind_automatic(color);
    bound = queue_of_color_[color];
    return true;
  }
  if (queue >= numbered) {
    fail(location, "input queue " + std::to_string(queue) + " does not exist; there are " + std::to_string(numbered) +
                       ", from 0");
    return false;
  }
  bound = queue;
  WaveletQueue& input = inputs_[queue];
  if (machine_.wse3() || color >= COLORS) {
    if (!input.allocated()) {
      fail(location, "input queue " + std::to_string(queue) +
                         " was never initialised; call @initialize_queue with its color in a comptime block");
      return false;
    }
    return true;
  }
  if (input.color == color) return true;
  if (input.allocated() && input.count() > 0) {
    fail(location, "input queue " + std::to_string(queue) + " still holds wavelets of color " +
                       std::to_string(input.color) + " and cannot take color " + std::to_string(color) +
                       "; use another queue, or read the wavelets first");
    return false;
  }
  input.allocate(machine_.timing().input_depth[queue]);
  if (input.color < COLORS && queue_of_color_[input.color] == queue) queue_of_color_[input.color] = NO_QUEUE;
  input.color = color;
  const uint8_t before = queue_of_color_[color];
  queue_of_color_[color] = queue;
  if (before != NO_QUEUE) {  // another queue took this color until now: its wavelets come along
    WaveletQueue& old = inputs_[before];
    while (old.count() > 0 && input.room() > 0) {
      const Cycle ready = old.front().ready;
      input.push(old.pop(), ready);
    }
    if (old.count() > 0) {
      fail(location, "color " + std::to_string(color) + " has more wavelets waiting in input queue " +
                         std::to_string(before) + " than queue " + std::to_string(queue) +
                         " holds; use one queue for a color");
      return false;
    }
    old.color = NO_COLOR;
  }
  machine_.network().wake(tile_, color, now_);
  return true;
}

bool Pe::bind_output(uint8_t color, uint8_t queue, uint32_t location, Operand& operand) {
  const size_t numbered = machine_.timing().output_depth.size();
  const bool automatic = queue == NO_QUEUE && !machine_.wse3();
  if (automatic) queue = static_cast<uint8_t>(numbered);
  if (queue >= numbered && !automatic) {
    fail(location, "output queue " + std::to_string(queue) + " does not exist; there are " +
                       std::to_string(numbered) + ", from 0");
    return false;
  }
  WaveletQueue& output = outputs_[queue];
  if (machine_.wse3() && !output.allocated()) {
    fail(location, "output queue " + std::to_string(queue) +
                       " was never initialised; call @initialize_queue with its color in a comptime block");
    return false;
  }
  output.allocate(automatic ? machine_.timing().automatic_depth : machine_.timing().output_depth[queue]);
  operand.queue = queue;
  operand.color = color < COLORS ? color : output.color;
  if (operand.color >= COLORS) {
    fail(location, "output queue " + std::to_string(queue) +
                       " has no color; give the fabout DSD a fabric_color or initialise the queue");
    return false;
  }
  return true;
}

void Pe::save_registers(Operation& operation) {
  operation.each_operand([&](Operand& operand) {
    if (operand.file == OperandKind::NONE || operand.kind != Kind::MEMORY) return;
    if ((operand.flags & SAVE_ADDRESS) == 0) return;
    Dsr* to = dsr(operand.file, operand.number);
    if (to == nullptr) return;
    Descriptor& descriptor = to->descriptor;
    if (descriptor.kind == DescriptorKind::CIRCBUF) {
      descriptor.index = static_cast<uint16_t>((operand.address - descriptor.base) / 2);
    } else {
      descriptor.base = operand.saved_address(operation.done);
    }
  });
}

}  // namespace openwafer
