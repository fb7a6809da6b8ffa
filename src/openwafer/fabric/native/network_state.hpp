// How the network lies in memory: routers, slots (a color of a router) and buffers (an input of a slot), by index.
//
// All are made when something is configured or first sent there: a tile without a route costs four bytes. A buffer's
// entries carry the cycle from which they may leave, and a buffer remembers in which cycle it was last taken from: so
// each router can be done in turn, and still sees every other as it was when the cycle began.
//
// What a router looks at in every cycle lies apart: a lane for each of its inputs, side by side, and masks of lanes. A
// lane that found no room is left alone until the buffer before it, which knows it as its waiter, is taken from.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "active_set.hpp"
#include "network.hpp"

namespace openwafer {

constexpr uint32_t NONE = 0xffffffff;
constexpr uint32_t TWO_BUFFERS = 0x80000000;  // flag of Slot::out: index of a pair, where color swap receives twice
constexpr uint32_t TO_PORT = 0x40000000;      // flag of Slot::out: index of a port

constexpr uint8_t HOST = 5;    // an input of its own: a port on RAMP
constexpr int INPUTS = 6;      // the sides and HOST
constexpr uint8_t bit(int side) { return static_cast<uint8_t>(1u << side); }

inline Side opposite(Side side) {
  constexpr Side of[] = {EAST, WEST, NORTH, SOUTH, RAMP, SIDES};
  return of[side];
}

struct Entry {
  uint32_t data;
  uint32_t ready;  // cycle from which it may leave, in 31 bits; lowest bit: control
};

constexpr uint32_t CONTROL = 1;  // in Entry::ready

constexpr uint8_t NOBODY = 0xff;   // of Buffer::waiter
constexpr uint8_t SEVERAL = 0xfe;

struct Buffer {
  uint32_t slot, router;
  uint32_t taken;   // low bits of the cycle in which the last wavelet left
  uint32_t source;  // the router that fills it, or NONE
  uint8_t head = 0, count = 0;
  uint8_t input = 0;
  uint8_t lane = 0;          // of its router; the ramp to the CE has none
  uint8_t waiter = NOBODY;   // the lane of `source` that found it full
  bool from_port = false;
  bool refused = false;  // the CE was refused and wants to know of room
};

// Buffers by index, each with its entries behind it and in as few cache lines as that takes.
class Buffers {
 public:
  explicit Buffers(uint32_t entries)
      : lines_((sizeof(Buffer) + entries * sizeof(Entry) + sizeof(Line) - 1) / sizeof(Line)) {}

