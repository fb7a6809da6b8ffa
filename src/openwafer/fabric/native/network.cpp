// The network's places: where routers, slots and buffers come from, who is linked to whom, the CE's side, host ports.

#include "network.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "network_state.hpp"

namespace openwafer {

namespace {

uint32_t power_of_two(uint32_t at_least) {
  uint32_t power = 1;
  while (power < at_least) power *= 2;
  return power;
}

template <typename T>
size_t bytes(const std::vector<T>& of) {
  return of.capacity() * sizeof(T);
}

}  // namespace

Network::Network(uint32_t width, uint32_t height, bool color_swap, const NetworkTiming& timing)
    : state_() {
  if (width == 0 || height == 0 || uint64_t{width} * height >= NONE) {
    throw std::invalid_argument("a fabric of " + std::to_string(width) + " x " + std::to_string(height) + " tiles");
  }
  if (timing.hop_cycles < 1 || timing.ramp_in_cycles < 1) {
    throw std::invalid_argument("hop_cycles and ramp_in_cycles are at least 1: a wavelet moves once a cycle");
  }
  if (timing.buffer_wavelets < 1 || timing.buffer_wavelets > 128 || timing.ramp_out_cycles > 128) {
    throw std::invalid_argument("buffer_wavelets is 1 to 128, ramp_out_cycles at most 128");
  }
  const uint32_t entries = power_of_two(std::max(timing.buffer_wavelets, timing.ramp_out_cycles));
  state_ = std::make_unique<State>(entries);
  state_->width = width;
  state_->height = height;
  state_->color_swap = color_swap;
  state_->timing = timing;
  state_->wrap = entries - 1;
  state_->router_of.assign(size_t{width} * height, NONE);
}

Network::~Network() = default;

void Network::set_sink(RampSink* sink) { state_->sink = sink; }

void Network::set_program(uint32_t left, uint32_t top, uint32_t width, uint32_t height) {
  state_->program = Rectangle{left, top, width, height};
}

bool Network::State::outside(Tile tile) const {
  if (!program) return false;
  const uint32_t x = tile % width, y = tile / width;  // left of the rectangle, the differences are large
  return x - program->left >= program->width || y - program->top >= program->height;
}

uint32_t Network::State::make_slot(Tile tile, uint8_t color) {
  if (const uint32_t slot = slot_at(tile, color); slot != NONE) return slot;
  if (router_of[tile] == NONE) {
    router_of[tile] = static_cast<uint32_t>(routers.size());
    routers.emplace_back().tile = tile;
    active.reserve(routers.size());
    next.reserve(routers.size());
  }
  const uint32_t index = router_of[tile];
  Router& router = routers[index];
  const auto had = static_cast<uint32_t>(std::popcount(router.colors));
  if ((had & (had - 1)) == 0) {  // the block is full at each power of two: a new one of twice the size
    const auto first = static_cast<uint32_t>(places.size());
    places.resize(first + std::max(1u, 2 * had));
    std::copy_n(places.begin() + (had ? router.first : 0), had, places.begin() + first);
    router.first = first;
  }
  router.place[color] = static_cast<uint8_t>(had);
  router.colors |= 1u << color;
  const auto made = static_cast<uint32_t>(slots.size());
  places[router.first + had].slot = made;
  Slot& slot = slots.emplace_back();
  slot.out.fill(NONE);
  slot.in.fill(NONE);
  slot.router = index;
  slot.color = color;
  refresh(slot);
  forget_links(tile, color);
  return made;
}

uint32_t Network::State::make_buffer(uint32_t slot, uint8_t input) {
  const uint32_t made = buffers.add();
  Buffer& buffer = buffers[made];
  buffer.slot = slot;
  buffer.router = slots[slot].router;
  buffer.taken = NONE;
  buffer.source = NONE;
  buffer.input = input;
  return made;
}

// Puts the buffer among its router's lanes, in their order.
void Network::State::make_lane(uint32_t buffer) {
  const auto order = [this](uint32_t of) { return slots[buffers[of].slot].color * INPUTS + buffers[of].input; };
  Router& router = routers[buffers[buffer].router];
  const uint32_t had = router.lane_count;
  if ((had & (had - 1)) == 0) {  // as the block of slots in make_slot()
    const auto first = static_cast<uint32_t>(lanes.size());
    lanes.resize(first + std::max(1u, 2 * had));
    std::copy_n(lanes.begin() + (had ? router.lanes : 0), had, lanes.begin() + first);
    router.lanes = first;
  }
  router.lane_count++;
  Lane* own = &lanes[router.lanes];
  uint32_t place = had;
  for (; place > 0 && order(own[place - 1].buffer) > order(buffer); place--) own[place] = own[place - 1];
  own[place] = Lane{0, buffers[buffer].taken, buffer, ELSEWHERE};
  router.held = router.shut = 0;
  for (uint32_t lane = 0; lane <= had; lane++) {
    Buffer& of = buffers[own[lane].buffer];
    of.lane = static_cast<uint8_t>(lane);
    if (of.count > 0) router.held |= lane_bit(lane);
  }
  for (uint32_t lane = 0; lane <= had; lane++) relink(slots[buffers[own[lane].buffer].slot]);
}

uint32_t Network::State::input_buffer(uint32_t slot, uint8_t input) {
  const uint32_t known = input == HOST ? extra(slot).host : slots[slot].in[input];
  if (known != NONE) return known;
  const uint32_t made = make_buffer(slot, input);
  (input == HOST ? extra(slot).host : slots[slot].in[input]) = made;
  make_lane(made);
  return made;
}

Extra& Network::State::extra(uint32_t slot) {
  if (slots[slot].extra == NONE) {
    slots[slot].extra = static_cast<uint32_t>(extras.size());
    extras.emplace_back();
    refresh(slots[slot]);  // it is no longer plain
  }
  return extras[slots[slot].extra];
}

uint32_t Network::State::neighbour(Tile tile, Side side) const {
  const uint32_t x = tile % width, y = tile / width;
  switch (side) {
    case WEST:
      return x > 0 ? tile - 1 : NONE;
    case EAST:
      return x + 1 < width ? tile + 1 : NONE;
    case SOUTH:
      return y + 1 < height ? tile + width : NONE;
    case NORTH:
      return y > 0 ? tile - width : NONE;
    default:
      return NONE;
  }
}

// By "Color Swapping" of the language's advanced features: a slot that swaps receives its partner's wavelets in place
// of its own, by the pair of sides that it swaps, and from the ramp if it swaps both.
std::array<uint32_t, 2> Network::State::receivers(Tile tile, uint8_t color, uint8_t input) const {
  const auto routed_at = [&](uint8_t of) {
    const uint32_t slot = slot_at(tile, of);
    return slot != NONE && routed(slots[slot]) ? slot : NONE;
  };
  const uint32_t own = routed_at(color);
  if (!color_swap) return {own, NONE};
  const uint8_t needed = input == RAMP ? SWAP_X | SWAP_Y : input == WEST || input == EAST ? SWAP_X : SWAP_Y;
  const auto swaps = [&](uint32_t slot) { return slot != NONE && (slots[slot].bits & needed) == needed; };
  const uint32_t partner = routed_at(color ^ 1);
  const uint32_t swapped = swaps(partner) ? partner : NONE;
  if (own == NONE || swaps(own)) return {swapped, NONE};
  return {own, swapped};
}

uint32_t Network::State::resolve(uint32_t slot, Side side) {
  const Tile tile = tile_of(slots[slot]);
  const uint8_t color = slots[slot].color;
  if (slots[slot].extra != NONE && extras[slots[slot].extra].port_out[side] != NONE) {
    return slots[slot].out[side] = TO_PORT | extras[slots[slot].extra].port_out[side];
  }
  const uint32_t to = neighbour(tile, side);
  if (to == NONE) {
    if (!program) fail(tile, color, side);
    return NONE;
  }
  std::array<uint32_t, 2> found = receivers(to, color, opposite(side));
  if (found[0] == NONE && outside(to)) found[0] = make_slot(to, color);
  for (uint32_t& receiver : found) {
    if (receiver == NONE) continue;
    receiver = input_buffer(receiver, opposite(side));
    buffers[receiver].source = slots[slot].router;
  }
  if (found[0] == NONE) {
    fail(to, color, SIDES);
    return NONE;
  }
  if (found[1] == NONE) {
    slots[slot].out[side] = found[0];
    relink(slots[slot]);
    return found[0];
  }
  pairs.push_back(found);
  return slots[slot].out[side] = TWO_BUFFERS | static_cast<uint32_t>(pairs.size() - 1);
}

// What neighbours know of the way to this color, or to its partner in a swap, may have changed.
void Network::State::forget_links(Tile tile, uint8_t color) {
  for (int side = WEST; side <= NORTH; side++) {
    const uint32_t from = neighbour(tile, static_cast<Side>(side));
    if (from == NONE) continue;
    for (const uint8_t of : {color, static_cast<uint8_t>(color ^ 1)}) {
      const uint32_t slot = slot_at(from, of);
      if (slot == NONE) continue;
      slots[slot].out[opposite(static_cast<Side>(side))] = NONE;
      relink(slots[slot]);
      if (routers[slots[slot].router].train != NONE) end_train(routers[slots[slot].router].train);
    }
  }
}

void Network::State::wake_port(uint32_t port) {
  if (ports[port].active) return;
  ports[port].active = true;
  next_ports.push_back(port);
}

// Something has been done from outside in this cycle, which routers see in the next.
void Network::State::touched(Cycle cycle) {
  latest = std::max(latest, cycle);
  due = std::min(due, cycle + 1);
}

void Network::State::fail(Tile tile, uint8_t color, Side side) {
  if (failure && (failed_at != latest || std::pair(failure->tile, failure->color) <= std::pair(tile, color))) return;
  failure = Failure{tile, color, side};
  failed_at = latest;
}

// --- the CE's side of the ramp ---

bool Network::offer(Tile tile, const Wavelet& wavelet, Cycle cycle) {
  State& state = *state_;
  state.touched(cycle);
  if (!state.color_swap) {  // the common case, done apart for its speed
    const Place* place = state.place_at(tile, wavelet.color);
    if (place != nullptr && place->ramp != NONE) {
      Buffer& buffer = state.buffers[place->ramp];
      buffer.refused = buffer.count >= state.timing.buffer_wavelets;
      if (buffer.refused) return false;
      state.push(place->ramp, wavelet.data, wavelet.control, cycle + state.timing.ramp_in_cycles);
      return true;
    }
  }
  const std::array<uint32_t, 2> found = state.receivers(tile, wavelet.color, RAMP);
  if (found[0] == NONE) {
    state.fail(tile, wavelet.color, SIDES);
    return false;
  }
  for (const uint32_t slot : found) {
    if (slot == NONE) continue;
    Buffer& buffer = state.buffers[state.input_buffer(slot, RAMP)];
    if (buffer.count >= state.timing.buffer_wavelets) {
      buffer.refused = true;
      return false;
    }
  }
  for (const uint32_t slot : found) {
    if (slot == NONE) continue;
    state.push(state.slots[slot].in[RAMP], wavelet.data, wavelet.control, cycle + state.timing.ramp_in_cycles);
  }
  return true;
}

void Network::wake(Tile tile, uint8_t, Cycle cycle) {
  State& state = *state_;
  const uint32_t router = state.router_of[tile];
  if (router == NONE || !(state.routers[router].held || state.routers[router].stages)) return;
  state.touched(cycle);
  state.wake(router);
}

// --- host ports ---

uint32_t Network::open_port(Tile tile, Side side, uint8_t color, bool into_fabric) {
  State& state = *state_;
  uint32_t slot = state.slot_at(tile, color);
  if (slot == NONE) {
    slot = state.make_slot(tile, color);
    if (side == RAMP) {
      state.slots[slot].base_rx = state.slots[slot].base_tx = bit(RAMP);
      state.refresh(state.slots[slot]);
    }
  }
  const auto port = static_cast<uint32_t>(state.ports.size());
  state.ports.push_back(Port{tile, side, color, into_fabric, NONE, false, 0, {}});
  if (into_fabric) {
    const uint32_t buffer = state.input_buffer(slot, side == RAMP ? HOST : uint8_t{side});
    state.buffers[buffer].from_port = true;
    state.ports[port].buffer = buffer;
    state.extra(slot).port_in[side] = port;
  } else {
    state.extra(slot).port_out[side] = port;
    if (side != RAMP) state.slots[slot].out[side] = NONE;
  }
  return port;
}

void Network::send(uint32_t port, const Wavelet* wavelets, size_t count, Cycle cycle) {
  State& state = *state_;
  Port& to = state.ports.at(port);
  to.words.insert(to.words.end(), wavelets, wavelets + count);
  state.touched(cycle);
  if (count > 0) state.wake_port(port);
}

size_t Network::received(uint32_t port) const {
  const Port& from = state_->ports.at(port);
  return from.into_fabric ? 0 : from.words.size() - from.next;
}

size_t Network::pending(uint32_t port) const {
  const Port& to = state_->ports.at(port);
  return to.into_fabric ? to.words.size() - to.next : 0;
}

size_t Network::take(uint32_t port, Wavelet* wavelets, size_t count) {
  Port& from = state_->ports.at(port);
  const size_t taken = std::min(count, received(port));
  std::copy_n(from.words.begin() + static_cast<ptrdiff_t>(from.next), taken, wavelets);
  from.next += taken;
  if (from.next == from.words.size()) {
    from.words.clear();
    from.next = 0;
  }
  return taken;
}

size_t Network::memory_bytes() const {
  const State& state = *state_;
  size_t sum = bytes(state.router_of) + bytes(state.routers) + bytes(state.places) + bytes(state.slots) +
               state.buffers.bytes() + bytes(state.lanes) + bytes(state.extras) + bytes(state.pairs) +
               bytes(state.ports) + state.active.bytes() + state.next.bytes();
  for (const Port& port : state.ports) sum += bytes(port.words);
  for (const Train& train : state.trains) sum += sizeof(Train) + bytes(train.stretch) + bytes(train.cars);
  return sum;
}

}  // namespace openwafer
