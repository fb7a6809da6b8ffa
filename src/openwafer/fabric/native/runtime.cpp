// The functions that compiled code calls, as RUNTIME of `artifact/_pe_abi.py` lists them.
#include "runtime.hpp"

#include <algorithm>

#include "half.hpp"
#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

Pe& self(PeView* view) { return *static_cast<Pe*>(view); }

template <class T>
uintptr_t address(T* function) {
  return reinterpret_cast<uintptr_t>(function);
}

}  // namespace

// The counter runs with the main thread's own time. Off, `counter_from_` holds the count at which it stopped.
// Reading its lowest word holds the others for the reads that follow.
uint32_t Pe::counter_word(uint32_t word) {
  if (word == 0) counter_held_ = counter_on_ ? clock - counter_from_ : counter_from_;
  return static_cast<uint32_t>((counter_held_ >> (16 * std::min(word, 2u))) & 0xffff);
}

void Pe::counter_control(uint32_t control) {
  if (control == 0) {
    if (counter_on_) counter_from_ = clock - counter_from_;
    counter_on_ = false;
  } else {
    if (control == 1) counter_on_ = true;
    counter_from_ = counter_on_ ? clock : 0;
  }
}

uint16_t Pe::random() { return draw_random(elements_); }

// Generators start from the seed plus their number (assumed: the vendor publishes one seed).
void Pe::choose_random(uint32_t generator) {
  const uint32_t count = machine_.timing().random_generators;
  for (uint32_t i = static_cast<uint32_t>(random_states_.size()); i < count; ++i) {
    random_states_.push_back(ElementState{}.random + i);
  }
  random_states_[random_generator_] = elements_.random;
  random_generator_ = generator % count;
  elements_.random = random_states_[random_generator_];
}

uint32_t Pe::queue_status(bool output, uint32_t queue) const {
  const std::vector<WaveletQueue>& queues = output ? outputs_ : inputs_;
  return queue < queues.size() ? queues[queue].count() : 0;
}

// Input queues are numbered from 0, output queues from 8.
void Pe::queue_flush(uint32_t queue) {
  if ((queue & 7) >= (queue < 8 ? machine_.timing().input_depth : machine_.timing().output_depth).size()) {
    fail(0, "queue " + std::to_string(queue & 7) + " to flush does not exist");
    return;
  }
  at({Event::FLUSH, Action::NONE, Target::TASK, static_cast<uint8_t>(queue), 0, 0, clock});
}