  uint32_t size() const { return static_cast<uint32_t>(memory_.size() / lines_); }
  size_t bytes() const { return memory_.capacity() * sizeof(Line); }
  uint32_t add() {
    const uint32_t made = size();
    memory_.resize(memory_.size() + lines_);
    new (&memory_[size_t{made} * lines_]) Buffer{};
    return made;
  }
  Buffer& operator[](uint32_t index) { return *reinterpret_cast<Buffer*>(&memory_[size_t{index} * lines_]); }
  const Buffer& operator[](uint32_t index) const {
    return *reinterpret_cast<const Buffer*>(&memory_[size_t{index} * lines_]);
  }
  static Entry* entries(Buffer& of) { return reinterpret_cast<Entry*>(&of + 1); }
  static const Entry& head(const Buffer& of) { return reinterpret_cast<const Entry*>(&of + 1)[of.head]; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  size_t lines_;
  std::vector<Line> memory_;
};

// What a router looks at of an input in each cycle.
struct Lane {
  uint32_t ready;   // of its first wavelet: Entry::ready
  uint32_t taken;   // Buffer::taken
  uint32_t buffer;
  uint32_t way;     // where its wavelets go, if that is all that can happen to them
};

// Lane::way: to the buffer at the end of a link, to the one on the ramp, or elsewhere: several sides, a filter, a port.
constexpr uint32_t ELSEWHERE = NONE;
constexpr int WAY_SIDE = 29;    // from this bit: the side
constexpr int WAY_COLOR = 24;   // of RAMP, from this bit: the color
constexpr uint32_t WAY_LIMIT = 1u << WAY_SIDE, WAY_RAMP_LIMIT = 1u << WAY_COLOR;  // of the buffer's index

// Masks of a router's lanes have a bit for each; the last bit stands for all lanes from there on, which few routers have.
constexpr uint32_t LAST_LANE = 63;
constexpr uint64_t lane_bit(uint32_t lane) { return uint64_t{1} << (lane < LAST_LANE ? lane : LAST_LANE); }

// Switch position: masks that replace rx and tx; 0 leaves them. A position without either is invalid.
struct Position {
  uint8_t rx = 0, tx = 0;
};

enum SlotBit : uint8_t {
  RING = 1,
  SWAP_X = 2,
  SWAP_Y = 4,
  STALLED = 8,          // teardown in progress
  POINT_TO_POINT = 16,  // kept for readers of the register; changes nothing here
  FILTERED = 32,
  PLAIN = 64,  // one link to one link, and nothing that could change or look at a wavelet
  MESSAGES = 128,  // the first wavelet of each message says where all of it goes: see network_messages.cpp
};

struct alignas(64) Slot {
  std::array<uint32_t, 4> out;  // the buffer at the other end of each link; NONE until it is needed
  std::array<uint32_t, 5> in;   // buffers by side
  uint32_t stage = NONE;        // the buffer on the ramp to the CE
  uint32_t extra = NONE;        // what few slots have
  uint32_t router = NONE;
  uint8_t rx = 0, tx = 0;  // of the current position
  uint8_t open = 0;        // inputs that are taken from: rx and HOST, or none in teardown
  uint8_t base_rx = 0, base_tx = 0;
  uint8_t color = 0;
  uint8_t position = 0;
  std::array<Position, 3> positions;
  uint8_t bits = 0;
  PopMode pop = PopMode::NO_POP;
};

// What sending and receiving need of a slot: places of a router lie side by side.
struct alignas(16) Place {
  uint32_t slot = NONE;
  uint32_t ramp = NONE;   // the buffer on the ramp from the CE; NONE also where there is no route
  uint32_t stage = NONE;  // the buffer on the ramp to the CE
};

struct Router {
  Tile tile = 0;
  uint32_t lanes = NONE;   // of `lanes`: its inputs by color and input
  uint64_t held = 0;       // lanes with wavelets
  uint64_t shut = 0;       // lanes that the route takes nothing from; never the last bit
  uint64_t full = 0;       // lanes that found no room before them; never the last bit
  uint32_t stages = 0;     // mask of colors with wavelets on the ramp
  uint32_t train = NONE;   // the train that goes through it
  uint32_t first = NONE;   // of `places`: its slots
  uint32_t colors = 0;     // mask of colors with a slot
  uint8_t lane_count = 0;
  std::array<uint8_t, COLORS> place;  // color -> place behind `first`
};

static_assert(sizeof(Slot) == 64);  // a cache line

struct Port {
  Tile tile;
  Side side;
  uint8_t color;
  bool into_fabric;
  uint32_t buffer = NONE;  // of an input
  bool active = false;
  size_t next = 0;  // of an input: the first word that the fabric has not taken; of an output: that the host has not
  std::vector<Wavelet> words;
};

struct Extra {
  Filter filter;
  struct Message {
    uint8_t left = 0;  // wavelets that have not passed; 0: there is none under way
    uint8_t sides = 0;
  };
  std::array<Message, INPUTS> messages;  // by input
  uint32_t host = NONE;  // the buffer of HOST
  std::array<uint32_t, SIDES> port_in, port_out;
  Extra() {
    port_in.fill(NONE);
    port_out.fill(NONE);
  }
};

struct Car {
  Cycle ready;  // when it could leave the train's first router
  uint32_t data;
  bool control;
};

struct Train {
  std::vector<uint32_t> stretch;       // the buffers of its routers
  uint32_t entry = NONE, exit = NONE;  // the first of them, and the one behind the last
  std::vector<Car> cars;
  size_t first = 0;      // of the cars: the oldest still under way
  Cycle last = NEVER;    // Car::ready of the last that has got off
  bool running = false;  // has cars
  bool ending = false;
  // When the oldest leaves the last router.
  Cycle arrival(Cycle hop) const { return cars[first].ready + (stretch.size() - 1) * hop; }
};

// Of tiles; a program's place.
struct Rectangle {
  uint32_t left = 0, top = 0, width = 0, height = 0;
};

struct Delivery {
  Tile tile;
  Wavelet wavelet;
};

struct Network::State {
  explicit State(uint32_t entries) : buffers(entries) {}

  uint32_t width, height;
  bool color_swap;
  NetworkTiming timing;
  uint32_t wrap;  // entries of a buffer in memory, a power of two, less one
  RampSink* sink = nullptr;
  std::optional<Rectangle> program;
  bool observed = false;

