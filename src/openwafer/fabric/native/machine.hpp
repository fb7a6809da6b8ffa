// The machine: a fabric of routers and the PEs that run programs, one cycle after another.
//
// A cycle has three phases: the network evaluates, the network commits (and delivers into input queues), every PE that
// has something to do steps. A PE touches only its own state and its own ramp, so no result depends on the order of PEs.
// Where nothing is to do, the machine goes on at the next cycle that its calendar or the network has.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "network.hpp"
#include "pe.hpp"
#include "timing.hpp"
#include "trace.hpp"

namespace openwafer {

// Which PEs step in which cycle: a wheel for the near future, a heap for the far.
class Calendar {
 public:
  void add(Cycle cycle, Tile tile);
  Cycle next(Cycle after) const;  // the earliest cycle >= after that has an entry, or NEVER
  void take(Cycle cycle, std::vector<Tile>& tiles);

 private:
  static constexpr Cycle SIZE = 1024;
  std::vector<Tile> wheel_[SIZE];
  uint64_t used_[SIZE / 64] = {};
  Cycle base_ = 0;  // the wheel holds cycles base_ .. base_ + SIZE - 1
  using Far = std::pair<Cycle, Tile>;
  std::priority_queue<Far, std::vector<Far>, std::greater<>> far_;
};

class Machine : public RampSink {
 public:
  struct Options {
    uint32_t width = 1, height = 1;    // of the fabric
    uint32_t left = 0, top = 0;        // where the program's rectangle lies
    uint32_t columns = 1, rows = 1;    // of it
    bool wse3 = false;
    bool color_swap = false;
    Jitter jitter = {};
  };
  enum class Outcome { IDLE, LIMIT, STALLED, FAILED };

  Machine(const Options& options, const TimingTable& timing);

  uint32_t add_program(Program program);
  void place(uint16_t x, uint16_t y, uint32_t program);
  void configure(uint16_t x, uint16_t y, uint8_t color, const RouteConfig& route);
  Filter* filter(uint16_t x, uint16_t y, uint8_t color) { return network_.filter(tile_of(x, y), color); }
  void set_stream(uint8_t color, bool into_fabric) { (into_fabric ? stream_in_ : stream_out_) |= 1u << color; }
  uint32_t open_port(uint16_t x, uint16_t y, Side side, uint8_t color, bool into_fabric);
  void start();  // after the last tile: every PE looks for its first task

  Outcome run(Cycle cycles, const std::function<void()>& poll);
  Cycle cycle() const { return cycle_; }
  // For the host, on an idle machine: time passes and nothing happens.
  void skip_to(Cycle cycle) { cycle_ = std::max(cycle_, cycle); }

  // --- the host's side; places are in the program's rectangle ---
  Pe& pe(uint16_t x, uint16_t y);
  Pe* find(uint16_t x, uint16_t y);
  void launch(uint16_t x, uint16_t y, uint32_t entry, const std::vector<uint32_t>& arguments);
  bool commands_idle(uint16_t x, uint16_t y, uint16_t width, uint16_t height);
  void send_port(uint32_t port, uint8_t color, const uint32_t* words, size_t count, bool control);
  size_t receive_port(uint32_t port, uint32_t* words, size_t count);
  size_t pending_port(uint32_t port) const { return network_.pending(port); }
  void send_stream(uint16_t x, uint16_t y, uint8_t color, const uint32_t* words, size_t count, bool control);
  size_t pending_stream(uint16_t x, uint16_t y, uint8_t color) const;
  // Words that the PE has sent on a streaming color, at most `count`; what is missing stays wanted, and until the host
  // wants words only as many leave the PE as a router's buffer holds.
  size_t receive_stream(uint16_t x, uint16_t y, uint8_t color, uint32_t* words, size_t count);
  // What waits, and for what. Without `unblock` a function that has done all but unblock the commands is not told.
  std::string diagnose(bool unblock) const;
  const std::string& failure() const { return failure_; }
  uint64_t hops() const { return network_.hops(); }

  // --- the PEs' side ---
  const Timing& timing() const { return timing_; }
  Network& network() { return network_; }
  bool wse3() const { return options_.wse3; }
  bool failed() const { return !failure_.empty(); }
  void fail(std::string what);
  bool streams_out(uint8_t color) const { return (stream_out_ >> color) & 1; }
  bool offer_stream(Tile tile, const Wavelet& wavelet);
  void schedule(Pe& pe, Cycle cycle);
  void poll();
  std::jmp_buf& trap_point() { return trap_point_; }
  struct Line {
    Cycle cycle;
    uint16_t x, y;
    std::string text;
  };
  std::vector<Line> lines;
  Trace trace;
  uint64_t spin_limit = 0;  // cycles that a task may run without waiting; 0: no limit

  void set_trace(bool enabled, bool wavelets, bool passages, size_t limit);
  std::vector<TraceRecord> trace_records();

  // --- RampSink ---
  void passed(Tile tile, const Wavelet& wavelet, uint8_t from, uint8_t sides, Cycle cycle) override;
  bool has_room(Tile tile, uint8_t color) const override;
  void deliver(Tile tile, const Wavelet& wavelet, Cycle cycle) override;
  void teardown(Tile tile, uint8_t color, Cycle cycle) override;
  void ramp_free(Tile tile, uint8_t color, Cycle cycle) override;

 private:
  using StreamKey = std::pair<Tile, uint8_t>;
  struct Stream {
    std::deque<Wavelet> words;
    size_t wanted = 0;  // out: words that the host asked for and has not got
  };
  Tile tile_of(uint16_t x, uint16_t y) const;
  void step_streams();
  bool streams_can_move() const;
  bool unfinished() const;
  void look_ahead(size_t at) const;

  Options options_;
  Timing timing_;
  Network network_;
  std::deque<Program> programs_;
  std::vector<std::unique_ptr<Pe>> pes_;
  Calendar calendar_;
  Cycle cycle_ = 0;
  std::vector<Tile> due_;
  std::map<StreamKey, Stream> inward_, outward_;
  uint32_t stream_in_ = 0, stream_out_ = 0;
  std::string failure_;
  std::jmp_buf trap_point_;
  const std::function<void()>* poll_ = nullptr;
};

}  // namespace openwafer
