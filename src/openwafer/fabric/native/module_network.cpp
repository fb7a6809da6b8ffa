// NetworkProbe: a network whose CEs only send prepared words and keep what they get. For tests and benchmarks.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "network.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace openwafer {
namespace {

using Word = std::tuple<uint32_t, bool>;             // data, control
using Arrival = std::tuple<Cycle, uint32_t, bool>;   // cycle, data, control
using Override = std::tuple<int, int>;               // rx and tx of a switch position, -1 leaves it

class NetworkProbe final : public RampSink {
 public:
  NetworkProbe(uint32_t width, uint32_t height, bool color_swap, uint32_t hop_cycles, uint32_t ramp_in_cycles,
               uint32_t ramp_out_cycles, uint32_t buffer_wavelets, bool trains)
      : width_(width),
        height_(height),
        network_(width, height, color_swap, {hop_cycles, ramp_in_cycles, ramp_out_cycles, buffer_wavelets, trains}),
        queue_of_(size_t{width} * height * COLORS, -1),
        feed_of_(size_t{width} * height * COLORS, -1) {
    network_.set_sink(this);
  }

  // --- RampSink ---
  bool has_room(Tile tile, uint8_t color) const override {
    const Queue* queue = find(tile, color);
    return queue && (queue->depth == 0 || queue->held < queue->depth);
  }
  void deliver(Tile tile, const Wavelet& wavelet, Cycle cycle) override {
    Queue& queue = *find(tile, wavelet.color);
    if (queue.held++ == 0) filled_.push_back(queue_of_[size_t{tile} * COLORS + wavelet.color]);
    queue.count++;
    if (queue.record) queue.arrivals.emplace_back(cycle, wavelet.data, wavelet.control);
  }
  void teardown(Tile tile, uint8_t color, Cycle cycle) override {
    teardowns_.emplace_back(cycle, tile % width_, tile / width_, color);
  }

  void ramp_free(Tile tile, uint8_t color, Cycle) override {
    for (const uint8_t of : {color, static_cast<uint8_t>(color ^ 1)}) {  // by color swap what was offered is the other
      const int32_t at = feed_of_[size_t{tile} * COLORS + of];
      if (at < 0 || !feeds_[static_cast<size_t>(at)].refused) continue;
      feeds_[static_cast<size_t>(at)].refused = false;
      sending_.push_back(at);
    }
  }

  // --- building ---
  void configure(uint32_t x, uint32_t y, uint8_t color, uint8_t rx, uint8_t tx,
                 const std::vector<std::optional<Override>>& positions, uint8_t position, bool ring, int pop,
                 bool teardown, bool swap_x, bool swap_y) {
    RouteConfig route;
    route.rx = rx;
    route.tx = tx;
    route.position = position;
    route.ring = ring;
    route.pop = static_cast<PopMode>(pop);
    route.teardown = teardown;
    route.swap_x = swap_x;
    route.swap_y = swap_y;
    if (positions.size() > 3) throw std::invalid_argument("a route has at most three positions besides position 0");
    for (size_t i = 0; i < positions.size(); i++) {
      SwitchPosition& to = route.positions[i];
      to.invalid = !positions[i];
      if (to.invalid) continue;
      const auto [new_rx, new_tx] = *positions[i];
      to.changes_rx = new_rx >= 0;
      to.changes_tx = new_tx >= 0;
      to.rx = static_cast<uint8_t>(to.changes_rx ? new_rx : 0);
      to.tx = static_cast<uint8_t>(to.changes_tx ? new_tx : 0);
    }
    network_.configure(tile(x, y), checked(color), route);
  }
  void set_filter(uint32_t x, uint32_t y, uint8_t color, const std::string& kind, uint16_t counter, uint16_t limit1,
                  std::optional<uint16_t> limit2, uint16_t minimum, uint16_t maximum, bool count_data,
                  bool count_control, bool filter_control) {
    Filter* filter = network_.filter(tile(x, y), checked(color));
    if (!filter) throw std::invalid_argument("no route to filter");
    filter->kind = kind == "range"            ? FilterKind::RANGE
                   : kind == "sparse_counter" ? FilterKind::SPARSE_COUNTER
                                              : FilterKind::COUNTER;
    filter->counter = counter;
    filter->limit1 = limit1;
    filter->has_limit2 = limit2.has_value();
    filter->limit2 = limit2.value_or(0);
    filter->minimum = minimum;
    filter->maximum = maximum;
    filter->count_data = count_data;
    filter->count_control = count_control;
    filter->filter_control = filter_control;
  }
  void feed(uint32_t x, uint32_t y, uint8_t color, const std::vector<Word>& words, Cycle start) {
    std::vector<Wavelet> wavelets;
    for (const auto& [data, control] : words) wavelets.push_back({data, color, control});
    add({tile(x, y), checked(color), start, std::move(wavelets), 0, 0});
  }
  void stream(uint32_t x, uint32_t y, uint8_t color, uint64_t count, Cycle start) {
    add({tile(x, y), checked(color), start, {}, 0, count});
  }
  void set_program(uint32_t left, uint32_t top, uint32_t width, uint32_t height) {
    network_.set_program(left, top, width, height);
  }
  void listen(uint32_t x, uint32_t y, uint8_t color, uint32_t depth, uint32_t every, bool record) {
    queue_of_[size_t{tile(x, y)} * COLORS + checked(color)] = static_cast<int32_t>(queues_.size());
    queues_.push_back(Queue{tile(x, y), color, depth, every, record, 0, 0, {}});
  }