  std::vector<uint32_t> router_of;  // by tile
  std::vector<Router> routers;
  std::vector<Place> places;  // blocks of a router's slots, see Router::first
  std::vector<Slot> slots;
  Buffers buffers;
  std::vector<Lane> lanes;  // blocks of a router's lanes, see Router::lanes
  std::vector<Extra> extras;
  std::vector<std::array<uint32_t, 2>> pairs;
  std::vector<Port> ports;
  std::vector<Train> trains;
  std::vector<uint32_t> unused_trains, running, ending;

  ActiveSet active, next;  // routers of this round and of the next
  std::vector<uint32_t> order;  // of the routers of this round
  std::vector<uint32_t> active_ports, next_ports;
  Cycle latest = 0;    // the last cycle in which anything was done
  Cycle due = NEVER;   // when routers of `next` are to be looked at
  Cycle now = 0;       // of the current evaluate()
  std::vector<Delivery> deliveries;
  std::vector<std::pair<Tile, uint8_t>> teardowns, freed;
  std::optional<Failure> failure;
  Cycle failed_at = 0;
  uint64_t hops = 0;

  // --- network.cpp: places ---
  const Place* place_at(Tile tile, uint8_t color) const;  // null without a slot
  uint32_t slot_at(Tile tile, uint8_t color) const;
  Place& place_of(const Slot& slot);
  uint32_t make_slot(Tile tile, uint8_t color);
  uint32_t make_buffer(uint32_t slot, uint8_t input);
  void make_lane(uint32_t buffer);
  void empty_lane(Router& router, uint32_t lane);
  uint32_t input_buffer(uint32_t slot, uint8_t input);
  uint32_t neighbour(Tile tile, Side side) const;
  bool outside(Tile tile) const;  // of the program
  Extra& extra(uint32_t slot);
  // The slots that receive `color` by `input` at `tile`: by color swap another one, or two, or none.
  std::array<uint32_t, 2> receivers(Tile tile, uint8_t color, uint8_t input) const;
  uint32_t resolve(uint32_t slot, Side side);
  void forget_links(Tile tile, uint8_t color);
  void wake(uint32_t router);
  void wake_port(uint32_t port);
  void touched(Cycle cycle);
  void fail(Tile tile, uint8_t color, Side side);
  uint8_t over_edge(const Slot& slot) const;  // network_report.cpp
  Tile tile_of(const Slot& slot) const { return routers[slot.router].tile; }

  // --- network_registers.cpp: a route ---
  void refresh(Slot& slot);
  void relink(const Slot& slot);
  uint32_t way_of(const Slot& slot) const;
  bool advance(Slot& slot);
  // A color in teardown may get its route later.
  static bool routed(const Slot& slot) { return slot.base_rx | slot.base_tx | (slot.bits & STALLED); }

  // --- network_messages.cpp ---
  uint8_t message_sides(const Slot& slot, uint8_t input, uint32_t data) const;
  bool message_waits(const Slot& slot, uint8_t input, uint8_t sides) const;
  bool message_moves(uint32_t slot, uint8_t input, uint8_t sides, uint32_t data);

  // --- network_trains.cpp ---
  bool leads_to_one(uint32_t slot, Side side) const;
  bool form_train(uint32_t entry);
  bool board(uint32_t buffer, uint32_t data, bool control, Cycle ready);
  void end_train(uint32_t train);
  void dissolve(uint32_t train);
  void run_trains();

