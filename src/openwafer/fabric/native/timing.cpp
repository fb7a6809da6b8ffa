// Reads the tables: one function for each entry that is missing or not a whole number.
#include "timing.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace openwafer {

namespace {

const std::vector<double>& entry(const TimingTable& table, const std::string& name) {
  const auto found = table.find(name);
  if (found == table.end() || found->second.empty()) {
    throw std::invalid_argument("the timing table has no entry " + name + "; add it with its source and grade");
  }
  return found->second;
}

template <class T>
T whole(double value, const std::string& name) {
  if (value < 0 || value != std::floor(value)) {
    throw std::invalid_argument("the timing table's " + name + " is not a whole number of 0 or more");
  }
  return static_cast<T>(value);
}

template <class T = uint32_t>
T scalar(const TimingTable& table, const std::string& name) {
  return whole<T>(entry(table, name).front(), name);
}

std::vector<uint8_t> depths(const TimingTable& table, const std::string& name) {
  std::vector<uint8_t> result;
  for (const double value : entry(table, name)) result.push_back(whole<uint8_t>(value, name));
  return result;
}

}  // namespace

Timing::Timing(const TimingTable& table, Jitter jitter) {
  network.jitter = jitter;
  network.hop_cycles = scalar(table, "network.hop_cycles");
  network.ramp_in_cycles = scalar(table, "network.ramp_in_cycles");
  network.ramp_out_cycles = scalar(table, "network.ramp_out_cycles");
  network.buffer_wavelets = scalar(table, "network.buffer_wavelets");
  input_depth = depths(table, "queues.input_depth");
  output_depth = depths(table, "queues.output_depth");
  automatic_depth = scalar<uint8_t>(table, "queues.automatic_depth");
  landing_cycles = scalar(table, "queues.landing_cycles");
  dispatch_cycles = scalar(table, "tasks.dispatch_cycles");
  activate_cycles = scalar(table, "tasks.activate_cycles");
  round_robin = scalar(table, "tasks.round_robin") != 0;
  completion_cycles = scalar(table, "vector.completion_cycles");
  start_cycles = scalar(table, "vector.start_cycles");
  const auto by_sources = [&](const char* name, std::array<uint32_t, 4>& cycles) {
    const auto& values = entry(table, name);
    if (values.size() != cycles.size()) {
      throw std::invalid_argument(std::string(name) + " needs four values: for 0, 1, 2 and 3 sources");
    }
    for (size_t i = 0; i < values.size(); ++i) cycles[i] = whole<uint32_t>(values[i], name);
  };
  by_sources("vector.setup_cycles", setup_cycles);
  by_sources("vector.descriptor_cycles", descriptor_cycles);
  fabric_setup_cycles = scalar(table, "vector.fabric_setup_cycles");
  fabric_overlap_cycles = scalar(table, "vector.fabric_overlap_cycles");
  fold_element_cycles = scalar(table, "vector.fold_element_cycles");
  bank_conflict_cycles = scalar(table, "vector.bank_conflict_cycles");
  written_word_cycles = entry(table, "vector.written_word_cycles").front();
  if (!(written_word_cycles >= 0)) throw std::invalid_argument("vector.written_word_cycles is less than 0");
  send_wavelet_cycles = entry(table, "network.send_wavelet_cycles").front();
  if (!(send_wavelet_cycles >= 1)) throw std::invalid_argument("network.send_wavelet_cycles is less than 1");
  stride_limits = scalar(table, "vector.stride_limits") != 0;
  map_element_cycles = scalar(table, "vector.map_element_cycles");
  dsr_load_cycles = scalar(table, "vector.dsr_load_cycles");
  for (const std::string& name : vector_operation_names()) {
    width.push_back(scalar<uint16_t>(table, "widths." + name));
    if (width.back() == 0) throw std::invalid_argument("widths." + name + " must be at least 1");
  }
  dsr_dest = scalar(table, "registers.dsr_dest");
  dsr_src0 = scalar(table, "registers.dsr_src0");
  dsr_src1 = scalar(table, "registers.dsr_src1");
  threads = scalar(table, "registers.threads");
  prng_steps = scalar(table, "registers.prng_steps");
  random_generators = std::max(1u, scalar(table, "registers.random_generators"));
}

}  // namespace openwafer
