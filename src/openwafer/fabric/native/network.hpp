// The network of routers: 24 colors, five links a router, buffers, backpressure, switches, filters, teardown.
//
// It knows no PE: what a router hands to its compute element (CE) goes to a RampSink. One cycle has two phases, so that
// no result depends on the order of routers: evaluate() moves wavelets by the state as the cycle began, commit() hands
// to the sink what has come down the ramps.
//
// Time. What the CE offers in cycle c can leave its router in cycle c + ramp_in_cycles; what leaves a router in cycle t
// can leave the next one in cycle t + hop_cycles; what leaves the last router in cycle t is delivered in cycle t +
// ramp_out_cycles. So an idle path of n hops takes ramp_in + n * hop + ramp_out cycles, from the cycle of offer() to
// that of deliver(), and the CE's own phase of that cycle sees the wavelet. A buffer counts the wavelets on their way
// to it, and its room is that of the cycle's begin: a stream flows at one wavelet a cycle if buffer_wavelets >
// max(hop_cycles, ramp_in_cycles).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jitter.hpp"

namespace openwafer {

using Tile = uint32_t;   // y * width + x, in fabric coordinates
using Cycle = uint64_t;

constexpr int COLORS = 24;
constexpr Cycle NEVER = ~Cycle{0};

struct Wavelet {
  uint32_t data = 0;
  uint8_t color = 0;
  bool control = false;
};

enum Side : uint8_t { WEST = 0, EAST = 1, SOUTH = 2, NORTH = 3, RAMP = 4, SIDES = 5 };

// What stands at the other end of a router's ramp: the input queues of a CE.
class RampSink {
 public:
  virtual ~RampSink() = default;
  // Evaluate phase: can the CE take one more wavelet of this color in this cycle? Must not change anything.
  virtual bool has_room(Tile tile, uint8_t color) const = 0;
  // Commit phase: takes the wavelet; called only if has_room() said so in this cycle.
  virtual void deliver(Tile tile, const Wavelet& wavelet, Cycle cycle) = 0;
  // Commit phase: a control wavelet has put a color into teardown at this router.
  virtual void teardown(Tile tile, uint8_t color, Cycle cycle) = 0;
  // Commit phase: an offer of this color was refused, and now the ramp buffer has room. Spares a CE from asking again.
  virtual void ramp_free(Tile, uint8_t, Cycle) {}
  // Evaluate phase, while the network is observed: a router has sent a wavelet, as it came, from one side (SIDES: of the
  // host's port on its ramp) to others. Must not change what the network asks.
  virtual void passed(Tile, const Wavelet&, uint8_t, uint8_t, Cycle) {}
};

// Timing and sizes of the network; from the tables in fabric/timing.
struct NetworkTiming {
  uint32_t hop_cycles = 2;       // link to link; at least 1
  uint32_t ramp_in_cycles = 1;   // CE to router; at least 1
  uint32_t ramp_out_cycles = 1;  // router to CE
  uint32_t buffer_wavelets = 4;  // for each color and input of a router; 1 to 128
  bool trains = true;            // move uncontended streams as one; changes no result, only speed
  Jitter jitter = {};            // goes without trains
};

struct SwitchPosition {
  // Ends the sequence, as one that changes nothing does: from there back to 0 with `ring`, else nowhere.
  bool invalid = false;
  bool changes_rx = false, changes_tx = false;  // what a position leaves alone stays as the one before it has it
  uint8_t rx = 0, tx = 0;  // bit masks of sides
};

enum class PopMode : uint8_t { NO_POP, ALWAYS_POP, POP_ON_ADVANCE, POP_ON_ADVANCE_NOP };
enum class FilterKind : uint8_t { NONE, COUNTER, SPARSE_COUNTER, RANGE };

// Which wavelets go down the ramp. See filter.hpp for the rules.
struct Filter {
  FilterKind kind = FilterKind::NONE;
  bool count_data = true, count_control = false, has_limit2 = false;
  bool filter_control = false;  // counter: only control wavelets pass, and only at `maximum`
  uint16_t counter = 0, limit1 = 0, limit2 = 0;
  uint16_t minimum = 0, maximum = 0;  // range: of the index; counters: `maximum` is the last count that passes
};

struct RouteConfig {
  uint8_t rx = 0, tx = 0;  // bit masks of sides, position 0
  SwitchPosition positions[3];
  uint8_t position = 0;
  bool ring = false;
  PopMode pop = PopMode::NO_POP;
  Filter filter;
  bool teardown = false, swap_x = false, swap_y = false;
  bool messages = false;  // tx does not count: the first wavelet of each message says where it goes
};

class Network {
 public:
  Network(uint32_t width, uint32_t height, bool color_swap, const NetworkTiming& timing);
  ~Network();