  // --- network_cycle.cpp: one cycle ---
  struct Request {
    uint32_t buffer, slot;
    uint32_t lane;
    uint32_t age;  // cycles since the buffer was last taken from
    Entry head;
    uint32_t port;  // in place of the CE, or NONE
    uint8_t sides;  // links, and the ramp if it goes down there
    bool counts;    // the filter counts it
  };
  bool leaves_now(uint32_t ready) const;
  Cycle after_hop(uint32_t slot, int side) const;  // when what leaves now by that link can leave the next router
  bool had_room(const Buffer& buffer) const;  // as the cycle began
  bool find_room(uint32_t buffer, Router& router, uint32_t lane, bool& waits);
  bool find_room_at(uint32_t out, Router& router, uint32_t lane, bool& waits);
  void put(Buffer& buffer, uint32_t data, bool control, Cycle ready);
  void put_input(uint32_t buffer, uint32_t data, bool control, Cycle ready);
  void push(uint32_t buffer, uint32_t data, bool control, Cycle ready);
  void take(uint32_t buffer);
  void inject(uint32_t port);
  bool drain_stages(uint32_t router, bool& waits);
  void step(uint32_t router);
  bool send_plain(uint32_t router, bool& moved, bool& waits);
  void send(uint32_t router, uint32_t lane);
  void send_any(uint32_t router, bool& moved, bool& waits);
  bool has_way(Request& request, bool& waits);
  void move(const Request& request);
  bool ramp_has_room(uint32_t slot);
  void down_ramp(const Slot& slot, uint32_t data, bool control);
  uint32_t obey(uint32_t slot, uint32_t payload);
};

// --- what every part does with buffers ---

inline const Place* Network::State::place_at(Tile tile, uint8_t color) const {
  const uint32_t index = router_of[tile];
  if (index == NONE) return nullptr;
  const Router& router = routers[index];
  if (!(router.colors >> color & 1)) return nullptr;
  return &places[router.first + router.place[color]];
}

inline uint32_t Network::State::slot_at(Tile tile, uint8_t color) const {
  const Place* place = place_at(tile, color);
  return place == nullptr ? NONE : place->slot;
}

inline Place& Network::State::place_of(const Slot& slot) {
  const Router& router = routers[slot.router];
  return places[router.first + router.place[slot.color]];
}

inline bool Network::State::leaves_now(uint32_t ready) const {
  return static_cast<int32_t>((static_cast<uint32_t>(now) << 1) - (ready & ~CONTROL)) >= 0;
}

inline bool Network::State::had_room(const Buffer& buffer) const {
  return buffer.count + uint32_t{buffer.taken == static_cast<uint32_t>(now)} < timing.buffer_wavelets;
}

inline void Network::State::put(Buffer& buffer, uint32_t data, bool control, Cycle ready) {
  Buffers::entries(buffer)[(buffer.head + buffer.count) & wrap] = {
      data, static_cast<uint32_t>(ready) << 1 | (control ? CONTROL : 0)};
  buffer.count++;
}

inline void Network::State::put_input(uint32_t index, uint32_t data, bool control, Cycle ready) {
  Buffer& buffer = buffers[index];
  put(buffer, data, control, ready);
  if (buffer.count > 1) return;
  Router& router = routers[buffer.router];
  router.held |= lane_bit(buffer.lane);
  lanes[router.lanes + buffer.lane].ready = Buffers::head(buffer).ready;
}

inline void Network::State::wake(uint32_t index) { next.add(index); }

inline void Network::State::push(uint32_t index, uint32_t data, bool control, Cycle ready) {
  {
    const Router& router = routers[buffers[index].router];
    const bool boards = router.train != NONE ||
                        (router.held == 0 && slots[buffers[index].slot].bits & PLAIN && form_train(index));
    if (boards && board(index, data, control, ready)) return;
  }
  put_input(index, data, control, ready);
  wake(buffers[index].router);
}

inline void Network::State::empty_lane(Router& router, uint32_t lane) {
  if (lane >= LAST_LANE) {
    for (uint32_t other = LAST_LANE; other < router.lane_count; other++) {
      if (buffers[lanes[router.lanes + other].buffer].count > 0) return;
    }
  }
  router.held &= ~lane_bit(lane);
}

// Takes the first wavelet away, which the caller has read.
inline void Network::State::take(uint32_t index) {
  Buffer& buffer = buffers[index];
  Router& router = routers[buffer.router];
  Lane& lane = lanes[router.lanes + buffer.lane];
  buffer.head = static_cast<uint8_t>((buffer.head + 1) & wrap);
  buffer.taken = lane.taken = static_cast<uint32_t>(now);
  if (--buffer.count == 0) {
    empty_lane(router, buffer.lane);
  } else {
    lane.ready = Buffers::head(buffer).ready;
  }
  if (buffer.source != NONE) {
    Router& source = routers[buffer.source];
    if (buffer.waiter != NOBODY) source.full &= buffer.waiter == SEVERAL ? 0 : ~lane_bit(buffer.waiter);
    buffer.waiter = NOBODY;
    if (source.held) wake(buffer.source);
  }
  if (!(buffer.refused | buffer.from_port)) return;
  if (buffer.refused) {
    buffer.refused = false;
    freed.emplace_back(router.tile, slots[buffer.slot].color);
  }
  if (buffer.from_port) {
    const size_t side = buffer.input == HOST ? size_t{RAMP} : buffer.input;
    wake_port(extras[slots[buffer.slot].extra].port_in[side]);
  }
}

}  // namespace openwafer
