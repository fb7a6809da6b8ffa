// The machine's cycle, and the host's side of it.
#include "machine.hpp"

#include <algorithm>
#include <stdexcept>

#include "prefetch.hpp"

namespace openwafer {

Machine::Machine(const Options& options, const TimingTable& table)
    : options_(options),
      timing_(table, options.jitter),
      network_(options.width, options.height, options.color_swap, timing_.network),
      pes_(size_t{options.width} * options.height) {
  network_.set_sink(this);
  network_.set_program(options.left, options.top, options.columns, options.rows);
}

Tile Machine::tile_of(uint16_t x, uint16_t y) const {
  const uint32_t column = options_.left + x, row = options_.top + y;
  if (column >= options_.width || row >= options_.height) {
    throw std::out_of_range("PE (" + std::to_string(x) + ", " + std::to_string(y) + ") lies outside the fabric");
  }
  return row * options_.width + column;
}

uint32_t Machine::add_program(Program program) {
  programs_.push_back(std::move(program));
  return static_cast<uint32_t>(programs_.size() - 1);
}

void Machine::place(uint16_t x, uint16_t y, uint32_t program) {
  const Tile tile = tile_of(x, y);
  pes_[tile] = std::make_unique<Pe>(*this, programs_.at(program), tile, x, y);
}

void Machine::configure(uint16_t x, uint16_t y, uint8_t color, const RouteConfig& route) {
  network_.configure(tile_of(x, y), color, route);
}

uint32_t Machine::open_port(uint16_t x, uint16_t y, Side side, uint8_t color, bool into_fabric) {
  return network_.open_port(tile_of(x, y), side, color, into_fabric);
}

void Machine::start() {
  for (const auto& pe : pes_) {
    if (pe != nullptr) schedule(*pe, 0);
  }
}

void Machine::schedule(Pe& pe, Cycle cycle) {
  if (cycle >= pe.wake) return;
  pe.wake = cycle;
  calendar_.add(cycle, pe.tile());
}

void Machine::fail(std::string what) {
  if (failure_.empty()) failure_ = std::move(what);
}

void Machine::poll() {
  if (poll_ != nullptr && *poll_) (*poll_)();
}

// --- the ramp ---

bool Machine::has_room(Tile tile, uint8_t color) const { return pes_[tile] != nullptr && pes_[tile]->has_room(color); }

void Machine::deliver(Tile tile, const Wavelet& wavelet, Cycle cycle) {
  Pe& pe = *pes_[tile];
  pe.deliver(wavelet, cycle);
  schedule(pe, cycle + timing_.landing_cycles);
}

void Machine::teardown(Tile tile, uint8_t color, Cycle cycle) {
  if (pes_[tile] == nullptr) return;
  pes_[tile]->teardown(color);
  schedule(*pes_[tile], cycle);
}

void Machine::ramp_free(Tile tile, uint8_t, Cycle cycle) {
  if (pes_[tile] != nullptr) schedule(*pes_[tile], cycle);
}

// --- memcpy's streaming colors: straight between the host and the queues of a PE ---

bool Machine::offer_stream(Tile tile, const Wavelet& wavelet) {
  Stream& stream = outward_[{tile, wavelet.color}];
  if (stream.words.size() >= std::max<size_t>(stream.wanted, timing_.network.buffer_wavelets)) return false;
  stream.words.push_back(wavelet);
  return true;
}

void Machine::step_streams() {
  for (auto entry = inward_.begin(); entry != inward_.end();) {  // what has nothing left to send goes
    auto& [key, stream] = *entry;
    if (has_room(key.first, key.second)) {
      deliver(key.first, stream.words.front(), cycle_);
      stream.words.pop_front();
    }
    entry = stream.words.empty() ? inward_.erase(entry) : std::next(entry);
  }
}

bool Machine::streams_can_move() const {
  return std::any_of(inward_.begin(), inward_.end(), [this](const auto& entry) {
    return has_room(entry.first.first, entry.first.second);
  });
}

void Machine::send_stream(uint16_t x, uint16_t y, uint8_t color, const uint32_t* words, size_t count, bool control) {
  if (((stream_in_ >> color) & 1) == 0) {
    throw std::invalid_argument("color " + std::to_string(color) + " is no streaming color of the host");
  }
  if (count == 0) return;
  Stream& stream = inward_[{pe(x, y).tile(), color}];
  for (size_t i = 0; i < count; ++i) stream.words.push_back({words[i], color, control});
}

size_t Machine::pending_stream(uint16_t x, uint16_t y, uint8_t color) const {
  const auto found = inward_.find({tile_of(x, y), color});
  return found == inward_.end() ? 0 : found->second.words.size();
}

size_t Machine::receive_stream(uint16_t x, uint16_t y, uint8_t color, uint32_t* words, size_t count) {
  Pe& from = pe(x, y);
  Stream& stream = outward_[{from.tile(), color}];
  const size_t taken = std::min(count, stream.words.size());
  for (size_t i = 0; i < taken; ++i) {
    words[i] = stream.words.front().data;
    stream.words.pop_front();
  }
  stream.wanted = count - taken;
  if (from.output_blocked()) schedule(from, cycle_);
  return taken;
}

// --- the host ---

Pe* Machine::find(uint16_t x, uint16_t y) { return pes_[tile_of(x, y)].get(); }

Pe& Machine::pe(uint16_t x, uint16_t y) {
  if (Pe* found = find(x, y)) return *found;
  throw std::out_of_range("PE (" + std::to_string(x) + ", " + std::to_string(y) + ") runs no program");
}

void Machine::launch(uint16_t x, uint16_t y, uint32_t entry, const std::vector<uint32_t>& arguments) {
  Pe& to = pe(x, y);
  if (entry >= to.program().entries.size()) {
    throw std::invalid_argument(to.program().name + " has no entry " + std::to_string(entry));
  }
  if (arguments.size() > ARGUMENT_WORDS) {
    throw std::invalid_argument("a launch has at most " + std::to_string(ARGUMENT_WORDS) + " words of arguments, not " +
                                std::to_string(arguments.size()));
  }
  to.launch(entry, arguments);
  schedule(to, cycle_);
}

bool Machine::commands_idle(uint16_t x, uint16_t y, uint16_t width, uint16_t height) {
  for (uint16_t row = y; row < y + height; ++row) {
    for (uint16_t column = x; column < x + width; ++column) {
      const Pe* one = find(column, row);
      if (one != nullptr && !one->commands_idle()) return false;
    }
  }
  return true;
}

void Machine::send_port(uint32_t port, uint8_t color, const uint32_t* words, size_t count, bool control) {
  std::vector<Wavelet> wavelets;
  wavelets.reserve(count);
  for (size_t i = 0; i < count; ++i) wavelets.push_back({words[i], color, control});
  network_.send(port, wavelets.data(), count, cycle_);
}

size_t Machine::receive_port(uint32_t port, uint32_t* words, size_t count) {
  // Control wavelets are for routers on the way; the host gets the data.
  size_t taken = 0;
  Wavelet wavelet;
  while (taken < count && network_.take(port, &wavelet, 1) == 1) {
    if (!wavelet.control) words[taken++] = wavelet.data;
  }
  return taken;
}

// Fetches the PEs that step soon, each part once what says where it lies is here.
void Machine::look_ahead(size_t at) const {
  constexpr size_t OPERANDS = 2, PARTS = 5, WHOLE = 10, PLACE = 16;  // PEs ahead
  if (at + PLACE < due_.size()) prefetch(&pes_[due_[at + PLACE]], sizeof(pes_[0]));
  if (at + WHOLE < due_.size()) prefetch(pes_[due_[at + WHOLE]].get(), sizeof(Pe));
  if (at + PARTS < due_.size()) pes_[due_[at + PARTS]]->prefetch_parts();
  if (at + OPERANDS < due_.size()) pes_[due_[at + OPERANDS]]->prefetch_operands();
}

Machine::Outcome Machine::run(Cycle cycles, const std::function<void()>& poll) {
  constexpr Cycle POLL_EVERY = 1 << 16;
  poll_ = &poll;
  const Cycle end = cycles == NEVER ? NEVER : cycle_ + cycles;
  Cycle polled = cycle_;
  uint32_t rounds = 0;
  Outcome outcome = Outcome::LIMIT;
  while (true) {
    if (failed()) {
      outcome = Outcome::FAILED;
      break;
    }
    Cycle next = std::min(network_.next_cycle(), calendar_.next(cycle_));
    if (streams_can_move()) next = cycle_;
    if (next == NEVER) {
      outcome = unfinished() ? Outcome::STALLED : Outcome::IDLE;
      break;
    }
    next = std::max(next, cycle_);
    if (next >= end) {
      cycle_ = end;
      break;
    }
    cycle_ = next;
    // 1. and 2. the network
    if (network_.next_cycle() <= cycle_) {
      network_.evaluate(cycle_);
      network_.commit(cycle_);
    }
    step_streams();
    // 3. the PEs
    calendar_.take(cycle_, due_);
    for (size_t i = 0; i < due_.size(); ++i) {
      look_ahead(i);
      Pe& pe = *pes_[due_[i]];
      if (pe.wake != cycle_) continue;  // it was called earlier, and has said anew when it wants to be called
      pe.wake = NEVER;
      const Cycle wanted = pe.step(cycle_);
      if (wanted != NEVER) schedule(pe, wanted);
    }
    if (const auto lost = network_.failed()) {  // by a router, or by the PE that has just offered a wavelet
      const Pe* pe = pes_[lost->tile].get();
      const std::string where = pe == nullptr ? "" : pe->place(0) + ": PE (" + std::to_string(pe->x) + ", " +
                                                        std::to_string(pe->y) + "), ";
      fail(where + "cycle " + std::to_string(cycle_) + ": " + network_.failure());
    }
    ++cycle_;
    if (++rounds % 1024 == 0 || cycle_ - polled > POLL_EVERY) {
      polled = cycle_;
      if (poll) poll();
    }
  }
  poll_ = nullptr;
  return outcome;
}

bool Machine::unfinished() const {
  if (!network_.held().empty()) return true;
  if (!inward_.empty()) return true;
  return std::any_of(pes_.begin(), pes_.end(), [](const auto& pe) { return pe != nullptr && pe->unfinished(); });
}

std::string Machine::diagnose(bool unblock) const {
  static constexpr const char* SIDE_NAMES[] = {"west", "east", "south", "north", "ramp", "the ramp to the PE"};
  const auto sides_of = [](uint8_t mask) {
    std::string sides;
    for (int side = 0; side < SIDES; ++side) {
      if ((mask >> side) & 1) sides += std::string(sides.empty() ? "" : ", ") + SIDE_NAMES[side];
    }
    return sides;
  };
  std::string out;
  for (const auto& pe : pes_) {
    if (pe != nullptr) pe->describe_waiting(out, cycle_, unblock);
  }
  for (const Network::Held& held : network_.held()) {
    const int x = static_cast<int>(held.tile % options_.width) - static_cast<int>(options_.left);
    const int y = static_cast<int>(held.tile / options_.width) - static_cast<int>(options_.top);
    out += "router (" + std::to_string(x) + ", " + std::to_string(y) + "): " + std::to_string(held.count) +
           " wavelets of color " + std::to_string(held.color) + " from " + SIDE_NAMES[held.from];
    switch (held.why) {
      case Network::Wait::ROOM:
        out += held.from == SIDES || held.waits_for == (1u << RAMP)
                   ? " wait for room in an input queue of the PE that takes this color\n"
                   : " wait for room towards " + sides_of(held.waits_for) + "\n";
        break;
      case Network::Wait::SWITCH: out += " come from a side that the switch position does not receive from\n"; break;
      case Network::Wait::TEARDOWN: out += " wait for the color's teardown to end\n"; break;
      case Network::Wait::OUTSIDE:
        out += " wait: this place is outside of the program's rectangle and has no route for them; end the route on the "
               "tile before it\n";
        break;
      case Network::Wait::EDGE:
        out += " wait to leave the fabric at its edge (" + sides_of(held.waits_for) +
               "), where no port of the host is; end the route here, or open a port\n";
        break;
    }
  }
  for (const auto& [key, stream] : inward_) {
    out += "host: " + std::to_string(stream.words.size()) + " words of color " + std::to_string(key.second) +
           " to PE (" + std::to_string(key.first % options_.width - options_.left) + ", " +
           std::to_string(key.first / options_.width - options_.top) + ") wait for room in its input queue\n";
  }
  return out;
}

}  // namespace openwafer
