// NativeMachine and NativeProgram: the machine as `_machine.py` sees it. Places are in the program's rectangle.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <tuple>

#include "machine.hpp"
#include "runtime.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace openwafer {
namespace {

using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

Program make_program(const std::string& name, const std::vector<uintptr_t>& entries,
                     const std::vector<std::string>& entry_names, uint32_t frame_bytes, nb::bytes memory,
                     uint32_t memory_bytes, const std::vector<uint32_t>& costs,
                     const std::vector<uint64_t>& constants, const std::vector<std::string>& strings,
                     const std::vector<std::tuple<std::string, int, int>>& locations, int half,
                     const std::vector<std::tuple<uint32_t, std::string, std::string>>& descriptors) {
  Program program;
  program.name = name;
  for (const uintptr_t entry : entries) program.entries.push_back(reinterpret_cast<EntryFunction>(entry));
  program.entry_names = entry_names;
  program.frame_bytes = frame_bytes;
  const auto* begin = static_cast<const uint8_t*>(memory.data());
  program.memory.assign(begin, begin + memory.size());
  if (program.memory.size() > memory_bytes) throw std::invalid_argument(name + " begins with more than its memory");
  program.memory_bytes = memory_bytes;
  program.costs = costs;
  program.constants = constants;
  program.strings = strings;
  for (const auto& [file, line, column] : locations) program.locations.push_back({file, line, column});
  program.half = static_cast<HalfFormat>(half);
  for (const auto& [address, own, before] : descriptors) program.descriptors.push_back({address, own, before});
  return program;
}

// kind: 0 data, 1 local, 2 control, 3 teardown, 4 a queue found empty. entry -1: only a state.
void bind_task(Program& program, int kind, int id, int entry, int parameters, bool active, bool blocked, bool high,
               const std::string& name) {
  TaskBinding binding;
  if (entry >= 0) {
    binding.entry = program.entries.at(static_cast<size_t>(entry));
    binding.number = static_cast<uint32_t>(entry);
  }
  binding.parameters = static_cast<Parameters>(parameters);
  binding.high_priority = high;
  binding.name = name;
  const auto index = static_cast<size_t>(id);
  switch (kind) {
    case 0:
      program.data.at(index) = binding;
      if (!blocked) program.open_channels |= 1u << id;
      break;
    case 1:
      program.local.at(index) = binding;
      if (active) program.initially_active |= 1u << id;
      if (blocked) program.initially_blocked |= 1u << id;
      break;
    case 2:
      program.control.at(index) = binding;
      if (blocked) program.initially_blocked_control |= uint64_t{1} << id;
      break;
    case 3: (id < 0 ? program.teardown_any : program.teardown.at(index)) = binding; break;
    default: program.empty_queue.at(index) = binding;
  }
}

void preload(Program& program, int file, uint8_t number, nb::bytes descriptor, nb::bytes vector) {
  Program::PreloadBinding binding;
  binding.file = static_cast<OperandKind>(file);
  binding.number = number;
  if (descriptor.size() != sizeof(Descriptor) || (vector.size() != 0 && vector.size() != sizeof(Vector))) {
    throw std::invalid_argument("a preloaded DSR needs a descriptor of 32 bytes and a vector of 20 or none");
  }
  std::memcpy(&binding.descriptor, descriptor.data(), sizeof(Descriptor));
  if (vector.size() != 0) std::memcpy(&binding.vector, vector.data(), sizeof(Vector));
  program.preloads.push_back(binding);
}

RouteConfig make_route(uint8_t rx, uint8_t tx, const std::vector<std::tuple<bool, int, int>>& positions,
                       uint8_t position, bool ring, int pop, bool teardown, bool swap_x, bool swap_y, bool messages) {
  RouteConfig route;
  route.messages = messages;
  route.rx = rx;
  route.tx = tx;
  for (size_t i = 0; i < 3; ++i) {
    SwitchPosition& to = route.positions[i];
    if (i >= positions.size()) {
      to.invalid = true;
      continue;
    }
    const auto& [invalid, new_rx, new_tx] = positions[i];
    to = {invalid, new_rx >= 0, new_tx >= 0, static_cast<uint8_t>(std::max(new_rx, 0)),
          static_cast<uint8_t>(std::max(new_tx, 0))};
  }
  route.position = position;
  route.ring = ring;
  route.pop = static_cast<PopMode>(pop);
  route.teardown = teardown;
  route.swap_x = swap_x;
  route.swap_y = swap_y;
  return route;
}

uint8_t* span(Machine& machine, uint16_t x, uint16_t y, uint32_t address, size_t bytes) {
  Pe& pe = machine.pe(x, y);
  if (address + bytes > pe.memory_bytes) {
    throw std::out_of_range("PE (" + std::to_string(x) + ", " + std::to_string(y) + ") has " +
                            std::to_string(pe.memory_bytes) + " bytes of memory, not the " + std::to_string(bytes) +
                            " at address " + std::to_string(address));
  }
  return pe.memory_begin() + address;
}

nb::ndarray<nb::numpy, uint8_t, nb::ndim<3>> read_block(Machine& machine, uint16_t x, uint16_t y, uint16_t width,
                                                        uint16_t height, uint32_t address, size_t bytes) {
  auto* data = new uint8_t[size_t{width} * height * bytes];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  uint8_t* to = data;
  for (uint16_t row = 0; row < height; ++row) {
    for (uint16_t column = 0; column < width; ++column, to += bytes) {
      std::memcpy(to, span(machine, x + column, y + row, address, bytes), bytes);
    }
  }
  return {data, {height, width, bytes}, owner};
}

void write_block(Machine& machine, uint16_t x, uint16_t y, uint32_t address, const Bytes& data) {
  const uint8_t* from = data.data();
  const size_t bytes = data.shape(2);
  for (uint16_t row = 0; row < data.shape(0); ++row) {
    for (uint16_t column = 0; column < data.shape(1); ++column, from += bytes) {
      std::memcpy(span(machine, x + column, y + row, address, bytes), from, bytes);
    }
  }
}

nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>> words_of(std::vector<uint32_t> words) {
  auto* kept = new std::vector<uint32_t>(std::move(words));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<uint32_t>*>(p); });
  return {kept->data(), {kept->size()}, owner};
}

