// Memory-mapped configuration, and the memory behind vector operations with its checks.
//
// Word addresses 0x7f20 + color are route registers, 0x7f40 + color switch registers; the network gives them their
// meaning. Numbers of our own, as the libraries use them: 0x7d02 the main thread's priority, 0x7d04 and 0x7d05 the state
// of the active random generator, 0x7d08 and 0x7d09 flushed input and output queues, 0x7d20 + id task priorities,
// 0x7d60 + 8 n the counter, limit1 and maximum of filter n, 0x7f80 to 0x7f82 the counter of cycles, 0x7f88 whether it
// counts. Other registers keep what is written to them. A write takes effect in the cycle of the instruction, and a read
// sees the writes before it in program order.
#include <cstring>

#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

constexpr uint32_t ROUTES = 0x7f20, SWITCHES = 0x7f40;
constexpr uint32_t MAIN_PRIORITY = 0x7d02, RANDOM_LOW = 0x7d04, RANDOM_HIGH = 0x7d05;
constexpr uint32_t FLUSHED_INPUTS = 0x7d08, FLUSHED_OUTPUTS = 0x7d09, TASK_PRIORITIES = 0x7d20;
constexpr uint32_t COUNTER = 0x7f80, COUNTER_WORDS = 3, COUNTER_CONTROL = 0x7f88;
constexpr uint32_t FILTERS = 0x7d60, FILTER_REGISTERS = 8;  // of each filter: counter, limit1, maximum, state
constexpr uint32_t CONFIG_BYTES = 0xfe00;  // byte addresses from here are configuration

bool is_route(uint32_t address) { return address >= ROUTES && address < ROUTES + COLORS; }
bool is_switch(uint32_t address) { return address >= SWITCHES && address < SWITCHES + COLORS; }

}  // namespace

uint32_t Pe::config_read(uint32_t address) {
  for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
    if (event->type == Event::CONFIG && event->address == address) return event->value;
  }
  if (is_route(address)) return machine_.network().read_route(tile_, static_cast<uint8_t>(address - ROUTES));
  if (is_switch(address)) return machine_.network().read_switch(tile_, static_cast<uint8_t>(address - SWITCHES));
  if (address >= COUNTER && address < COUNTER + COUNTER_WORDS) return counter_word(address - COUNTER);
  if (address == COUNTER_CONTROL) return counter_on_;
  if (address == MAIN_PRIORITY) return main_priority_;
  if (address == RANDOM_LOW) return elements_.random & 0xffff;
  if (address == RANDOM_HIGH) return elements_.random >> 16;
  if (address == FLUSHED_INPUTS) return flushed_inputs_;
  if (address == FLUSHED_OUTPUTS) return flushed_outputs_;
  if (address >= TASK_PRIORITIES && address < TASK_PRIORITIES + TASK_IDS) return (high_ >> (address - TASK_PRIORITIES)) & 1;
  if (const Filter* filter = filter_at(address)) {
    switch ((address - FILTERS) % FILTER_REGISTERS) {
      case 0: return filter->counter;
      case 1: return filter->limit1;
      case 2: return filter->maximum;
      default: return filter->counter > filter->maximum;
    }
  }
  for (const auto& [register_address, value] : registers_) {
    if (register_address == address) return value;
  }
  return 0;
}

// Filters are numbered in the order of the tile's routes.
Filter* Pe::filter_at(uint32_t address) {
  if (address < FILTERS || address >= FILTERS + FILTER_REGISTERS * filters_.size()) return nullptr;
  return machine_.network().filter(tile_, filters_[(address - FILTERS) / FILTER_REGISTERS]);
}

void Pe::config_write(uint32_t address, uint32_t value) {
  const auto word = static_cast<uint16_t>(value);
  if (is_route(address) || is_switch(address)) {
    at({Event::CONFIG, Action::NONE, Target::TASK, 0, static_cast<uint16_t>(address), word, clock});
    return;
  }
  const auto merge = [](uint32_t mask, uint32_t bit, bool on) { return on ? mask | 1u << bit : mask & ~(1u << bit); };
  if (address >= COUNTER && address < COUNTER + COUNTER_WORDS) {
    if (address == COUNTER) counter_control(2);
    return;
  }
  if (address == COUNTER_CONTROL) {
    counter_control(word != 0);
    return;
  }
  if (address == MAIN_PRIORITY) {
    main_priority_ = word & 3;
    return;
  }
  if (address == RANDOM_LOW) {
    elements_.random = (elements_.random & 0xffff0000u) | word;
    return;
  }
  if (address == RANDOM_HIGH) {
    elements_.random = (elements_.random & 0xffff) | uint32_t{word} << 16;
    return;
  }
  if (address == FLUSHED_INPUTS || address == FLUSHED_OUTPUTS) {
    (address == FLUSHED_INPUTS ? flushed_inputs_ : flushed_outputs_) = static_cast<uint8_t>(word);
    return;
  }
  if (address >= TASK_PRIORITIES && address < TASK_PRIORITIES + TASK_IDS) {
    high_ = merge(high_, address - TASK_PRIORITIES, word != 0);
    return;
  }
  if (Filter* filter = filter_at(address)) {
    switch ((address - FILTERS) % FILTER_REGISTERS) {
      case 0: filter->counter = word; break;
      case 1: filter->limit1 = word; break;
      case 2: filter->maximum = word; break;
      default: break;  // the state follows from the others
    }
    return;
  }
  for (auto& [register_address, kept] : registers_) {
    if (register_address != address) continue;
    kept = word;
    return;
  }
  registers_.emplace_back(static_cast<uint16_t>(address), word);
}

bool Pe::memory_check(uint16_t address, uint8_t bytes, uint32_t location, uint16_t operation, const char* verb) {
  if (address + uint32_t{bytes} <= memory_bytes) return true;
  fail(location, std::string("@") + operation_name(operation) + " " + verb + " " + std::to_string(bytes) +
                     " bytes at address " + std::to_string(address) + ", but the memory of " + program_.name +
                     " ends at " + std::to_string(memory_bytes) +
                     "; check the base address, length and stride of its DSDs");
  return false;
}

uint32_t Pe::load(uint16_t address, uint8_t bytes, uint32_t location, uint16_t operation) {
  if (address >= CONFIG_BYTES && bytes == 2 && (is_route(address / 2) || is_switch(address / 2))) {
    return config_read(address / 2);
  }
  if (!memory_check(address, bytes, location, operation, "reads")) return 0;
  uint32_t value = 0;
  std::memcpy(&value, memory_.data() + address, bytes);
  return value;
}

void Pe::store(uint16_t address, uint8_t bytes, uint32_t value, uint32_t location, uint16_t operation) {
  if (address >= CONFIG_BYTES && bytes == 2 && (is_route(address / 2) || is_switch(address / 2))) {
    config_write(address / 2, value);
    return;
  }
  if (memory_check(address, bytes, location, operation, "writes")) std::memcpy(memory_.data() + address, &value, bytes);
}

}  // namespace openwafer