extern "C" {

static int32_t ow_vector(PeView* pe, const Vector* vector, const OperandArgument* operands) {
  return static_cast<int32_t>(self(pe).vector(*vector, operands));
}
static void ow_vector_id(PeView* pe, uint32_t which, uint32_t id) { self(pe).vector_id(which, id); }
static uint32_t ow_vector_complete(PeView* pe) { return self(pe).vector_complete(); }
static int32_t ow_load_dsr(PeView* pe, uint32_t file, uint32_t number, const Descriptor* descriptor,
                           const Vector* vector) {
  return static_cast<int32_t>(self(pe).load_dsr(static_cast<OperandKind>(file), number, *descriptor, vector));
}
static void ow_set_dsr_base(PeView* pe, uint32_t file, uint32_t number, uint32_t base) {
  self(pe).set_dsr_base(static_cast<OperandKind>(file), number, base);
}
static int32_t ow_map_begin(PeView* pe, const OperandArgument* operands, const uint8_t* types, uint32_t location) {
  return static_cast<int32_t>(self(pe).map_begin(operands, types, location));
}
static int32_t ow_map_next(PeView* pe, uint8_t* more) { return static_cast<int32_t>(self(pe).map_next(more)); }
static uint32_t ow_map_read(PeView* pe, uint32_t operand) { return self(pe).map_read(operand); }
static void ow_map_write(PeView* pe, uint32_t operand, uint32_t bits) { self(pe).map_write(operand, bits); }
static void ow_task(PeView* pe, uint32_t action, uint32_t target, uint32_t id) {
  self(pe).task_action(static_cast<Action>(action), static_cast<Target>(target), id);
}
static uint32_t ow_config_read(PeView* pe, uint32_t word) { return self(pe).config_read(word); }
static void ow_config_write(PeView* pe, uint32_t word, uint32_t value) { self(pe).config_write(word, value); }
static uint32_t ow_tsc(PeView* pe, uint32_t word) { return self(pe).counter_word(word); }
static void ow_tsc_control(PeView* pe, uint32_t control) { self(pe).counter_control(control); }
static uint32_t ow_random16(PeView* pe) { return self(pe).random(); }
static void ow_prng(PeView* pe, uint32_t generator) { self(pe).choose_random(generator); }
static void ow_fifo_length(PeView* pe, uint32_t write, uint32_t fifo, uint32_t elements) {
  self(pe).fifo_length(fifo, write != 0, elements);
}
static void ow_queue_flush(PeView* pe, uint32_t queue) { self(pe).queue_flush(queue); }
static uint32_t ow_queue_status(PeView* pe, uint32_t output, uint32_t queue) {
  return self(pe).queue_status(output != 0, queue);
}
static void ow_unblock_commands(PeView* pe) { self(pe).unblock_commands(); }
static void ow_print(PeView* pe, uint32_t kind, uint32_t bits, uint32_t string) {
  self(pe).print(static_cast<PrintKind>(kind), bits, string);
}
static void ow_trace(PeView* pe, uint32_t key, uint32_t kind, uint32_t bits, uint32_t string) {
  self(pe).add_trace(key, static_cast<PrintKind>(kind), bits, string);
}
static void ow_fail(PeView* pe, uint32_t trap, uint32_t location, uint64_t first, uint64_t second) {
  self(pe).trap(static_cast<Trap>(trap), location, first, second);
}
static void ow_trap(PeView* pe, uint32_t trap, uint32_t location, uint64_t first, uint64_t second) {
  ow_fail(pe, trap, location, first, second);
  std::longjmp(self(pe).machine().trap_point(), 1);
}
// Called where a loop has used up its fuel: lets the host interrupt, and ends a loop that never waits.
static void ow_poll(PeView* pe) {
  Pe& me = self(pe);
  pe->fuel = 1 << 20;
  me.machine().poll();
  const uint64_t limit = me.machine().spin_limit;
  if (limit != 0 && pe->clock > me.machine().cycle() + limit) {
    me.fail(0, "the task has run for " + std::to_string(limit) +
                   " cycles without an end or an operation that waits; look for a loop that never ends");
  }
  if (me.machine().failed()) std::longjmp(me.machine().trap_point(), 1);
}
static void ow_watch(PeView* pe, uint32_t address, uint32_t bytes) { self(pe).keep_old(address, bytes); }
static float ow_half_to_single(PeView*, uint32_t bits, uint32_t format) {
  return half_to_float(bits, static_cast<HalfFormat>(format));
}
static uint32_t ow_single_to_half(PeView*, float value, uint32_t format) {
  return double_to_half(value, static_cast<HalfFormat>(format));
}

}  // extern "C"

std::map<std::string, uintptr_t> runtime_addresses() {
#define OPENWAFER_FUNCTION(name) {#name, address(name)}
  return {
      OPENWAFER_FUNCTION(ow_vector),         OPENWAFER_FUNCTION(ow_vector_id),
      OPENWAFER_FUNCTION(ow_vector_complete), OPENWAFER_FUNCTION(ow_load_dsr),
      OPENWAFER_FUNCTION(ow_set_dsr_base),
      OPENWAFER_FUNCTION(ow_map_begin),      OPENWAFER_FUNCTION(ow_map_next),
      OPENWAFER_FUNCTION(ow_map_read),       OPENWAFER_FUNCTION(ow_map_write),
      OPENWAFER_FUNCTION(ow_task),           OPENWAFER_FUNCTION(ow_config_read),
      OPENWAFER_FUNCTION(ow_config_write),   OPENWAFER_FUNCTION(ow_tsc),
      OPENWAFER_FUNCTION(ow_tsc_control),    OPENWAFER_FUNCTION(ow_random16),
      OPENWAFER_FUNCTION(ow_prng),           OPENWAFER_FUNCTION(ow_fifo_length),
      OPENWAFER_FUNCTION(ow_queue_flush),    OPENWAFER_FUNCTION(ow_queue_status),
      OPENWAFER_FUNCTION(ow_unblock_commands), OPENWAFER_FUNCTION(ow_print),
      OPENWAFER_FUNCTION(ow_trace),          OPENWAFER_FUNCTION(ow_trap),
      OPENWAFER_FUNCTION(ow_fail),           OPENWAFER_FUNCTION(ow_poll),
      OPENWAFER_FUNCTION(ow_watch),
      OPENWAFER_FUNCTION(ow_half_to_single), OPENWAFER_FUNCTION(ow_single_to_half),
  };
#undef OPENWAFER_FUNCTION
}

}  // namespace openwafer
