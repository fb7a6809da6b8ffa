// One cycle of a PE: what is due, which task begins, which thread has the datapath, what leaves through the ramp.
//
// Microthreads and the main thread's operation share one issue slot. High and medium microthreads come before the main
// thread, low ones behind it, and equals take turns.
#include <algorithm>
#include <bit>
#include <cmath>

#include "machine.hpp"
#include "pe.hpp"
#include "prefetch.hpp"

namespace openwafer {

// A larger rank goes first: microthreads have 0 (low), 2 (medium) or 4 (high), the main thread 1 unless the program says.
int Pe::rank(const Operation& operation) const {
  if (operation.thread == MAIN_THREAD) return main_priority_ + 1;
  return operation.priority >= 2 ? 2 * (operation.priority - 1) : 0;
}

Pe::Pe(Machine& machine, const Program& program, Tile tile, uint16_t column, uint16_t row)
    : machine_(machine), program_(program), tile_(tile) {
  x = column;
  y = row;
  memory_bytes = program.memory_bytes;
  memory_.assign(program.memory_bytes, 0);
  std::copy(program.memory.begin(), program.memory.end(), memory_.begin());
  memory = memory_.data();
  costs = program.costs.data();
  constants = program.constants.data();
  active_ = program.initially_active;
  blocked_ = program.initially_blocked;
  blocked_control_ = program.initially_blocked_control;
  open_channels_ = program.open_channels;
  for (size_t id = 0; id < TASK_IDS; ++id) {
    if (program.data[id].high_priority || program.local[id].high_priority) high_ |= 1u << id;
    if (program.data[id].rotation.on && id < THREADS) rotations_[id] = program.data[id].rotation.start;
  }
  elements_.half = program.half;
  elements_.random_steps = machine.timing().prng_steps;
  std::fill(std::begin(queue_of_color_), std::end(queue_of_color_), NO_QUEUE);
  inputs_.resize(machine.timing().input_depth.size());
  outputs_.resize(machine.timing().output_depth.size() + 1);  // the last one: for DSDs without a queue
  for (const Program::QueueBinding& binding : program.queues) {
    WaveletQueue& queue = (binding.input ? inputs_ : outputs_)[binding.number];
    queue.allocate((binding.input ? machine.timing().input_depth : machine.timing().output_depth)[binding.number]);
    queue.color = binding.color;
    queue.priority = binding.priority;
    if (binding.input && binding.color < COLORS) queue_of_color_[binding.color] = binding.number;
  }
  if (!machine.wse3()) {
    for (uint8_t color = 0; color < COLORS; ++color) {
      if (program.data[color].entry != nullptr) bind_automatic(color);
      if (program.local[color].entry != nullptr && ((program.initially_blocked >> color) & 1) == 0) {
        open_channels_ |= 1u << color;  // one entry of the task table: see apply_task_action
      }
    }
  }
  for (const Program::FifoBinding& binding : program.fifos) {
    if (fifos_.size() <= binding.number) fifos_.resize(binding.number + 1u);
    Fifo& fifo = fifos_[binding.number];
    fifo.base = binding.address;
    fifo.bytes = binding.bytes;
    fifo.activate_push = binding.activate_push;
    fifo.activate_pop = binding.activate_pop;
    fifo.empty = binding.empty;
    fifo.full = binding.full;
    if (fifo.empty != FifoAction::TEST_OR_SUSPEND || fifo.full != FifoAction::TEST_OR_SUSPEND) fifo_actions_ = true;
  }
  for (const Program::PreloadBinding& preload : program.preloads) {
    load_dsr(preload.file, preload.number, preload.descriptor, &preload.vector);
  }
  clock = 0;  // what was loaded before the start cost nothing
  for (const auto& [target, id] : program.blocked) apply_task_action(Action::BLOCK, target, id, 0);
  for (const auto& [address, value] : program.config) config_write(address, value);
}

void Pe::prefetch_parts() const {
  prefetch(inputs_.data(), inputs_.size() * sizeof(WaveletQueue));
  prefetch(outputs_.data(), outputs_.size() * sizeof(WaveletQueue));
  for (uint32_t left = active_threads_; left != 0; left &= left - 1) {
    prefetch(threads_[std::countr_zero(left)].get(), sizeof(Operation));
  }
  if (main_ != Main::WAIT_OPERATION) return;
  prefetch(frame_.data(), 1);
  prefetch(dsr_dest_.data(), dsr_dest_.size() * sizeof(Dsr));
  prefetch(dsr_src0_.data(), dsr_src0_.size() * sizeof(Dsr));
  prefetch(dsr_src1_.data(), dsr_src1_.size() * sizeof(Dsr));
}

void Pe::prefetch_operands() const {
  for (uint32_t left = active_threads_; left != 0; left &= left - 1) {
    threads_[std::countr_zero(left)]->each_operand([this](const Operand& operand) {
      if (operand.kind == Kind::MEMORY) prefetch(memory + operand.address, 1);
      if (operand.kind != Kind::FABRIC_IN) return;
      const WaveletQueue& queue = inputs_[operand.queue];
      if (queue.count() > 0) prefetch(&queue.front(), 1);
    });
  }
}

Cycle Pe::step(Cycle cycle) {
  now_ = cycle;
  // 1. What was to happen by now: activations, configuration.
  if (!events_.empty()) apply_events(cycle);
  // 2. The main thread, if it has come to its operation.
  if (main_ == Main::WAIT_ISSUE && clock <= cycle && issue_pending(cycle) == Status::DONE && !machine_.failed()) {
    resume(cycle);
  }
  if (main_ == Main::WAIT_MAP && clock <= cycle && map_ready(cycle)) {
    trace_wait(map_->operation, clock, cycle);
    map_fetch(cycle);
    resume(cycle);
  }
  // 3. The next task.
  Choice choice;
  if (main_ == Main::IDLE && main_free_ <= cycle && !machine_.failed() &&
      choose(cycle, choice)) {
    start_task(choice, cycle);
  }
  // 4. One issue of the datapath.
  if (active_threads_ != 0 && !machine_.failed()) datapath(cycle);
  if (main_ == Main::WAIT_OPERATION && ((active_threads_ >> MAIN_THREAD) & 1) == 0 && !machine_.failed()) resume(cycle);
  // 5. One wavelet through the ramp.
  drain(cycle);
  if (machine_.failed()) return NEVER;
  return next_cycle(cycle);
}

void Pe::datapath(Cycle cycle) {
  Operation* best = nullptr;
  // In turn from the thread after the last one: first those above it, then the others.
  const Jitter& jitter = machine_.timing().network.jitter;
  const uint32_t last = jitter ? jitter.draw(cycle, uint64_t{tile_} << 8, MAIN_THREAD + 1) : last_thread_;
  const uint32_t above = active_threads_ & ~((2u << last) - 1);
  for (uint64_t left = above | uint64_t{active_threads_ & ~above} << 16; left != 0; left &= left - 1) {
    Operation& operation = *threads_[std::countr_zero(left) & 15];
    if (best != nullptr && rank(operation) <= rank(*best)) continue;
    if (ready_elements(operation, cycle) > 0) {
      best = &operation;
    } else {
      note_shortage(operation);
    }
  }
  if (best == nullptr) return;
  last_thread_ = best->thread;
  if (!fifo_actions_ || !end_by_fifo(*best, cycle)) issue(*best, cycle);
}

bool Pe::queue_in_use(uint8_t queue) const {
  for (uint32_t left = active_threads_; left != 0; left &= left - 1) {
    const Operation& operation = *threads_[std::countr_zero(left)];
    for (int i = 0; i < operation.source_count; ++i) {
      if (operation.sources[i].kind == Kind::FABRIC_IN && operation.sources[i].queue == queue) return true;
    }
  }
  return false;
}

Wavelet Pe::pop_input(uint8_t queue, Cycle cycle) {
  const Wavelet wavelet = inputs_[queue].pop();
  machine_.network().wake(tile_, wavelet.color, cycle);
  return wavelet;
}

void Pe::push_output(uint8_t queue, const Wavelet& wavelet, Cycle cycle) {
  outputs_[queue].push(wavelet, cycle + 1);
  filled_outputs_ |= 1u << queue;
}

bool Pe::has_room(uint8_t color) const {
  const uint8_t queue = queue_of_color_[color];
  if (queue == NO_QUEUE) return !machine_.wse3() && ((open_channels_ >> color) & 1);
  return inputs_[queue].room() > 0;
}

void Pe::deliver(const Wavelet& wavelet, Cycle cycle) {
  if (queue_of_color_[wavelet.color] == NO_QUEUE) bind_automatic(wavelet.color);
  inputs_[queue_of_color_[wavelet.color]].push(wavelet, cycle + machine_.timing().landing_cycles);
  ++statistics.wavelets_in;
  if (machine_.trace.wavelets) {
    machine_.trace.add(cycle, x, y, TraceKind::WAVELET_IN, wavelet.color, wavelet.data, wavelet.control);
  }
}

// One wavelet a cycle goes from the output queues to the router; queues take turns.
void Pe::drain(Cycle cycle) {
  output_blocked_ = false;
  bool offered = cycle < next_send_;
  const auto count = static_cast<uint8_t>(outputs_.size());
  const Jitter& jitter = machine_.timing().network.jitter;
  const uint32_t last = jitter ? jitter.draw(cycle, (uint64_t{tile_} << 8) + 1, count) : last_output_;
  for (uint8_t i = 1; i <= count && !offered && filled_outputs_ != 0; ++i) {
    const auto index = static_cast<uint8_t>((last + i) % count);
    if (((filled_outputs_ >> index) & 1) == 0) continue;
    WaveletQueue& queue = outputs_[index];
    if (queue.front().ready > cycle) continue;
    const Wavelet& wavelet = queue.front().wavelet;
    const bool taken = machine_.streams_out(wavelet.color) ? machine_.offer_stream(tile_, wavelet)
                                                           : machine_.network().offer(tile_, wavelet, cycle);
    if (!taken) {
      output_blocked_ = true;
      continue;
    }
    if (machine_.trace.wavelets) {
      machine_.trace.add(cycle, x, y, TraceKind::WAVELET_OUT, wavelet.color, wavelet.data, wavelet.control);
    }
    queue.pop();
    if (queue.count() == 0) filled_outputs_ &= ~(1u << index);
    ++statistics.wavelets_out;
    send_owed_ = (cycle > next_send_ ? 0 : send_owed_) + machine_.timing().send_wavelet_cycles - 1;
    next_send_ = cycle + 1 + static_cast<Cycle>(send_owed_);
    send_owed_ -= std::floor(send_owed_);
    last_output_ = index;
    offered = true;
  }
  if (offered) output_blocked_ = false;  // what another queue holds is tried in the next cycle
  flush_queues();
}

// @queue_flush: an empty queue activates the task of the teardown id. That task calls the handlers of all queues whose
// status bit is set, so a handler that leaves its bit set runs again with the next one.
void Pe::flush_queues() {
  if (!flushing_) return;
  flushing_ = false;
  const auto look = [&](std::vector<WaveletQueue>& queues) {
    for (WaveletQueue& queue : queues) {
      if (queue.flushing && queue.count() > 0) flushing_ = true;
      if (!queue.flushing || queue.count() > 0) continue;
      queue.flushing = false;
      const auto bit = static_cast<uint8_t>(1u << (&queue - queues.data()));
      (&queues == &inputs_ ? flushed_inputs_ : flushed_outputs_) |= bit;
      const auto index = static_cast<size_t>(&queue - queues.data()) + (&queues == &inputs_ ? 0 : THREADS);
      if (program_.empty_queue[index].entry != nullptr) {
        for (size_t i = 0; i < program_.empty_queue.size(); ++i) {
          if (program_.empty_queue[i].entry == nullptr) continue;
          if (((flushed_inputs_ | flushed_outputs_ << THREADS) >> i) & 1) empty_handlers_ |= 1u << i;
        }
      } else if (program_.local[TEARDOWN_ID].entry != nullptr) {
        active_ |= 1u << TEARDOWN_ID;
      } else {
        fail(0, std::string("@queue_flush found ") + (index < THREADS ? "input" : "output") + " queue " +
                    std::to_string(index % THREADS) +
                    " empty, but nothing runs then; give the queue a handler with @set_empty_queue_handler, or bind a "
                    "task to the teardown task id " + std::to_string(TEARDOWN_ID));
      }
    }
  };
  look(inputs_);
  look(outputs_);
}

Cycle Pe::next_cycle(Cycle cycle) {
  const Cycle soon = cycle + 1;
  Cycle next = NEVER;
  const auto want = [&](Cycle when) { next = std::min(next, std::max(when, soon)); };
  if (!events_.empty()) want(events_.front().cycle);
  // A task that has run ahead ends the machine's time no earlier than its own.
  if (main_ == Main::IDLE && (main_free_ > soon || has_candidate(std::max(soon, main_free_)))) want(main_free_);
  if (main_ == Main::WAIT_ISSUE) want(clock);
  if (main_ == Main::WAIT_MAP && map_ready(std::max(soon, clock))) want(clock);
  for (uint32_t left = active_threads_; left != 0 && next > soon; left &= left - 1) {
    const Operation& operation = *threads_[std::countr_zero(left)];
    if (ready_elements(operation, std::max(operation.ready, soon)) > 0) want(operation.ready);
  }
  for (size_t i = 0; machine_.timing().landing_cycles > 0 && i < inputs_.size(); ++i) {
    const WaveletQueue& queue = inputs_[i];
    if (queue.count() > 0 && queue.front().ready > cycle) want(queue.front().ready);
  }
  if (!output_blocked_) {
    for (uint32_t left = filled_outputs_; left != 0; left &= left - 1) {
      const WaveletQueue& queue = outputs_[static_cast<size_t>(std::countr_zero(left))];
      want(std::max(queue.front().ready, next_send_));
    }
  }
  return next;
}

}  // namespace openwafer
