// @map: the machine walks over the operands, the program computes each element.
#include <algorithm>

#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

uint8_t map_bytes(int type) {
  switch (static_cast<MapType>(type)) {
    case MapType::I8:
    case MapType::U8: return 1;
    case MapType::I32:
    case MapType::U32:
    case MapType::F32: return 4;
    default: return 2;
  }
}

}  // namespace

Status Pe::map_begin(const OperandArgument* operands, const uint8_t* types, uint32_t location) {
  map_ = std::make_unique<Map>();
  map_->operation.vector.location = location;
  Vector vector;
  vector.location = location;
  bool asynchronous = false;
  uint32_t length = 0;
  bool first = true;
  for (size_t i = 0; types[i] != MAP_END; ++i) {
    Operand operand;
    const bool writes = (types[i] & MAP_WRITE) != 0;
    const uint8_t bytes = map_bytes(types[i] & ~MAP_WRITE);
    if (!resolve(operands[i], writes, bytes, operand, vector, asynchronous)) return Status::FAILED;
    if (operand.kind == Kind::FIFO) {
      fail(location, "a FIFO cannot be an operand of @map; move its elements with a DSD operation");
      return Status::FAILED;
    }
    if (operand.kind != Kind::SCALAR && !operand.pointer) {  // @map stops when the first of its DSDs ends
      length = first ? operand.length : std::min(length, operand.length);
      first = false;
    }
    map_->operands.push_back(operand);
    map_->bytes.push_back(bytes);
    map_->writes.push_back(writes);
  }
  map_->values.resize(map_->operands.size());
  map_->remaining = first ? 1 : length;
  return Status::DONE;
}

bool Pe::map_ready(Cycle cycle) const {
  for (const Operand& operand : map_->operands) {
    if (operand.kind == Kind::FABRIC_IN && inputs_[operand.queue].ready(cycle, 1) == 0) return false;
    if (operand.kind == Kind::FABRIC_OUT && outputs_[operand.queue].room() == 0) return false;
  }
  return true;
}

// Takes the next element of every source; destinations have room, so that map_write never waits.
void Pe::map_fetch(Cycle cycle) {
  Map& map = *map_;
  main_ = Main::IDLE;
  clock = std::max(clock, cycle) + machine_.timing().map_element_cycles;
  --map.remaining;
  *map.more = 1;
  for (size_t i = 0; i < map.operands.size(); ++i) {
    if (map.writes[i]) continue;
    map.values[i] = read_element(map.operation, map.operands[i], map.bytes[i], cycle);
  }
}

Status Pe::map_next(uint8_t* more) {
  Map& map = *map_;
  map.more = more;
  if (map.remaining == 0) {
    *more = 0;
    return Status::DONE;
  }
  const bool fabric = std::any_of(map.operands.begin(), map.operands.end(), [](const Operand& o) { return o.fabric(); });
  if ((!fabric && active_threads_ == 0) || (clock <= now_ && map_ready(now_))) {
    map_fetch(clock);
    return machine_.failed() ? Status::FAILED : Status::DONE;
  }
  main_ = Main::WAIT_MAP;
  if (machine_.trace.enabled) note_map_lack();
  return Status::WAITING;
}

uint32_t Pe::map_read(uint32_t operand) { return map_->values[operand]; }

void Pe::map_write(uint32_t operand, uint32_t bits) {
  write_element(map_->operation, map_->operands[operand], map_->bytes[operand], bits, std::max(now_, clock),
                map_->remaining == 0);
}

}  // namespace openwafer
