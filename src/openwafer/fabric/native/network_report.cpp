// What the network says of itself: wavelets that cannot go on, and why it had to stop.

#include <string>

#include "network.hpp"
#include "network_state.hpp"

namespace openwafer {

namespace {

const char* name(Side side) {
  constexpr const char* names[] = {"west", "east", "south", "north", "ramp", "no side"};
  return names[side];
}

}  // namespace

// The sides of its route where the fabric ends and no port is.
uint8_t Network::State::over_edge(const Slot& slot) const {
  uint8_t sides = 0;
  for (uint8_t side = WEST; side <= NORTH; side++) {
    const bool port = slot.extra != NONE && extras[slot.extra].port_out[side] != NONE;
    if (slot.tx & bit(side) && !port && neighbour(tile_of(slot), static_cast<Side>(side)) == NONE) sides |= bit(side);
  }
  return sides;
}

std::vector<Network::Held> Network::held() const {
  const State& state = *state_;
  std::vector<Held> found;
  const auto full_at = [&](uint32_t buffer) { return state.buffers[buffer].count >= state.timing.buffer_wavelets; };
  const auto is_full = [&](uint32_t out) {
    if (out == NONE || out & TO_PORT) return false;
    if (!(out & TWO_BUFFERS)) return full_at(out);
    const std::array<uint32_t, 2>& pair = state.pairs[out & ~TWO_BUFFERS];
    return full_at(pair[0]) || full_at(pair[1]);
  };
  const auto add = [&](const Slot& slot, uint32_t index, Side from, uint8_t waits_for, Wait why) {
    found.push_back({state.tile_of(slot), slot.color, from, state.buffers[index].count, waits_for, why});
  };
  for (Tile tile = 0; tile < state.router_of.size(); tile++) {
    if (state.router_of[tile] == NONE) continue;
    for (uint8_t color = 0; color < COLORS; color++) {
      const uint32_t at = state.slot_at(tile, color);
      if (at == NONE) continue;
      const Slot& slot = state.slots[at];
      uint8_t full = 0;
      for (uint8_t side = WEST; side <= NORTH; side++) {
        if ((slot.tx | (slot.bits & MESSAGES ? 15 : 0)) & bit(side) && is_full(slot.out[side])) full |= bit(side);
      }
      const uint8_t edge = state.over_edge(slot);
      const bool ramp_full = slot.stage != NONE && state.buffers[slot.stage].count > 0;
      if ((slot.tx & bit(RAMP) || slot.bits & MESSAGES) && (ramp_full || !state.sink->has_room(tile, color))) full |= bit(RAMP);
      for (uint8_t input = 0; input < INPUTS; input++) {
        const uint32_t host = slot.extra == NONE ? NONE : state.extras[slot.extra].host;
        const uint32_t buffer = input == HOST ? host : slot.in[input];
        if (buffer == NONE || state.buffers[buffer].count == 0) continue;
        const Side from = input == HOST ? RAMP : static_cast<Side>(input);
        if (slot.bits & STALLED) {
          add(slot, buffer, from, 0, Wait::TEARDOWN);
        } else if (!State::routed(slot) && state.outside(tile)) {
          add(slot, buffer, from, 0, Wait::OUTSIDE);
        } else if (!(slot.open & bit(input))) {
          add(slot, buffer, from, 0, Wait::SWITCH);
        } else if (edge) {
          add(slot, buffer, from, edge, Wait::EDGE);
        } else {
          add(slot, buffer, from, full, Wait::ROOM);
        }
      }
      if (ramp_full) add(slot, slot.stage, SIDES, bit(RAMP), Wait::ROOM);
    }
  }
  return found;
}

std::optional<Network::Failure> Network::failed() const { return state_->failure; }

std::string Network::failure() const {
  if (!state_->failure) return {};
  const Failure& failure = *state_->failure;
  const std::string where = "tile (" + std::to_string(failure.tile % state_->width) + ", " +
                            std::to_string(failure.tile / state_->width) + ") of the fabric";
  const std::string color = "color " + std::to_string(failure.color);
  if (failure.side == SIDES) {
    return "a wavelet of " + color + " is at " + where + ", whose router has no route for it: give the tile a route " +
           "for " + color + ", or end the route of the tile before it";
  }
  return "a wavelet of " + color + " leaves the fabric at the " + name(failure.side) + " of " + where +
         ", where no host port is: end the route on this tile, or open a port there";
}

uint64_t Network::hops() const { return state_->hops; }

}  // namespace openwafer