  // --- running ---
  // Until nothing can happen any more, or `cycles` more have passed; the cycle that comes next.
  Cycle run(Cycle cycles) {
    const Cycle end = cycle_ + cycles;
    while (cycle_ < end && !network_.failed()) {
      if (network_.next_cycle() <= cycle_) {
        network_.evaluate(cycle_);
        network_.commit(cycle_);
      }
      const Cycle wanted = work();
      const Cycle after = std::min(std::max(wanted, cycle_ + 1), network_.next_cycle());
      if (after == NEVER) {
        cycle_++;
        break;
      }
      cycle_ = std::min(std::max(after, cycle_ + 1), end);
    }
    return cycle_;
  }

  std::vector<Arrival> arrivals(uint32_t x, uint32_t y, uint8_t color) const {
    const Queue* queue = find(tile(x, y), checked(color));
    return queue ? queue->arrivals : std::vector<Arrival>{};
  }
  uint64_t arrived(uint32_t x, uint32_t y, uint8_t color) const {
    const Queue* queue = find(tile(x, y), checked(color));
    return queue ? queue->count : 0;
  }
  uint64_t unsent() const {
    uint64_t sum = 0;
    for (const Feed& feed : feeds_) sum += feed.total() - feed.next;
    return sum;
  }
  std::vector<std::tuple<Cycle, uint32_t, uint32_t, uint8_t>> teardowns() const { return teardowns_; }

  // x, y, color, from, wavelets, waits for (mask), why
  std::vector<std::tuple<uint32_t, uint32_t, uint8_t, int, uint32_t, uint8_t, std::string>> held() const {
    std::vector<std::tuple<uint32_t, uint32_t, uint8_t, int, uint32_t, uint8_t, std::string>> found;
    for (const Network::Held& held : network_.held()) {
      constexpr const char* whys[] = {"room", "switch", "teardown", "outside", "edge"};
      found.emplace_back(held.tile % width_, held.tile / width_, held.color, held.from, held.count, held.waits_for,
                         whys[static_cast<size_t>(held.why)]);
    }
    return found;
  }
  std::string failure() const { return network_.failure(); }
  uint64_t hops() const { return network_.hops(); }
  size_t memory_bytes() const { return network_.memory_bytes(); }

