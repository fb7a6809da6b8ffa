// What the tables in fabric/timing say, as the processing elements need it. Nothing here has a default that counts:
// a table without an entry is an error.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "network.hpp"

namespace openwafer {

using TimingTable = std::map<std::string, std::vector<double>>;

struct Timing {
  Timing(const TimingTable& table, Jitter jitter);
  Timing() = default;

  NetworkTiming network;
  double send_wavelet_cycles = 1;                  // between wavelets that a core sends one behind the other
  std::vector<uint8_t> input_depth, output_depth;  // wavelets, by the queue's number
  uint8_t automatic_depth = 0;                     // queues that the machine binds by itself
  uint32_t landing_cycles = 0;                     // from a wavelet's arrival in its queue until it can be taken
  uint32_t dispatch_cycles = 0;                    // from a task's choice to its first instruction
  uint32_t activate_cycles = 0;                    // from an activation until the task can be chosen
  uint32_t completion_cycles = 0;                  // from a vector operation's last element to its end
  uint32_t start_cycles = 0;                       // that the main thread spends on starting an asynchronous operation
  std::array<uint32_t, 4> setup_cycles{};          // before the first element, by the number of sources
  uint32_t fabric_setup_cycles = 0;                // the same where an operand is the fabric or a FIFO
  std::array<uint32_t, 4> descriptor_cycles{};     // more if an operation on memory names DSDs and not DSRs, likewise
  uint32_t fabric_overlap_cycles = 0;              // of that setup, what the main thread's next instruction overlaps
  uint32_t fold_element_cycles = 0;                // from element to element where each needs the sum before it
  uint32_t bank_conflict_cycles = 0;               // more for each group of elements where two reads share a bank
  double written_word_cycles = 0;                  // for each word that is written while reads keep every bank busy
  bool stride_limits = false;                      // strides limit the elements of a cycle
  uint32_t map_element_cycles = 0;
  uint32_t dsr_load_cycles = 0;
  std::vector<uint16_t> width;                     // elements a cycle, by operation
  uint32_t dsr_dest = 0, dsr_src0 = 0, dsr_src1 = 0, threads = 0, prng_steps = 0, random_generators = 1;
  bool round_robin = true;                         // among tasks of one priority; else the lowest id
};

// Names of the vector operations, in the order of VECTOR_OPERATIONS.
const std::vector<std::string>& vector_operation_names();

}  // namespace openwafer
