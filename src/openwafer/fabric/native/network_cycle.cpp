// One cycle of the network: ports put words in, ramps hand wavelets down, every router with wavelets sends some on.
//
// A router sends at most one wavelet a cycle over each link and down its ramp, whatever the color. Where several
// buffers want the same link, the one that was served longest ago goes first (never served: before all others; then the
// lower color, then the side in the order west, east, south, north, ramp): two streams on one link get half of it each.
// A wavelet for several sides goes when all of them have room.

#include <algorithm>
#include <bit>

#include "control.hpp"
#include "filter.hpp"
#include "network.hpp"
#include "network_state.hpp"

namespace openwafer {

namespace {

constexpr uint8_t LINKS = 15;
constexpr uint32_t LINK_JITTER = 4;  // cycles that a link takes longer are below this
constexpr uint32_t HELD = 4;         // of so many wavelets one is held for a cycle

// The lowest set bit's number, which it clears.
template <typename T>
int next_bit(T& mask) {
  const int found = std::countr_zero(mask);
  mask = static_cast<T>(mask & (mask - 1));
  return found;
}

}  // namespace

// Whether the buffer had room as the cycle began. If not, the lane is left alone until the buffer is taken from, or
// looks again in the next cycle if that has happened in this one.
inline bool Network::State::find_room(uint32_t index, Router& router, uint32_t lane, bool& waits) {
  Buffer& buffer = buffers[index];
  if (had_room(buffer)) return true;
  if (buffer.count < timing.buffer_wavelets) {
    waits = true;
  } else {
    if (lane < LAST_LANE) router.full |= lane_bit(lane);
    buffer.waiter = buffer.waiter == NOBODY || buffer.waiter == lane ? static_cast<uint8_t>(lane) : SEVERAL;
  }
  return false;
}

inline bool Network::State::find_room_at(uint32_t out, Router& router, uint32_t lane, bool& waits) {
  if (out & TO_PORT) return true;
  if (!(out & TWO_BUFFERS)) return find_room(out, router, lane, waits);
  const std::array<uint32_t, 2>& pair = pairs[out & ~TWO_BUFFERS];
  return find_room(pair[0], router, lane, waits) && find_room(pair[1], router, lane, waits);
}

inline Cycle Network::State::after_hop(uint32_t slot, int side) const {
  const Cycle usual = now + timing.hop_cycles;
  if (!timing.jitter) return usual;
  return usual + timing.jitter.draw(0, uint64_t{tile_of(slots[slot])} * SIDES + static_cast<uint64_t>(side), LINK_JITTER);
}

void Network::State::inject(uint32_t index) {
  Port& port = ports[index];
  port.active = false;
  if (port.next == port.words.size()) return;
  const Slot& slot = slots[buffers[port.buffer].slot];
  if (!routed(slot)) return fail(port.tile, port.color, SIDES);
  if (buffers[port.buffer].count >= timing.buffer_wavelets) return;  // woken when a wavelet leaves the buffer
  const Wavelet& word = port.words[port.next++];
  push(port.buffer, word.data, word.control, now + (port.side == RAMP ? timing.ramp_in_cycles : timing.hop_cycles));
  hops += port.side != RAMP;
  if (port.next == port.words.size()) {
    port.words.clear();
    port.next = 0;
  } else {
    wake_port(index);
  }
}

// Whether any went down; `waits` is set if one is not there yet.
bool Network::State::drain_stages(uint32_t index, bool& waits) {
  Router& router = routers[index];
  bool moved = false;
  for (uint32_t colors = router.stages; colors;) {
    const auto color = static_cast<uint8_t>(next_bit(colors));
    Buffer& stage = buffers[places[router.first + router.place[color]].stage];
    const Entry head = Buffers::head(stage);
    if (!leaves_now(head.ready)) {
      waits = true;
    } else if (sink->has_room(router.tile, color)) {
      deliveries.push_back({router.tile, {head.data, color, (head.ready & CONTROL) != 0}});
      stage.head = static_cast<uint8_t>((stage.head + 1) & wrap);
      if (--stage.count == 0) router.stages &= ~(1u << color);
      moved = true;
    }
  }
  return moved;
}

void Network::State::step(uint32_t index) {
  bool moved = false, waits = false;
  if (routers[index].stages) moved = drain_stages(index, waits);
  if (observed || timing.jitter || !send_plain(index, moved, waits)) send_any(index, moved, waits);
  // A router that did nothing sleeps: what makes room for it, or changes its routes, wakes it.
  const Router& router = routers[index];
  if ((moved || waits) && (router.held || router.stages)) wake(index);
}

// The common case, done apart for its speed: every wavelet that could leave is data and has one way. Then each way is
// decided by itself. Whether it was this case; if not, nothing has been sent.
bool Network::State::send_plain(uint32_t index, bool& moved, bool& waits) {
  Router& router = routers[index];
  uint64_t left = router.held & ~router.shut & ~router.full;
  if (left == 0) return true;
  if (left & lane_bit(LAST_LANE)) return false;
  uint32_t chosen[SIDES], oldest[SIDES] = {}, sides = 0;
  while (left) {
    const auto number = static_cast<uint32_t>(next_bit(left));
    const Lane& lane = lanes[router.lanes + number];
    if (!leaves_now(lane.ready)) {
      waits = true;
      continue;
    }
    if (lane.way == ELSEWHERE || lane.ready & CONTROL) return false;
    const uint32_t side = lane.way >> WAY_SIDE;
    const uint32_t age = static_cast<uint32_t>(now) - lane.taken;
    if (age <= oldest[side]) continue;
    if (side == RAMP) {
      if (router.stages >> (lane.way >> WAY_COLOR & 31) & 1) continue;
    } else if (!find_room(lane.way % WAY_LIMIT, router, number, waits)) {
      continue;
    }
    oldest[side] = age;
    chosen[side] = router.lanes + number;
    sides |= 1u << side;
  }
  moved |= sides != 0;
  while (sides) send(index, chosen[next_bit(sides)]);
  return true;
}

// Sends the first wavelet of a lane its way.
inline void Network::State::send(uint32_t index, uint32_t lane) {
  const uint32_t from = lanes[lane].buffer, way = lanes[lane].way, side = way >> WAY_SIDE;
  const uint32_t data = Buffers::head(buffers[from]).data;
  take(from);
  if (side == RAMP) {
    put(buffers[way % WAY_RAMP_LIMIT], data, false, now + timing.ramp_out_cycles);
    routers[index].stages |= 1u << (way >> WAY_COLOR & 31);
  } else {
    hops++;
    push(way % WAY_LIMIT, data, false, now + timing.hop_cycles);
  }
}

void Network::State::send_any(uint32_t index, bool& moved, bool& waits) {
  // 1. Which buffers could send: a wavelet is there, the route takes it, and every side has room.
  Request requests[COLORS * INPUTS];
  int count = 0;
  const auto consider = [&](uint32_t number) {
    const Lane lane = lanes[routers[index].lanes + number];
    if (!leaves_now(lane.ready)) {
      waits = true;
      return;
    }
    const Buffer& buffer = buffers[lane.buffer];
    Request request{lane.buffer, buffer.slot, number, static_cast<uint32_t>(now) - lane.taken, Buffers::head(buffer),
                    NONE, 0, false};
    if (timing.jitter) {
      request.age = timing.jitter.draw(now, lane.buffer, UINT32_MAX);
      if (request.age % HELD == 0) {
        waits = true;
        return;
      }
    }
    if (!has_way(request, waits)) return;
    int place = count++;
    for (; place > 0 && requests[place - 1].age < request.age; place--) requests[place] = requests[place - 1];
    requests[place] = request;
  };
  uint64_t left = routers[index].held & ~routers[index].shut & ~routers[index].full;
  const bool more = left & lane_bit(LAST_LANE);
  for (left &= ~lane_bit(LAST_LANE); left;) consider(static_cast<uint32_t>(next_bit(left)));
  for (uint32_t number = LAST_LANE; more && number < routers[index].lane_count; number++) {
    const Buffer& buffer = buffers[lanes[routers[index].lanes + number].buffer];
    if (buffer.count > 0 && slots[buffer.slot].open & bit(buffer.input)) consider(number);
  }

  // 2. Each link and the ramp to the first that wants it. Those that lose try again in the next cycle.
  uint32_t used = 0;
  for (int i = 0; i < count; i++) {
    if (requests[i].sides & used) continue;
    used |= requests[i].sides;
    moved = true;
    move(requests[i]);
  }
}

// Finds where the wavelet goes, and whether all of that has room.
bool Network::State::has_way(Request& request, bool& waits) {
  const uint32_t at = request.slot;
  if (request.head.ready & CONTROL && request.head.data == OWN_ADVANCE) return true;  // it goes nowhere
  const bool message = slots[at].bits & MESSAGES;
  const uint8_t input = buffers[request.buffer].input;
  const uint8_t tx = message ? message_sides(slots[at], input, request.head.data) : slots[at].tx;
  if (message && message_waits(slots[at], input, tx)) return false;
  if (tx == 0) {
    fail(tile_of(slots[at]), slots[at].color, SIDES);
    return false;
  }
  for (uint32_t links = tx & LINKS; links;) {
    const auto side = static_cast<Side>(next_bit(links));
    if (slots[at].out[side] == NONE && resolve(at, side) == NONE) return false;
    if (!find_room_at(slots[at].out[side], routers[slots[at].router], request.lane, waits)) return false;
  }
  request.sides = tx & LINKS;
  const bool control = request.head.ready & CONTROL;
  if (!(tx & bit(RAMP)) || (control && leading_passes_ce(request.head.data))) return true;
  if (slots[at].extra != NONE) {
    const Extra& extra = extras[slots[at].extra];
    if (buffers[request.buffer].input != HOST) request.port = extra.port_out[RAMP];
    if (request.port == NONE && slots[at].bits & FILTERED) {
      request.counts = true;
      if (!passes(extra.filter, request.head.data, control)) return true;
    }
  }
  request.sides |= bit(RAMP);
  return request.port != NONE || ramp_has_room(at);
}

void Network::State::move(const Request& request) {
  const bool control = request.head.ready & CONTROL;
  if (observed) {
    const Slot& slot = slots[request.slot];
    sink->passed(tile_of(slot), {request.head.data, slot.color, control}, buffers[request.buffer].input, request.sides,
                 now);
  }
  take(request.buffer);
  if (request.counts) count_wavelet(extras[slots[request.slot].extra].filter, control);
  const bool message = slots[request.slot].bits & MESSAGES;
  const bool last = message && message_moves(request.slot, buffers[request.buffer].input, request.sides, request.head.data);
  const uint32_t sent = control && !message ? obey(request.slot, request.head.data) : request.head.data;

  const Slot& slot = slots[request.slot];
  for (uint32_t links = request.sides & LINKS; links;) {
    const int side = next_bit(links);
    const uint32_t out = slot.out[static_cast<size_t>(side)];
    hops++;
    if (out & TO_PORT) {
      ports[out & ~TO_PORT].words.push_back({sent, slot.color, control});
    } else if (out & TWO_BUFFERS) {
      for (const uint32_t buffer : pairs[out & ~TWO_BUFFERS]) push(buffer, sent, control, after_hop(request.slot, side));
    } else {
      push(out, sent, control, after_hop(request.slot, side));
    }
  }
  if (!(request.sides & bit(RAMP))) return;
  // The CE gets a control wavelet as it came: popping would shift the data of its task.
  if (request.port != NONE) {
    ports[request.port].words.push_back({request.head.data, slot.color, control});
  } else {
    down_ramp(slot, request.head.data, control || last);
  }
}

bool Network::State::ramp_has_room(uint32_t index) {
  if (timing.ramp_out_cycles == 0) return sink->has_room(tile_of(slots[index]), slots[index].color);
  if (slots[index].stage == NONE) {
    const uint32_t stage = make_buffer(index, SIDES);
    slots[index].stage = stage;
    relink(slots[index]);
  }
  return buffers[slots[index].stage].count < timing.ramp_out_cycles;
}

void Network::State::down_ramp(const Slot& slot, uint32_t data, bool control) {
  Router& router = routers[slot.router];
  if (timing.ramp_out_cycles == 0) {
    deliveries.push_back({router.tile, {data, slot.color, control}});
    return;
  }
  put(buffers[slot.stage], data, control, now + timing.ramp_out_cycles);
  router.stages |= 1u << slot.color;
}

// Carries out a control wavelet's leading command; the payload as it is sent on.
uint32_t Network::State::obey(uint32_t index, uint32_t payload) {
  Slot& slot = slots[index];
  const Opcode opcode = leading_opcode(payload);
  bool advanced = false;
  switch (opcode) {
    case Opcode::NOP:
      break;
    case Opcode::ADVANCE:
      advanced = advance(slot);
      break;
    case Opcode::RESET:
      slot.position = 0;
      break;
    case Opcode::TEARDOWN:
      slot.bits |= STALLED;
      teardowns.emplace_back(tile_of(slot), slot.color);
      break;
  }
  refresh(slot);
  switch (slot.pop) {
    case PopMode::NO_POP:
      return payload;
    case PopMode::ALWAYS_POP:
      return popped(payload);
    case PopMode::POP_ON_ADVANCE:
      return advanced ? popped(payload) : payload;
    case PopMode::POP_ON_ADVANCE_NOP:
      return advanced || opcode == Opcode::NOP ? popped(payload) : payload;
  }
  return payload;
}

void Network::evaluate(Cycle cycle) {
  State& state = *state_;
  state.now = state.latest = cycle;
  std::swap(state.active, state.next);
  std::swap(state.active_ports, state.next_ports);
  state.next_ports.clear();
  state.run_trains();
  for (const uint32_t port : state.active_ports) state.inject(port);
  state.active.take(state.order);
  for (const uint32_t router : state.order) state.step(router);
  state.due = state.next.empty() && state.next_ports.empty() && state.ending.empty() ? NEVER : cycle + 1;
}

void Network::commit(Cycle cycle) {
  State& state = *state_;
  for (const Delivery& delivery : state.deliveries) state.sink->deliver(delivery.tile, delivery.wavelet, cycle);
  for (const auto& [tile, color] : state.teardowns) state.sink->teardown(tile, color, cycle);
  for (const auto& [tile, color] : state.freed) state.sink->ramp_free(tile, color, cycle);
  state.deliveries.clear();
  state.teardowns.clear();
  state.freed.clear();
}

Cycle Network::next_cycle() const {
  const State& state = *state_;
  if (!state.next.empty() || !state.next_ports.empty() || !state.ending.empty()) return state.due;
  Cycle first = NEVER;
  for (const uint32_t id : state.running) first = std::min(first, state.trains[id].arrival(state.timing.hop_cycles));
  return first;
}

}  // namespace openwafer