int run(Machine& machine, int64_t cycles) {
  bool interrupted = false;
  const std::function<void()> poll = [&] {
    nb::gil_scoped_acquire hold;
    if (PyErr_CheckSignals() == 0) return;
    interrupted = true;
    machine.fail("the run was interrupted");
  };
  Machine::Outcome outcome;
  {
    nb::gil_scoped_release release;
    outcome = machine.run(cycles < 0 ? NEVER : static_cast<Cycle>(cycles), poll);
  }
  if (interrupted) throw nb::python_error();
  return static_cast<int>(outcome);
}

}  // namespace
}  // namespace openwafer

void bind_machine(nb::module_& m) {
  using namespace openwafer;
  m.def("runtime_addresses", &runtime_addresses,
        "Name and address of every function that compiled code may call; see RUNTIME of the PE's ABI.");
  m.def("abi_sizes", [] {
    return std::map<std::string, size_t>{{"PE_VIEW", sizeof(PeView)},
                                         {"DESCRIPTOR", sizeof(Descriptor)},
                                         {"OPERAND", sizeof(OperandArgument)},
                                         {"VECTOR", sizeof(Vector)},
                                         {"PE_VIEW.arguments", offsetof(PeView, arguments)},
                                         {"DESCRIPTOR.strides", offsetof(Descriptor, strides)},
                                         {"VECTOR.location", offsetof(Vector, location)}};
  });
  m.def("vector_operations", &vector_operation_names);
  m.def("trace_record_bytes", [] { return sizeof(TraceRecord); });

  nb::class_<Program>(m, "NativeProgram")
      .def_static("make", &make_program, "name"_a, "entries"_a, "entry_names"_a, "frame_bytes"_a, "memory"_a,
                  "memory_bytes"_a, "costs"_a, "constants"_a, "strings"_a, "locations"_a, "half"_a,
                  "descriptors"_a)
      .def("bind_task", &bind_task, "kind"_a, "id"_a, "entry"_a, "parameters"_a, "active"_a, "blocked"_a, "high"_a,
           "name"_a)
      .def("add_queue",
           [](Program& p, bool input, uint8_t number, uint8_t color, uint8_t priority, uint8_t control_offset) {
             p.queues.push_back({input, number, color, priority});
             if (input) p.control_offset.at(number) = control_offset;
           })
      .def("rotate",
           [](Program& p, uint8_t id, uint16_t limit, uint16_t start, uint8_t control) {
             p.data.at(id).rotation = {true, limit, start, control};
           })
      .def("add_fifo",
           [](Program& p, uint8_t number, uint16_t address, uint16_t bytes, int push, int pop, uint8_t empty,
              uint8_t full) {
             p.fifos.push_back({number, address, bytes, push, pop, static_cast<FifoAction>(empty),
                                static_cast<FifoAction>(full)});
           })
      .def("preload", &preload)
      .def("open", [](Program& p, uint8_t channel) { p.open_channels |= 1u << channel; })
      .def("block", [](Program& p, int target, uint8_t id) { p.blocked.emplace_back(static_cast<Target>(target), id); })
      .def("set_register", [](Program& p, uint16_t address, uint16_t value) { p.config.emplace_back(address, value); });

  nb::class_<Machine>(m, "NativeMachine")
      .def("__init__",
           [](Machine* self, uint32_t width, uint32_t height, uint32_t left, uint32_t top, uint32_t columns,
              uint32_t rows, bool wse3, bool color_swap, const TimingTable& timing, uint32_t jitter) {
             new (self) Machine({width, height, left, top, columns, rows, wse3, color_swap, {jitter}}, timing);
           },
           "width"_a, "height"_a, "left"_a, "top"_a, "columns"_a, "rows"_a, "wse3"_a, "color_swap"_a, "timing"_a, "jitter"_a)
      .def("add_program", [](Machine& machine, const Program& program) { return machine.add_program(program); })
      .def("place", &Machine::place)
      .def("configure",
           [](Machine& machine, uint16_t x, uint16_t y, uint8_t color, uint8_t rx, uint8_t tx,
              const std::vector<std::tuple<bool, int, int>>& positions, uint8_t position, bool ring, int pop,
              bool teardown, bool swap_x, bool swap_y, bool messages) {
             machine.configure(x, y, color,
                               make_route(rx, tx, positions, position, ring, pop, teardown, swap_x, swap_y, messages));
           })
      .def("set_filter",
           [](Machine& machine, uint16_t x, uint16_t y, uint8_t color, int kind, bool data, bool control,
              uint16_t initial, uint16_t limit1, int limit2, uint16_t minimum, uint16_t maximum,
              bool control_only) {
             Filter* filter = machine.filter(x, y, color);
             if (filter == nullptr) throw std::invalid_argument("a filter needs a route of its color");
             filter->kind = static_cast<FilterKind>(kind);
             filter->count_data = data;
             filter->count_control = control;
             filter->filter_control = control_only;
             filter->counter = initial;
             filter->limit1 = limit1;
             filter->has_limit2 = limit2 >= 0;
             filter->limit2 = static_cast<uint16_t>(std::max(limit2, 0));
             filter->minimum = minimum;
             filter->maximum = maximum;
             if (Pe* pe = machine.find(x, y)) pe->add_filter(color);
           })
      .def("set_stream", &Machine::set_stream)
      .def("open_port",
           [](Machine& machine, uint16_t x, uint16_t y, int side, uint8_t color, bool into_fabric) {
             return machine.open_port(x, y, static_cast<Side>(side), color, into_fabric);
           })
      .def("start", &Machine::start)
      .def("run", &run, "cycles"_a)
      .def_prop_ro("cycle", &Machine::cycle)
      .def("skip_to", &Machine::skip_to, "cycle"_a)
      .def_prop_ro("failure", &Machine::failure)
      .def_prop_ro("hops", &Machine::hops)
      .def_rw("spin_limit", &Machine::spin_limit)
      .def("has_program", [](Machine& machine, uint16_t x, uint16_t y) { return machine.find(x, y) != nullptr; })
      .def("read",
           [](Machine& machine, uint16_t x, uint16_t y, uint32_t address, size_t bytes) {
             return nb::bytes(reinterpret_cast<const char*>(span(machine, x, y, address, bytes)), bytes);
           })
      .def("write",
           [](Machine& machine, uint16_t x, uint16_t y, uint32_t address, nb::bytes data) {
             std::memcpy(span(machine, x, y, address, data.size()), data.data(), data.size());
           })
      .def("read_block", &read_block)
      .def("write_block", &write_block)
      .def("launch", &Machine::launch)
      .def("commands_idle", &Machine::commands_idle)
      .def("send_port",
           [](Machine& machine, uint32_t port, uint8_t color, const Words& words, bool control) {
             machine.send_port(port, color, words.data(), words.size(), control);
           })
      .def("pending_port", &Machine::pending_port)
      .def("receive_port",
           [](Machine& machine, uint32_t port, size_t count) {
             std::vector<uint32_t> words(std::min(count, machine.network().received(port)));
             words.resize(machine.receive_port(port, words.data(), words.size()));
             return words_of(std::move(words));
           })
      .def("send_stream",
           [](Machine& machine, uint16_t x, uint16_t y, uint8_t color, const Words& words, bool control) {
             machine.send_stream(x, y, color, words.data(), words.size(), control);
           })
      .def("pending_stream", &Machine::pending_stream)
      .def("receive_stream",
           [](Machine& machine, uint16_t x, uint16_t y, uint8_t color, size_t count) {
             std::vector<uint32_t> words(count);
             words.resize(machine.receive_stream(x, y, color, words.data(), count));
             return words_of(std::move(words));
           })
      .def("diagnose", &Machine::diagnose, "unblock"_a = true)
      .def("prints",
           [](Machine& machine) {
             std::vector<std::tuple<Cycle, uint16_t, uint16_t, std::string>> lines;
             for (const Machine::Line& line : machine.lines) lines.emplace_back(line.cycle, line.x, line.y, line.text);
             return lines;
           })
      .def("traces",
           [](Machine& machine, uint16_t x, uint16_t y) {
             std::vector<std::tuple<uint64_t, uint32_t, int, uint32_t, std::string>> found;
             const Pe& pe = machine.pe(x, y);
             for (const Pe::TraceEntry& e : pe.traces) {
               found.emplace_back(e.cycle, e.key, static_cast<int>(e.kind), e.bits, pe.format(e.kind, e.bits, e.string));
             }
             return found;
           })
      .def("statistics",
           [](Machine& machine, uint16_t x, uint16_t y) {
             const Statistics& s = machine.pe(x, y).statistics;
             return std::map<std::string, uint64_t>{{"busy", s.busy},
                                                    {"stalled", s.stalled},
                                                    {"tasks", s.tasks},
                                                    {"wavelets_in", s.wavelets_in},
                                                    {"wavelets_out", s.wavelets_out}};
           })
      .def("set_trace",
           [](Machine& machine, bool enabled, bool wavelets, bool passages, size_t limit) {
             machine.set_trace(enabled, wavelets, passages, limit);
           },
           "enabled"_a, "wavelets"_a, "passages"_a, "limit"_a)
      .def_prop_ro("trace_dropped", [](Machine& machine) { return machine.trace.dropped; })
      .def("trace_bytes", [](Machine& machine) {
        const std::vector<TraceRecord> records = machine.trace_records();
        return nb::bytes(reinterpret_cast<const char*>(records.data()), records.size() * sizeof(TraceRecord));
      });
}
