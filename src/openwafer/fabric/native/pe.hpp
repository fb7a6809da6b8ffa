// One processing element: memory, registers, queues, threads, and the main thread that runs tasks.
//
// Scalar code runs ahead of the machine's cycle (`clock` of the view); whatever others can see of it, and every
// operation that can wait, takes place when the machine has come to that cycle. What it stores to memory that a
// microthread still has to read, the microthread sees from that cycle on (shadow.cpp). The parts stand in files of their own:
// scheduler.cpp (tasks), dsr.cpp (operands), vector.cpp (starting and ending operations), thread.cpp (who issues in a
// cycle), elements.cpp (arithmetic), fifo.cpp, map.cpp, config.cpp, runtime.cpp (the functions that code calls).
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "abi.hpp"
#include "elements.hpp"
#include "operation.hpp"
#include "program.hpp"
#include "queue.hpp"
#include "shadow.hpp"
#include "trace.hpp"

namespace openwafer {

class Machine;

constexpr int THREADS = 8;
constexpr uint8_t MAIN_THREAD = 8;
constexpr int COMMAND = TASK_IDS;  // the place of the host's commands among the task ids

struct Statistics {
  uint64_t busy = 0;    // cycles in which the datapath or scalar code worked
  uint64_t stalled = 0; // cycles in which the main thread waited in an operation
  uint64_t wavelets_in = 0, wavelets_out = 0;
  uint64_t tasks = 0;
};

class Pe : public PeView {
 public:
  Pe(Machine& machine, const Program& program, Tile tile, uint16_t x, uint16_t y);
  Pe(const Pe&) = delete;
  Pe& operator=(const Pe&) = delete;

  // --- the machine's side ---
  // Phase 3 of a cycle. Gives the next cycle in which it has something to do by itself, or NEVER.
  Cycle step(Cycle cycle);
  bool has_room(uint8_t color) const;
  void deliver(const Wavelet& wavelet, Cycle cycle);
  void teardown(uint8_t color);
  void launch(uint32_t entry, const std::vector<uint32_t>& arguments);
  bool commands_idle() const { return commands_ == nullptr || (commands_->empty() && !commands_blocked_); }
  // For what step() will need outside of this object: first the parts, then what they point to.
  void prefetch_parts() const;
  void prefetch_operands() const;
  void add_filter(uint8_t color) { filters_.push_back(color); }
  bool output_blocked() const { return output_blocked_; }
  // The main thread waits in an operation, or the host's commands do: nothing that a finished program leaves.
  bool unfinished() const;
  void trace_open_waits(Cycle cycle);
  void describe_waiting(std::string& text, Cycle cycle, bool unblock) const;

  // --- the program's side (runtime.cpp) ---
  Status vector(const Vector& vector, const OperandArgument* operands);
  void vector_id(uint32_t which, uint32_t id) { said_ids_[which % 3] = static_cast<uint8_t>(id); }
  bool vector_complete() const { return complete_; }
  Status load_dsr(OperandKind file, uint32_t number, const Descriptor& descriptor, const Vector* vector);
  void set_dsr_base(OperandKind file, uint32_t number, uint32_t base);
  Status map_begin(const OperandArgument* operands, const uint8_t* types, uint32_t location);
  Status map_next(uint8_t* more);
  uint32_t map_read(uint32_t operand);
  void map_write(uint32_t operand, uint32_t bits);
  void task_action(Action action, Target target, uint32_t id);
  uint32_t config_read(uint32_t address);
  void config_write(uint32_t address, uint32_t value);
  void queue_flush(uint32_t queue);
  uint32_t queue_status(bool output, uint32_t queue) const;
  void fifo_length(uint32_t fifo, bool write, uint32_t elements);
  void unblock_commands();
  void print(PrintKind kind, uint32_t bits, uint32_t string);
  void add_trace(uint32_t key, PrintKind kind, uint32_t bits, uint32_t string);
  std::string format(PrintKind kind, uint32_t bits, uint32_t string) const;
  uint32_t counter_word(uint32_t word);
  void counter_control(uint32_t control);
  uint16_t random();
  void choose_random(uint32_t generator);
  // Records an error of this PE; the machine stops at the end of the cycle.
  void fail(uint32_t location, const std::string& what);
  void trap(Trap kind, uint32_t location, uint64_t first, uint64_t second);
  std::string place(uint32_t location) const;
  void keep_old(uint32_t address, uint32_t bytes);

  Machine& machine() { return machine_; }
  const Program& program() const { return program_; }
  uint8_t* memory_begin() { return memory_.data(); }
  Tile tile() const { return tile_; }
  ElementState& elements() { return elements_; }

  struct TraceEntry {
    uint64_t cycle;
    uint32_t key;
    PrintKind kind;
    uint32_t bits;
    uint32_t string;
  };
  Statistics statistics;
  std::vector<TraceEntry> traces;
  Cycle wake = NEVER;  // when the machine's calendar has this PE