  // --- registers and ports ---
  uint16_t read_route(uint32_t x, uint32_t y, uint8_t color) const { return network_.read_route(tile(x, y), color); }
  uint16_t read_switch(uint32_t x, uint32_t y, uint8_t color) const { return network_.read_switch(tile(x, y), color); }
  void write_route(uint32_t x, uint32_t y, uint8_t color, uint16_t value) {
    network_.write_route(tile(x, y), checked(color), value, done());
  }
  void write_switch(uint32_t x, uint32_t y, uint8_t color, uint16_t value) {
    network_.write_switch(tile(x, y), checked(color), value, done());
  }
  void exit_teardown(uint32_t x, uint32_t y, uint8_t color) {
    network_.exit_teardown(tile(x, y), checked(color), done());
  }
  uint32_t open_port(uint32_t x, uint32_t y, int side, uint8_t color, bool into_fabric) {
    return network_.open_port(tile(x, y), static_cast<Side>(side), checked(color), into_fabric);
  }
  void send(uint32_t port, const std::vector<Word>& words) {
    std::vector<Wavelet> wavelets;
    for (const auto& [data, control] : words) wavelets.push_back({data, 0, control});
    network_.send(port, wavelets.data(), wavelets.size(), done());
  }
  size_t pending(uint32_t port) const { return network_.pending(port); }
  std::vector<Word> receive(uint32_t port) {
    std::vector<Wavelet> wavelets(network_.received(port));
    network_.take(port, wavelets.data(), wavelets.size());
    std::vector<Word> words;
    for (const Wavelet& wavelet : wavelets) words.emplace_back(wavelet.data, wavelet.control);
    return words;
  }

 private:
  struct Queue {
    Tile tile;
    uint8_t color;
    uint32_t depth;  // wavelets; 0: no limit
    uint32_t every;  // cycles from one that the CE takes to the next; 0: it takes none
    bool record;
    uint32_t held;
    uint64_t count;
    std::vector<Arrival> arrivals;
  };
  struct Feed {
    Tile tile;
    uint8_t color;
    Cycle start;
    std::vector<Wavelet> words;
    uint64_t next;
    uint64_t counted;      // in place of words: how many numbers from 0
    bool refused = false;  // waits for ramp_free()
    uint64_t total() const { return counted ? counted : words.size(); }
    Wavelet word() const { return counted ? Wavelet{static_cast<uint32_t>(next), color, false} : words[next]; }
  };

  void add(Feed feed) {
    int32_t& at = feed_of_[size_t{feed.tile} * COLORS + feed.color];
    if (at >= 0) throw std::invalid_argument("this tile and color are fed already");
    at = static_cast<int32_t>(feeds_.size());
    sending_.push_back(at);
    feeds_.push_back(std::move(feed));
  }
  // What the host does between runs belongs to the cycle before the next.
  Cycle done() const { return cycle_ == 0 ? 0 : cycle_ - 1; }
  Tile tile(uint32_t x, uint32_t y) const {
    if (x >= width_ || y >= height_) throw std::out_of_range("no such tile");
    return y * width_ + x;
  }
  static uint8_t checked(uint8_t color) {
    if (color >= COLORS) throw std::out_of_range("no such color");
    return color;
  }
  const Queue* find(Tile tile, uint8_t color) const {
    const int32_t index = queue_of_[size_t{tile} * COLORS + color];
    return index < 0 ? nullptr : &queues_[static_cast<size_t>(index)];
  }
  Queue* find(Tile tile, uint8_t color) { return const_cast<Queue*>(std::as_const(*this).find(tile, color)); }

  // The PE phase of one cycle; the next cycle at which a CE has something to do.
  Cycle work() {
    Cycle wanted = NEVER;
    std::vector<int32_t> filled, sending;
    filled.swap(filled_);
    sending.swap(sending_);
    for (const int32_t at : filled) {
      Queue& queue = queues_[static_cast<size_t>(at)];
      if (queue.every == 0) continue;
      if (cycle_ % queue.every == 0 && queue.held-- == queue.depth) network_.wake(queue.tile, queue.color, cycle_);
      if (queue.held == 0) continue;
      filled_.push_back(at);
      wanted = std::min(wanted, (cycle_ / queue.every + 1) * queue.every);
    }
    for (const int32_t at : sending) {
      Feed& feed = feeds_[static_cast<size_t>(at)];
      if (feed.next == feed.total()) continue;
      if (feed.start > cycle_) {
        wanted = std::min(wanted, feed.start);
      } else {
        feed.refused = !network_.offer(feed.tile, feed.word(), cycle_);
        if (feed.refused) continue;  // ramp_free() brings it back
        if (++feed.next == feed.total()) continue;
        wanted = cycle_ + 1;
      }
      sending_.push_back(at);
    }
    return wanted;
  }