  void set_sink(RampSink* sink);
  // Where the program lies. A wavelet that leaves it is held: by the first router outside, which has no routes, or at the
  // fabric's edge by the last one inside. Without a program, and anywhere inside of it, a wavelet without a route is a
  // failure, and so is one at an edge without a port.
  void set_program(uint32_t left, uint32_t top, uint32_t width, uint32_t height);
  // Whether the sink is told of every passage; no trains are formed then, which changes speed and no result.
  void observe(bool observed);
  // Sets or replaces a color's route; wavelets in its buffers stay.
  void configure(Tile tile, uint8_t color, const RouteConfig& route);

  // Calls with a cycle come after commit() of that cycle: by PEs in its PE phase, or by the host between two cycles.
  // What they change, routers see in the next one.

  // --- the CE's side of the ramp ---
  // PE phase: hands a wavelet to the router; false if its ramp buffer for this color is full (see ramp_free).
  bool offer(Tile tile, const Wavelet& wavelet, Cycle cycle);
  // PE phase: the CE has made room for this color; the router looks again in the next cycle.
  void wake(Tile tile, uint8_t color, Cycle cycle);

  // --- host ports: as a link of that router ---
  // Words wait in the port without limit; the router takes one a cycle where it has room.
  // On RAMP an input is open whatever the route's rx is, and an output gets what the route sends down the ramp, except
  // what came in by such an input: that goes to the CE. A color without a route gets RAMP to RAMP.
  uint32_t open_port(Tile tile, Side side, uint8_t color, bool into_fabric);
  void send(uint32_t port, const Wavelet* wavelets, size_t count, Cycle cycle);
  size_t received(uint32_t port) const;
  size_t pending(uint32_t port) const;  // not yet taken by the fabric
  size_t take(uint32_t port, Wavelet* wavelets, size_t count);

  // --- one cycle ---
  void evaluate(Cycle cycle);
  void commit(Cycle cycle);
  // The next cycle at which any router has something to do, or NEVER.
  Cycle next_cycle() const;

  // --- configuration registers (route register and switch register of a color) ---
  uint16_t read_route(Tile tile, uint8_t color) const;
  void write_route(Tile tile, uint8_t color, uint16_t value, Cycle cycle);
  uint16_t read_switch(Tile tile, uint8_t color) const;
  void write_switch(Tile tile, uint8_t color, uint16_t value, Cycle cycle);
  void exit_teardown(Tile tile, uint8_t color, Cycle cycle);
  // Whether the color's route is one of messages.
  bool carries_messages(Tile tile, uint8_t color) const;
  // The filter of a color's route, to be read and changed in place at once; null without a route.
  Filter* filter(Tile tile, uint8_t color);

  // --- what is going on: for errors, diagnosis of stalls, traces ---
  enum class Wait : uint8_t { ROOM, SWITCH, TEARDOWN, OUTSIDE, EDGE };
  struct Held {  // a wavelet that cannot go on
    Tile tile;
    uint8_t color;
    Side from;          // SIDES: on the ramp, where it waits for the CE
    uint32_t count;     // wavelets in that buffer
    uint8_t waits_for;  // ROOM, EDGE: mask of sides without room, or without a router; else 0
    // ROOM; SWITCH: the route takes nothing from that side now; TEARDOWN: the color is stalled; OUTSIDE: it has left the
    // program, and this router has no route; EDGE: the fabric ends here
    Wait why;
  };
  std::vector<Held> held() const;
  struct Failure {  // a wavelet without a route
    Tile tile;      // the router that cannot send it on
    uint8_t color;
    Side side;      // the side that it would leave by; SIDES: by none
  };
  // The first in the order of tiles and colors, of the first cycle with one.
  std::optional<Failure> failed() const;
  std::string failure() const;  // empty, or the same as a text in fabric coordinates
  uint64_t hops() const;        // wavelets over links between routers, or to and from ports, so far
  size_t memory_bytes() const;  // what the routers hold now

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace openwafer
