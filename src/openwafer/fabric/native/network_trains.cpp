// Trains: wavelets on a stretch of routers where nothing can happen to them, moved as one.
//
// A slot is plain if it takes from one link, sends over one link, and has no switch, filter, swap or port. Along a row
// of plain slots of idle routers a wavelet that is ready in the first at cycle r leaves the i-th (from 0) at r + i *
// hop, whatever else is going on, as long as nobody else uses these routers and the buffer behind the last has room. So
// the stretch is one queue of (r, wavelet): each costs a step where it gets on and one where it gets off, however long
// the way.
//
// Where that ends - another wavelet comes to one of the routers, a register is written, a color is torn down, the
// buffer at the end is full - every wavelet is put into the buffer where it would be by then, with the times that it
// would have. So trains change no cycle of any result; tests hold the two against each other.

#include <algorithm>
#include <bit>

#include "control.hpp"
#include "network.hpp"
#include "network_state.hpp"

namespace openwafer {

namespace {

constexpr size_t SHORTEST = 3;  // routers; below that a train saves nothing

}  // namespace

// Tries to make a train that begins with this empty buffer; whether there is one now.
bool Network::State::form_train(uint32_t entry) {
  if (observed) return false;
  uint32_t id;
  if (unused_trains.empty()) {
    id = static_cast<uint32_t>(trains.size());
    trains.emplace_back();
  } else {
    id = unused_trains.back();
    unused_trains.pop_back();
  }
  std::vector<uint32_t> stretch;
  uint32_t behind = entry;
  for (;;) {
    const uint32_t at = buffers[behind].slot;
    const Slot& slot = slots[at];
    Router& router = routers[slot.router];
    if (!(slot.bits & PLAIN) || slot.rx != bit(buffers[behind].input)) break;
    if (router.held || router.stages || router.train != NONE) break;
    const auto side = static_cast<Side>(std::countr_zero(slot.tx));
    if (slot.out[side] == NONE && !leads_to_one(at, side)) break;
    router.train = id;  // also ends a route that goes in a circle
    stretch.push_back(behind);
    const uint32_t out = slots[at].out[side] == NONE ? resolve(at, side) : slots[at].out[side];
    if (out >= TO_PORT) {
      router.train = NONE;
      stretch.pop_back();
      break;
    }
    behind = out;
  }
  if (stretch.size() < SHORTEST) {
    for (const uint32_t buffer : stretch) routers[buffers[buffer].router].train = NONE;
    unused_trains.push_back(id);
    return false;
  }
  Train& train = trains[id];
  train.entry = entry;
  train.exit = behind;
  train.stretch = std::move(stretch);
  return true;
}

// Whether the link has a buffer at its other end, and only one; what it has else is for the wavelet to find out.
bool Network::State::leads_to_one(uint32_t at, Side side) const {
  const uint32_t to = neighbour(tile_of(slots[at]), side);
  if (to == NONE) return false;
  const std::array<uint32_t, 2> found = receivers(to, slots[at].color, opposite(side));
  return found[0] != NONE && found[1] == NONE;
}

// Puts a wavelet onto the train if this is its entry. If not, the train ends with this cycle.
bool Network::State::board(uint32_t buffer, uint32_t data, bool control, Cycle ready) {
  const uint32_t id = routers[buffers[buffer].router].train;
  Train& train = trains[id];
  if (buffer != train.entry) {
    end_train(id);
    return false;
  }
  train.cars.push_back({ready, data, control});
  if (control && leading_opcode(data) == Opcode::TEARDOWN) end_train(id);
  if (!train.running) {
    train.running = true;
    running.push_back(id);
  }
  return true;
}

void Network::State::end_train(uint32_t id) {
  if (trains[id].ending) return;
  trains[id].ending = true;
  ending.push_back(id);
  touched(latest);
}

// Puts all wavelets where they are as the cycle `now` begins, and their routers on the list of this round.
void Network::State::dissolve(uint32_t id) {
  Train& train = trains[id];
  const Cycle hop = timing.hop_cycles, length = train.stretch.size();
  size_t youngest = train.cars.size();
  for (Cycle i = 0; i < length; i++) {  // the last wavelet that each router has sent on
    while (youngest > train.first && train.cars[youngest - 1].ready + i * hop >= now) youngest--;
    const Cycle ready = youngest > train.first ? train.cars[youngest - 1].ready : train.last;
    const uint32_t buffer = train.stretch[i];
    const uint32_t at = buffers[buffer].router;
    if (ready != NEVER && ready + i * hop < now) {
      buffers[buffer].taken = static_cast<uint32_t>(ready + i * hop);
      lanes[routers[at].lanes + buffers[buffer].lane].taken = buffers[buffer].taken;
    }
    routers[at].train = NONE;
    active.add(at);
  }
  for (size_t car = train.first; car < train.cars.size(); car++) {
    const Car& at = train.cars[car];
    const Cycle left = at.ready >= now ? 0 : std::min((now - at.ready + hop - 1) / hop, length - 1);
    const uint32_t buffer = train.stretch[left];
    put_input(buffer, at.data, at.control, at.ready + left * hop);
    hops += left;
  }
  if (train.running) running.erase(std::find(running.begin(), running.end(), id));
  train = Train{};
  unused_trains.push_back(id);
}

// The trains' part of a cycle, before any router's.
void Network::State::run_trains() {
  for (const uint32_t id : ending) dissolve(id);
  ending.clear();
  const auto arrives = [&](const Train& train) { return train.arrival(timing.hop_cycles) <= now; };
  std::vector<uint32_t> blocked;
  for (const uint32_t id : running) {
    if (arrives(trains[id]) && buffers[trains[id].exit].count >= timing.buffer_wavelets) blocked.push_back(id);
  }
  for (const uint32_t id : blocked) dissolve(id);
  for (size_t i = 0; i < running.size();) {
    Train& train = trains[running[i]];
    if (!arrives(train)) {
      i++;
      continue;
    }
    const Car car = train.cars[train.first++];
    train.last = car.ready;
    hops += train.stretch.size();
    const bool empty = train.first == train.cars.size();
    if (empty || train.first >= 4096) {
      train.cars.erase(train.cars.begin(), train.cars.begin() + static_cast<ptrdiff_t>(train.first));
      train.first = 0;
    }
    const uint32_t exit = train.exit;
    if (empty) {
      train.running = false;
      running[i] = running.back();
      running.pop_back();
    } else {
      i++;
    }
    push(exit, car.data, car.control, now + timing.hop_cycles);
  }
}

void Network::observe(bool observed) {
  State& state = *state_;
  state.observed = observed;
  if (!observed) return;
  for (uint32_t id = 0; id < state.trains.size(); id++) {
    if (!state.trains[id].stretch.empty()) state.end_train(id);
  }
}

}  // namespace openwafer
