// What a color's route is: its configuration, its switch position, and both as the machine's registers show them.
//
// Route register: bits 0-4 tx and 5-9 rx of position 0 (west, east, south, north, ramp), 10 and 11 color swap of y and
// x, 12-13 pop mode, 14 teardown in progress, 15 point to point. Switch register: bits 2:0, 6:4, 10:8 the side of
// positions 1 to 3 (5: invalid), above each whether it is an input; 12 ring; 14:13 the current position. Source:
// comments of the public example spmv-hypersparse.

#include <algorithm>
#include <bit>

#include "network.hpp"
#include "network_state.hpp"

namespace openwafer {

namespace {

constexpr uint8_t SIDE_MASK = 31;
constexpr uint8_t INVALID_INPUT = 0x80;  // in Position::tx: invalid, but its register says that it is an input
constexpr uint16_t NO_POSITIONS = 0x0555;

bool valid(const Position& position) { return position.rx | (position.tx & SIDE_MASK); }

// The four bits of a position in the switch register. A position of WSE-3 that changes more than one side shows one.
uint16_t encoded(const Position& position) {
  if (!valid(position)) return position.tx & INVALID_INPUT ? 13 : 5;
  const uint8_t mask = position.rx ? position.rx : position.tx;
  return static_cast<uint16_t>(std::countr_zero(mask) | (position.rx ? 8 : 0));
}

Position decoded(uint16_t code) {
  const bool input = code & 8;
  if ((code & 7) > RAMP) return {0, input ? INVALID_INPUT : uint8_t{0}};
  return input ? Position{bit(code & 7), 0} : Position{0, bit(code & 7)};
}

void set(uint8_t& bits, uint8_t mask, bool on) { bits = static_cast<uint8_t>(on ? bits | mask : bits & ~mask); }

}  // namespace

// Positions add up: a switch has an input and an output setting, and each position moves one of them (both on WSE-3).
// The public examples rely on it: `.pos1 = .{ .tx = EAST }, .pos2 = .{ .rx = RAMP }` at position 2 sends RAMP to EAST.
void Network::State::refresh(Slot& slot) {
  slot.rx = slot.base_rx;
  slot.tx = slot.base_tx;
  for (int i = 0; i < slot.position; i++) {
    const Position& position = slot.positions[static_cast<size_t>(i)];
    if (position.rx) slot.rx = position.rx;
    if (position.tx & SIDE_MASK) slot.tx = position.tx & SIDE_MASK;
  }
  slot.open = slot.bits & STALLED ? 0 : slot.rx | bit(HOST);
  if (slot.bits & MESSAGES) slot.tx = 0;
  const auto one_link = [](uint8_t mask) { return mask && !(mask & (mask - 1)) && mask < bit(RAMP); };
  const bool plain = timing.trains && !timing.jitter && timing.buffer_wavelets > timing.hop_cycles && one_link(slot.rx) &&
                     one_link(slot.tx) && slot.pop == PopMode::NO_POP && slot.extra == NONE &&
                     !(slot.bits & (SWAP_X | SWAP_Y | STALLED | FILTERED)) &&
                     std::none_of(slot.positions.begin(), slot.positions.end(), valid);
  set(slot.bits, PLAIN, plain);
  relink(slot);
  if (routers[slot.router].train != NONE) end_train(routers[slot.router].train);
}

// What the lanes of a slot are to know of its route and links.
void Network::State::relink(const Slot& slot) {
  Router& router = routers[slot.router];
  router.full = 0;
  place_of(slot).ramp = routed(slot) ? slot.in[RAMP] : NONE;
  place_of(slot).stage = slot.stage;
  const uint32_t way = way_of(slot);
  const auto set_lane = [&](uint32_t buffer, int input) {
    if (buffer == NONE) return;
    const uint32_t lane = buffers[buffer].lane;
    lanes[router.lanes + lane].way = way;
    if (lane >= LAST_LANE) return;
    router.shut = slot.open & bit(input) ? router.shut & ~lane_bit(lane) : router.shut | lane_bit(lane);
  };
  for (int input = 0; input < SIDES; input++) set_lane(slot.in[static_cast<size_t>(input)], input);
  if (slot.extra != NONE) set_lane(extras[slot.extra].host, HOST);
}

uint32_t Network::State::way_of(const Slot& slot) const {
  if (slot.extra != NONE || slot.tx == 0 || slot.tx & (slot.tx - 1)) return ELSEWHERE;
  const auto side = static_cast<uint32_t>(std::countr_zero(slot.tx));
  if (side != RAMP) return slot.out[side] < WAY_LIMIT ? side << WAY_SIDE | slot.out[side] : ELSEWHERE;
  if (timing.ramp_out_cycles != 1 || slot.stage >= WAY_RAMP_LIMIT) return ELSEWHERE;
  return side << WAY_SIDE | static_cast<uint32_t>(slot.color) << WAY_COLOR | slot.stage;
}

// Whether there was a position to go to.
bool Network::State::advance(Slot& slot) {
  const uint8_t before = slot.position;
  if (slot.position < 3 && valid(slot.positions[slot.position])) {
    slot.position++;
  } else if (slot.bits & RING) {
    slot.position = 0;
  }
  return slot.position != before;
}

void Network::configure(Tile tile, uint8_t color, const RouteConfig& route) {
  State& state = *state_;
  const uint32_t index = state.make_slot(tile, color);
  Slot& slot = state.slots[index];
  slot.base_rx = route.rx;
  slot.base_tx = route.tx;
  slot.position = route.position;
  slot.pop = route.pop;
  for (size_t i = 0; i < 3; i++) {
    const SwitchPosition& position = route.positions[i];
    slot.positions[i] = {};
    if (position.invalid) continue;
    if (position.changes_rx) slot.positions[i].rx = position.rx;
    if (position.changes_tx) slot.positions[i].tx = position.tx;
  }
  slot.bits = 0;
  set(slot.bits, RING, route.ring);
  set(slot.bits, SWAP_X, route.swap_x);
  set(slot.bits, SWAP_Y, route.swap_y);
  set(slot.bits, STALLED, route.teardown);
  set(slot.bits, FILTERED, route.filter.kind != FilterKind::NONE);
  if (route.messages) {
    state.extra(index);
    set(slot.bits, MESSAGES, true);
  }
  state.refresh(slot);
  const uint32_t router = slot.router;
  if (route.filter.kind != FilterKind::NONE) {
    state.extra(index).filter = route.filter;
  }
  state.forget_links(tile, color);
  state.touched(state.latest);
  state.wake(router);
}

uint16_t Network::read_route(Tile tile, uint8_t color) const {
  const uint32_t index = state_->slot_at(tile, color);
  if (index == NONE) return 0;
  const Slot& slot = state_->slots[index];
  return static_cast<uint16_t>(slot.base_tx | slot.base_rx << 5 | (slot.bits & SWAP_Y ? 1 << 10 : 0) |
                               (slot.bits & SWAP_X ? 1 << 11 : 0) | static_cast<int>(slot.pop) << 12 |
                               (slot.bits & STALLED ? 1 << 14 : 0) | (slot.bits & POINT_TO_POINT ? 1 << 15 : 0));
}

void Network::write_route(Tile tile, uint8_t color, uint16_t value, Cycle cycle) {
  State& state = *state_;
  Slot& slot = state.slots[state.make_slot(tile, color)];
  slot.base_tx = value & SIDE_MASK;
  slot.base_rx = value >> 5 & SIDE_MASK;
  slot.pop = static_cast<PopMode>(value >> 12 & 3);
  set(slot.bits, SWAP_Y, value >> 10 & 1);
  set(slot.bits, SWAP_X, value >> 11 & 1);
  set(slot.bits, STALLED, value >> 14 & 1);
  set(slot.bits, POINT_TO_POINT, value >> 15 & 1);
  state.refresh(slot);
  state.forget_links(tile, color);
  state.touched(cycle);
  state.wake(slot.router);
}

uint16_t Network::read_switch(Tile tile, uint8_t color) const {
  const uint32_t index = state_->slot_at(tile, color);
  if (index == NONE) return NO_POSITIONS;
  const Slot& slot = state_->slots[index];
  uint16_t value = static_cast<uint16_t>(slot.position << 13 | (slot.bits & RING ? 1 << 12 : 0));
  for (size_t i = 0; i < 3; i++) value = static_cast<uint16_t>(value | encoded(slot.positions[i]) << (4 * i));
  return value;
}

void Network::write_switch(Tile tile, uint8_t color, uint16_t value, Cycle cycle) {
  State& state = *state_;
  Slot& slot = state.slots[state.make_slot(tile, color)];
  for (size_t i = 0; i < 3; i++) {
    const uint16_t code = value >> (4 * i) & 15;
    if (code != encoded(slot.positions[i])) slot.positions[i] = decoded(code);
  }
  set(slot.bits, RING, value >> 12 & 1);
  slot.position = value >> 13 & 3;
  state.refresh(slot);
  state.touched(cycle);
  state.wake(slot.router);
}

void Network::exit_teardown(Tile tile, uint8_t color, Cycle cycle) {
  write_route(tile, color, static_cast<uint16_t>(read_route(tile, color) & ~(1 << 14)), cycle);
}

Filter* Network::filter(Tile tile, uint8_t color) {
  const uint32_t index = state_->slot_at(tile, color);
  if (index == NONE) return nullptr;
  Filter& filter = state_->extra(index).filter;
  set(state_->slots[index].bits, FILTERED, true);
  return &filter;
}

}  // namespace openwafer