 private:
  enum class Main : uint8_t { IDLE, WAIT_ISSUE, WAIT_OPERATION, WAIT_MAP };
  struct Event {
    enum Type : uint8_t { TASK, CONFIG, FLUSH, UNBLOCK_COMMANDS } type;
    Action action;
    Target target;
    uint8_t id;
    uint16_t address, value;
    Cycle cycle;
  };
  struct Fifo {
    uint16_t base = 0, bytes = 0;  // capacity in bytes
    uint32_t head = 0, used = 0;   // bytes
    uint32_t read_length = 0, write_length = 0;
    uint16_t needs_data = 0, needs_space = 0;  // bytes that an operation lacked; 0: none did
    int activate_push = -1, activate_pop = -1;
    FifoAction empty = FifoAction::TEST_OR_SUSPEND, full = FifoAction::TEST_OR_SUSPEND;
  };
  struct Shortage {
    FifoAction action = FifoAction::TEST_OR_SUSPEND;
    uint8_t fifo = 0;
    bool full = false;  // else empty
  };
  struct Dsr {
    Descriptor descriptor;
    Vector vector;
    bool loaded = false;
  };
  struct Map {
    Operation operation;             // only for its location and for errors; the operands stand here:
    std::vector<Operand> operands;
    std::vector<uint8_t> bytes;
    std::vector<bool> writes;
    std::vector<uint32_t> values;    // of the element that the code is at
    uint8_t* more = nullptr;
    uint32_t remaining = 0;
  };
  struct Command {
    uint32_t entry;
    std::vector<uint32_t> arguments;
  };

  // scheduler.cpp
  void at(Event event);
  int rank(const Operation& operation) const;
  void apply_events(Cycle cycle);
  void apply_task_action(Action action, Target target, uint32_t id, Cycle cycle);
  struct Choice {
    const TaskBinding* binding = nullptr;
    int id = -1;               // of the task; COMMAND: a command of the host
    uint8_t queue = NO_QUEUE;  // whose wavelet it takes
    uint8_t color = NO_COLOR;  // teardown
    int8_t emptied = -1;       // teardown: the flushed queue
  };
  bool choose(Cycle cycle, Choice& choice);
  bool choose_any(Cycle cycle, Choice& choice);
  const TaskBinding& entered(uint32_t point) const;
  bool candidate(int id, Cycle cycle, Choice& choice);
  bool may_have_candidate() const;
  bool has_candidate(Cycle cycle);
  bool channel_open(uint8_t queue) const;
  int channel_of(uint8_t queue) const;
  void start_task(const Choice& choice, Cycle cycle);
  void resume(Cycle cycle);
  Status call_entry();

  // dsr.cpp
  Dsr* dsr(OperandKind file, uint32_t number);
  bool resolve(const OperandArgument& argument, bool destination, uint8_t bytes, Operand& operand, Vector& vector,
               bool& asynchronous);
  bool resolve_descriptor(const Descriptor& descriptor, uint8_t bytes, Operand& operand, Vector& vector);
  bool bind_input(uint8_t color, uint8_t queue, uint32_t location, uint8_t& bound);
  bool bind_output(uint8_t color, uint8_t queue, uint32_t location, Operand& operand);
  bool bind_automatic(uint8_t color);
  void save_registers(Operation& operation);
  std::string describe_no_descriptor(const Descriptor& descriptor) const;

  // vector.cpp
  void fill_ids(Vector& vector) const;
  bool prepare(Operation& operation);
  void run_at_once(Operation& operation);
  uint32_t write_stall(Operation& operation, uint32_t elements, Cycle cycles) const;
  bool bulk_operand(Operation& operation, Operand& operand, uint8_t bytes, Run& run);
  bool start_thread(Operation& operation, Cycle cycle);
  void issue_first(uint32_t setup, Cycle cycle);
  Status issue_pending(Cycle cycle);
  uint32_t issuable(const Operation& operation, Cycle cycle) const;
  void issue(Operation& operation, Cycle cycle);
  void issue_filter(Operation& operation, Cycle cycle);
  void issue_elements(Operation& operation, uint32_t count, Cycle cycle);
  bool take_control(Operation& operation, Cycle cycle);
  uint32_t read_element(Operation& operation, Operand& operand, uint8_t bytes, Cycle cycle);
  void write_element(Operation& operation, Operand& operand, uint8_t bytes, uint32_t value, Cycle cycle, bool last);
  void finish(Operation& operation, Cycle cycle);
  void clear_source(Operation& operation);
  uint32_t load(uint16_t address, uint8_t bytes, uint32_t location, uint16_t operation);
  void store(uint16_t address, uint8_t bytes, uint32_t value, uint32_t location, uint16_t operation);
  bool memory_check(uint16_t address, uint8_t bytes, uint32_t location, uint16_t operation, const char* verb);

