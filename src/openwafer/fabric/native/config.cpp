// Memory-mapped configuration, and the memory behind vector operations with its checks.
//
// Word addresses 0x7f20 + color are route registers, 0x7f40 + color switch registers; the network gives them their
// meaning. Other registers keep what is written to them. A write takes effect in the cycle of the instruction, and a
// read sees the writes before it in program order.
#include <cstring>

#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

constexpr uint32_t ROUTES = 0x7f20, SWITCHES = 0x7f40;
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
  for (const auto& [register_address, value] : registers_) {
    if (register_address == address) return value;
  }
  return 0;
}

void Pe::config_write(uint32_t address, uint32_t value) {
  const auto word = static_cast<uint16_t>(value);
  if (is_route(address) || is_switch(address)) {
    at({Event::CONFIG, Action::NONE, Target::TASK, 0, static_cast<uint16_t>(address), word, clock});
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
