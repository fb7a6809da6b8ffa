// What PEs that run the same program share: code, tasks, names. Nothing here changes while the machine runs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "abi.hpp"

namespace openwafer {

constexpr int TASK_IDS = 32;      // data and local tasks
constexpr int CONTROL_IDS = 64;   // entry points of control wavelets
constexpr int TEARDOWN_ID = 29;   // the hardware's id of teardown handlers
constexpr int NO_ENTRY_POINT = 31;  // a control wavelet that starts no task

// How a wavelet's 32 bits become the arguments of a task.
enum class Parameters : uint8_t { NONE, WORD, HALF, HALVES };

// What an empty FIFO does to an operation that pops, and a full one to an operation that pushes.
enum class FifoAction : uint8_t { TEST_OR_SUSPEND, TERMINATE, SUSPEND, FAULT };

// In place of every data task that finds the counter at `limit`, a control task starts and the counter begins at 0.
struct Rotation {
  bool on = false;
  uint16_t limit = 0, start = 0;
  uint8_t control = 0;
};

struct TaskBinding {
  EntryFunction entry = nullptr;
  Parameters parameters = Parameters::NONE;
  bool high_priority = false;
  uint32_t number = 0;  // of the entry
  std::string name;
  Rotation rotation;  // data tasks of the WSE-3
};

struct Location {
  std::string file;
  int line = 0, column = 0;
};

struct Program {
  std::string name;
  std::vector<EntryFunction> entries;
  std::vector<std::string> entry_names;
  uint32_t frame_bytes = 0;
  uint32_t memory_bytes = 0;
  std::vector<uint32_t> costs;
  std::vector<uint64_t> constants;
  std::vector<uint8_t> memory;
  std::vector<std::string> strings;
  std::vector<Location> locations;
  HalfFormat half = HalfFormat::F16;
  struct DescriptorPlace {
    uint32_t address = 0;
    std::string name, before;  // of the variable, and of the one that lies before it
  };
  std::vector<DescriptorPlace> descriptors;  // variables that hold a DSD, for errors

  std::array<TaskBinding, TASK_IDS> local, data;
  std::array<TaskBinding, CONTROL_IDS> control;
  std::array<TaskBinding, 24> teardown;
  TaskBinding teardown_any;
  std::array<TaskBinding, 16> empty_queue;  // handlers of queues that were flushed: input queues, output queues from 8
  std::array<uint8_t, 8> control_offset{};  // by input queue: added to the entry point of its control wavelets
  uint32_t initially_active = 0, initially_blocked = 0;  // by task id
  uint64_t initially_blocked_control = 0;
  uint32_t open_channels = 0;  // channels whose wavelets may start tasks: colors on WSE-2, input queues on WSE-3

  struct QueueBinding {
    bool input = true;
    uint8_t number = 0, color = 0, priority = 0;
  };
  std::vector<QueueBinding> queues;
  struct FifoBinding {
    uint8_t number = 0;
    uint16_t address = 0, bytes = 0;
    int activate_push = -1, activate_pop = -1;
    FifoAction empty = FifoAction::TEST_OR_SUSPEND, full = FifoAction::TEST_OR_SUSPEND;
  };
  std::vector<FifoBinding> fifos;
  struct PreloadBinding {
    OperandKind file = OperandKind::DSR_DEST;
    uint8_t number = 0;
    Descriptor descriptor;
    Vector vector;
  };
  std::vector<PreloadBinding> preloads;
  std::vector<std::pair<Target, uint8_t>> blocked;
  std::vector<std::pair<uint16_t, uint16_t>> config;
};

}  // namespace openwafer