  // thread.cpp
  void datapath(Cycle cycle);
  Cycle next_cycle(Cycle cycle);
  void flush_queues();
  void drain(Cycle cycle);
  bool queue_in_use(uint8_t queue) const;

  // shadow.cpp
  void watch_sources();

  // fifo.cpp
  bool note_shortage(const Operation& operation);
  Shortage shortage(const Operation& operation) const;
  uint32_t ready_elements(const Operation& operation, Cycle cycle) const;
  bool end_by_fifo(Operation& operation, Cycle cycle);
  void fifo_push(Fifo& fifo, uint8_t bytes, uint32_t value, Cycle cycle);
  uint32_t fifo_pop(Fifo& fifo, uint8_t bytes, Cycle cycle);

  // map.cpp
  bool map_ready(Cycle cycle) const;
  void map_fetch(Cycle cycle);

  Filter* filter_at(uint32_t address);
  Wavelet pop_input(uint8_t queue, Cycle cycle);
  void push_output(uint8_t queue, const Wavelet& wavelet, Cycle cycle);
  void describe_operation(std::string& text, const Operation& operation, Cycle cycle) const;

  // trace.cpp
  class WaitNote {  // around an issue: records the wait before it, and notes what the operation lacks after it
   public:
    WaitNote(Pe& pe, Operation& operation, Cycle cycle);
    ~WaitNote();

   private:
    Pe& pe_;
    Operation& operation_;
  };
  std::pair<Lack, uint8_t> lack_of(const Operation& operation, Cycle cycle) const;
  void note_lack(Operation& operation);
  void note_map_lack();
  void trace_wait(const Operation& operation, Cycle from, Cycle to);

  const char* operation_name(uint32_t operation) const { return kernel_of(operation).name; }

  Machine& machine_;
  const Program& program_;
  Tile tile_;
  Main main_ = Main::IDLE;
  bool output_blocked_ = false;
  bool flushing_ = false;         // of some queue: see WaveletQueue::flushing
  uint32_t filled_outputs_ = 0;   // output queues with wavelets
  Cycle next_send_ = 0;   // the core sends nothing before
  double send_owed_ = 0;  // parts of a cycle, over the wavelets that it has sent one behind the other
  bool commands_blocked_ = false;
  bool counter_on_ = false;
  uint8_t main_priority_ = 0;  // 0 between low and medium microthreads, 1 medium, 2 between medium and high, 3 high
  uint8_t flushed_inputs_ = 0, flushed_outputs_ = 0;
  uint16_t empty_handlers_ = 0;  // of flushed queues that have not run; output queues from bit 8
  uint16_t rotations_[THREADS] = {};  // starts of data tasks that rotate, by input queue
  bool complete_ = true;         // the last synchronous operation was not cut short by a FIFO
  bool fifo_actions_ = false;    // a FIFO has actions of its own for operations that find it empty or full
  uint8_t said_ids_[3] = {};     // end_id, control_id and thread of the operation that follows
  uint8_t last_started_ = 0;
  uint8_t last_thread_ = MAIN_THREAD, last_output_ = 0;
  int8_t last_task_ = -1;
  uint32_t traced_entry_ = 0;  // of the task that runs or ran last
  Cycle main_free_ = 0;      // the main thread can begin its next task
  Cycle waiting_since_ = 0;
  uint64_t counter_held_ = 0;  // what reading its lowest word saw
  Cycle counter_from_ = 0;     // off: the count where it stopped
  Cycle now_ = 0;            // the machine's cycle during a step
  const std::string* running_ = nullptr;  // the task's name
  EntryFunction entry_ = nullptr;
  uint32_t active_ = 0, blocked_ = 0, open_channels_ = 0, high_ = 0;
  uint64_t blocked_control_ = 0;
  uint32_t blocked_threads_ = 0, teardown_ = 0;
  uint8_t queue_of_color_[COLORS];
  ElementState elements_;
  std::vector<uint32_t> random_states_;  // of generators that are not active
  uint32_t random_generator_ = 0;

  std::vector<uint8_t> memory_;
  std::vector<uint8_t> frame_;
  std::vector<WaveletQueue> inputs_, outputs_;
  std::unique_ptr<Operation> threads_[THREADS + 1];
  uint32_t active_threads_ = 0;  // bits; MAIN_THREAD is the main thread's operation
  std::vector<Dsr> dsr_dest_, dsr_src0_, dsr_src1_;
  std::vector<Fifo> fifos_;
  std::vector<Event> events_;  // by cycle, in order
  std::unique_ptr<Map> map_;
  std::unique_ptr<Shadow> shadow_;
  std::unique_ptr<std::deque<Command>> commands_;
  std::vector<std::pair<uint16_t, uint16_t>> registers_;  // configuration without a meaning to the machine: kept
  std::vector<uint8_t> filters_;  // the color of each filter, by its number
  std::string line_;  // of prints, until it ends
};

}  // namespace openwafer