  uint32_t width_, height_;
  Network network_;
  Cycle cycle_ = 0;
  std::vector<int32_t> queue_of_, feed_of_;  // by tile and color
  std::vector<int32_t> filled_, sending_;    // queues with wavelets, feeds that are not refused
  std::vector<Queue> queues_;
  std::vector<Feed> feeds_;
  std::vector<std::tuple<Cycle, uint32_t, uint32_t, uint8_t>> teardowns_;
};

}  // namespace
}  // namespace openwafer

void bind_network(nb::module_& m) {
  using openwafer::NetworkProbe;
  nb::class_<NetworkProbe>(m, "NetworkProbe", "A network without PEs: prepared words go in, what arrives is kept.")
      .def(nb::init<uint32_t, uint32_t, bool, uint32_t, uint32_t, uint32_t, uint32_t, bool>(), "width"_a, "height"_a,
           nb::kw_only(), "color_swap"_a = false, "hop_cycles"_a = 2, "ramp_in_cycles"_a = 1, "ramp_out_cycles"_a = 1,
           "buffer_wavelets"_a = 4, "trains"_a = true)
      .def("configure", &NetworkProbe::configure, "x"_a, "y"_a, "color"_a, "rx"_a, "tx"_a, nb::kw_only(),
           "positions"_a = nb::list(), "position"_a = 0, "ring"_a = false, "pop"_a = 0, "teardown"_a = false,
           "swap_x"_a = false, "swap_y"_a = false)
      .def("set_program", &NetworkProbe::set_program, "left"_a, "top"_a, "width"_a, "height"_a)
      .def("set_filter", &NetworkProbe::set_filter, "x"_a, "y"_a, "color"_a, "kind"_a, nb::kw_only(), "counter"_a = 0,
           "limit1"_a = 0, "limit2"_a = nb::none(), "minimum"_a = 0, "maximum"_a = 0, "count_data"_a = true,
           "count_control"_a = false, "filter_control"_a = false)
      .def("feed", &NetworkProbe::feed, "x"_a, "y"_a, "color"_a, "words"_a, "start"_a = 0)
      .def("stream", &NetworkProbe::stream, "x"_a, "y"_a, "color"_a, "count"_a, "start"_a = 0)
      .def("listen", &NetworkProbe::listen, "x"_a, "y"_a, "color"_a, nb::kw_only(), "depth"_a = 0, "every"_a = 1,
           "record"_a = true)
      .def("run", &NetworkProbe::run, "cycles"_a = 1'000'000)
      .def("arrivals", &NetworkProbe::arrivals, "x"_a, "y"_a, "color"_a)
      .def("arrived", &NetworkProbe::arrived, "x"_a, "y"_a, "color"_a)
      .def("unsent", &NetworkProbe::unsent)
      .def("teardowns", &NetworkProbe::teardowns)
      .def("held", &NetworkProbe::held)
      .def("failure", &NetworkProbe::failure)
      .def("hops", &NetworkProbe::hops)
      .def("memory_bytes", &NetworkProbe::memory_bytes)
      .def("read_route", &NetworkProbe::read_route, "x"_a, "y"_a, "color"_a)
      .def("read_switch", &NetworkProbe::read_switch, "x"_a, "y"_a, "color"_a)
      .def("write_route", &NetworkProbe::write_route, "x"_a, "y"_a, "color"_a, "value"_a)
      .def("write_switch", &NetworkProbe::write_switch, "x"_a, "y"_a, "color"_a, "value"_a)
      .def("exit_teardown", &NetworkProbe::exit_teardown, "x"_a, "y"_a, "color"_a)
      .def("open_port", &NetworkProbe::open_port, "x"_a, "y"_a, "side"_a, "color"_a, "into_fabric"_a)
      .def("send", &NetworkProbe::send, "port"_a, "words"_a)
      .def("pending", &NetworkProbe::pending, "port"_a)
      .def("receive", &NetworkProbe::receive, "port"_a);
}
