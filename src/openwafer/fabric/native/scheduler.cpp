// The main thread: which task runs next, what activates, blocks and unblocks, and when.
//
// Choice among tasks that could run: high priority before low, then round-robin over the ids from the last one that ran
// (the policy is in the timing table). The vendor does not publish its policy.
#include <algorithm>
#include <bit>
#include <cstring>

#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

constexpr uint32_t TASK_JITTER = 16;  // cycles that a task starts late are below this

void Pe::at(Event event) {
  const auto place = std::upper_bound(events_.begin(), events_.end(), event,
                                      [](const Event& a, const Event& b) { return a.cycle < b.cycle; });
  events_.insert(place, event);
}

void Pe::apply_events(Cycle cycle) {
  size_t done = 0;
  while (done < events_.size() && events_[done].cycle <= cycle) {
    const Event event = events_[done++];
    switch (event.type) {
      case Event::TASK: apply_task_action(event.action, event.target, event.id, cycle); break;
      case Event::CONFIG:
        if (event.address < 0x7f40) {
          machine_.network().write_route(tile_, static_cast<uint8_t>(event.address - 0x7f20), event.value, cycle);
        } else {
          machine_.network().write_switch(tile_, static_cast<uint8_t>(event.address - 0x7f40), event.value, cycle);
        }
        break;
      case Event::FLUSH:
        (event.id < THREADS ? inputs_[event.id] : outputs_[event.id - THREADS]).flushing = flushing_ = true;
        break;
      case Event::UNBLOCK_COMMANDS: commands_blocked_ = false; break;
    }
  }
  events_.erase(events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(done));
}

void Pe::task_action(Action action, Target target, uint32_t id) {
  const Cycle when = clock + (action == Action::ACTIVATE ? machine_.timing().activate_cycles : 0);
  at({Event::TASK, action, target, static_cast<uint8_t>(id), 0, 0, when});
}

void Pe::unblock_commands() {
  at({Event::UNBLOCK_COMMANDS, Action::NONE, Target::TASK, 0, 0, 0, clock});
}

void Pe::apply_task_action(Action action, Target target, uint32_t id, Cycle) {
  const bool open = action == Action::UNBLOCK;
  const auto set = [open](auto& mask, uint32_t bit, bool value_when_open) {
    using Mask = std::remove_reference_t<decltype(mask)>;
    const Mask one = Mask{1} << bit;
    mask = (open == value_when_open) ? (mask | one) : (mask & ~one);
  };
  if (action == Action::NONE || action == Action::TERMINATE) return;
  if (action == Action::ACTIVATE) {
    if (id >= TASK_IDS || program_.local[id].entry == nullptr) {
      fail(0, "task id " + std::to_string(id) +
                  " was activated, but no local task is bound to it; bind one with @bind_local_task");
      return;
    }
    active_ |= 1u << id;
    return;
  }
  switch (target) {
    case Target::THREAD: set(blocked_threads_, id & 7, false); return;
    case Target::QUEUE: {
      const int channel = id < inputs_.size() ? channel_of(static_cast<uint8_t>(id)) : -1;
      if (channel >= 0) set(open_channels_, static_cast<uint32_t>(channel), true);
      return;
    }
    case Target::COLOR: {
      uint32_t channel = id;
      if (machine_.wse3()) channel = id < COLORS ? queue_of_color_[id] : NO_QUEUE;
      if (channel < TASK_IDS) set(open_channels_, channel, true);
      if (!machine_.wse3() && id < TASK_IDS && program_.data[id].entry == nullptr) set(blocked_, id, false);
      return;
    }
    case Target::TASK:
      if (id >= TASK_IDS) {
        if (id < CONTROL_IDS) set(blocked_control_, id, false);
        return;
      }
      // On the WSE-2 a color and a local task of the same number share one entry of the task table.
      if (program_.data[id].entry != nullptr || program_.local[id].entry == nullptr || !machine_.wse3()) {
        set(open_channels_, id, true);
      }
      if (program_.data[id].entry == nullptr) set(blocked_, id, false);
      return;
  }
}

// A channel is what blocks and unblocks the wavelets of a queue as starters of tasks.
int Pe::channel_of(uint8_t queue) const {
  if (machine_.wse3()) return queue;
  return inputs_[queue].color == NO_COLOR ? -1 : inputs_[queue].color;
}

bool Pe::channel_open(uint8_t queue) const {
  const int channel = channel_of(queue);
  return channel >= 0 && channel < TASK_IDS && ((open_channels_ >> channel) & 1);
}

// The task that a control wavelet's entry point names. All tasks of a WSE-2 are in one table, and programs for SDK 1.0 to
// 1.2 name a data task by its color.
const TaskBinding& Pe::entered(uint32_t point) const {
  const TaskBinding& task = program_.control[point];
  if (task.entry != nullptr || machine_.wse3() || point >= TASK_IDS) return task;
  return program_.data[point].entry != nullptr ? program_.data[point] : program_.local[point];
}

bool Pe::candidate(int id, Cycle cycle, Choice& choice) {
  if (id == COMMAND) {
    if (commands_ == nullptr || commands_->empty() || commands_blocked_) return false;
    choice = {nullptr, id, NO_QUEUE, NO_COLOR};
    return true;
  }
  const uint32_t bit = 1u << id;
  if ((active_ & ~blocked_ & bit) != 0) {
    choice = {&program_.local[static_cast<size_t>(id)], id, NO_QUEUE, NO_COLOR};
    return true;
  }
  if (id == TEARDOWN_ID && teardown_ != 0) {
    for (uint8_t color = 0; color < COLORS; ++color) {
      if (((teardown_ >> color) & 1) == 0) continue;
      const TaskBinding& handler =
          program_.teardown[color].entry != nullptr ? program_.teardown[color] : program_.teardown_any;
      if (handler.entry == nullptr) continue;
      choice = {&handler, id, NO_QUEUE, color};
      return true;
    }
  }
  if (id == TEARDOWN_ID && empty_handlers_ != 0) {
    const int emptied = std::countr_zero(empty_handlers_);
    choice = {&program_.empty_queue[static_cast<size_t>(emptied)], id, NO_QUEUE, NO_COLOR, static_cast<int8_t>(emptied)};
    return true;
  }
  uint8_t queue = NO_QUEUE;
  if (machine_.wse3()) {
    if (static_cast<size_t>(id) < inputs_.size()) queue = static_cast<uint8_t>(id);
  } else if (id < COLORS) {
    queue = queue_of_color_[id];
  }
  if (queue == NO_QUEUE || inputs_[queue].count() == 0 || inputs_[queue].front().ready > cycle) return false;
  if (!channel_open(queue) || queue_in_use(queue)) return false;
  const Wavelet& wavelet = inputs_[queue].front().wavelet;
  if (!wavelet.control) {
    const TaskBinding& task = program_.data[static_cast<size_t>(id)];
    if (task.entry == nullptr) return false;
    const Rotation& rotation = task.rotation;
    const bool other = rotation.on && rotations_[queue] == rotation.limit;
    choice = {other ? &program_.control[rotation.control] : &task, id, queue, NO_COLOR};
    return true;
  }
  if (machine_.network().carries_messages(tile_, wavelet.color)) {  // a message's last wavelet, which starts no task
    static const TaskBinding nothing;
    choice = {&nothing, id, queue, NO_COLOR};
    return true;
  }
  uint32_t point = (wavelet.data >> 16) & (CONTROL_IDS - 1);
  if (machine_.wse3() && point != NO_ENTRY_POINT) {
    point = (point + program_.control_offset[static_cast<size_t>(id)]) & (CONTROL_IDS - 1);
  }
  const TaskBinding& task = entered(point);
  if (task.entry == nullptr && point != NO_ENTRY_POINT) {
    fail(0, "a control wavelet of color " + std::to_string(wavelet.color) + " names entry point " +
                std::to_string(point) + ", but no control task is bound to it; bind one with @bind_control_task");
    return false;
  }
  if ((blocked_control_ >> point) & 1) return false;
  choice = {&task, id, queue, NO_COLOR};
  return true;
}

// Most PEs have nothing to choose most of the time; this sees it without going over all ids.
bool Pe::may_have_candidate() const {
  if ((active_ & ~blocked_) != 0 || teardown_ != 0 || empty_handlers_ != 0) return true;
  if (commands_ != nullptr && !commands_->empty() && !commands_blocked_) return true;
  if (open_channels_ == 0) return false;
  return std::any_of(inputs_.begin(), inputs_.end(), [](const WaveletQueue& queue) { return queue.count() > 0; });
}

bool Pe::has_candidate(Cycle cycle) {
  if (!may_have_candidate()) return false;
  Choice choice;
  for (int id = 0; id <= COMMAND; ++id) {
    if (candidate(id, cycle, choice)) return true;
  }
  return false;
}

bool Pe::choose(Cycle cycle, Choice& choice) {
  if (!may_have_candidate()) return false;
  bool found = false;
  if (machine_.timing().network.jitter) return choose_any(cycle, choice);
  const int first = machine_.timing().round_robin ? last_task_ + 1 : 0;
  for (int i = 0; i <= COMMAND; ++i) {
    Choice one;
    if (!candidate((first + i) % (COMMAND + 1), cycle, one)) continue;
    const bool high = one.id < TASK_IDS && ((high_ >> one.id) & 1);
    if (high) {
      choice = one;
      return true;
    }
    if (!found) choice = one;
    found = true;
  }
  return found;
}

// In disorder: any of the candidates, high priority before low.
bool Pe::choose_any(Cycle cycle, Choice& choice) {
  const Jitter& jitter = machine_.timing().network.jitter;
  uint32_t found = 0;
  bool high = false;
  for (int id = 0; id <= COMMAND; ++id) {
    Choice one;
    if (!candidate(id, cycle, one)) continue;
    const bool this_high = one.id < TASK_IDS && ((high_ >> one.id) & 1);
    if (this_high && !high) found = 0;
    if (high && !this_high) continue;
    high = this_high;
    ++found;  // the n-th of them takes the place of the one before with a chance of 1 in n
    if (jitter.draw(cycle, (uint64_t{tile_} << 8) + 4 + static_cast<uint64_t>(id), found) == 0) choice = one;
  }
  return found > 0;
}

void Pe::start_task(const Choice& choice, Cycle cycle) {
  last_task_ = static_cast<int8_t>(choice.id);
  std::memset(arguments, 0, sizeof(arguments));
  clock = cycle + machine_.timing().dispatch_cycles;
  if (const Jitter& jitter = machine_.timing().network.jitter) {
    clock += jitter.draw(cycle, (uint64_t{tile_} << 8) + 2, TASK_JITTER);
  }
  if (choice.id == COMMAND) {
    const Command command = std::move(commands_->front());
    traced_entry_ = command.entry;
    commands_->pop_front();
    commands_blocked_ = true;
    entry_ = program_.entries[command.entry];
    running_ = &program_.entry_names[command.entry];
    std::copy(command.arguments.begin(), command.arguments.end(), arguments);
  } else {
    if (choice.queue != NO_QUEUE) {
      const Wavelet wavelet = pop_input(choice.queue, cycle);
      if (choice.binding->entry == nullptr) return;  // a control wavelet that only routers look at
      const Rotation& rotation = program_.data[static_cast<size_t>(choice.id)].rotation;
      if (rotation.on && !wavelet.control) {
        uint16_t& starts = rotations_[choice.queue];
        starts = starts == rotation.limit ? 0 : static_cast<uint16_t>(starts + 1);
      }
      switch (choice.binding->parameters) {
        case Parameters::NONE: break;
        case Parameters::WORD: arguments[0] = wavelet.data; break;
        case Parameters::HALF: arguments[0] = wavelet.data & 0xffff; break;
        case Parameters::HALVES:
          arguments[0] = wavelet.data & 0xffff;
          arguments[1] = wavelet.data >> 16;
          break;
      }
    } else if (choice.color != NO_COLOR) {
      teardown_ &= ~(1u << choice.color);
    } else if (choice.emptied >= 0) {
      empty_handlers_ &= static_cast<uint16_t>(~(1u << choice.emptied));
    } else {
      active_ &= ~(1u << choice.id);
    }
    entry_ = choice.binding->entry;
    traced_entry_ = choice.binding->number;
    running_ = &choice.binding->name;
  }
  ++statistics.tasks;
  machine_.trace.add(cycle, x, y, TraceKind::TASK_START, static_cast<uint32_t>(choice.id), traced_entry_);
  if (frame_.empty()) frame_.resize(std::max(program_.frame_bytes, 4u));
  std::memset(frame_.data(), 0, 4);  // where the code begins
  resume(cycle);
}

// Calls the code; an error that code cannot return from (ow_trap) comes back through longjmp. Nothing with a destructor
// may live between the two.
Status Pe::call_entry() {
  if (setjmp(machine_.trap_point()) != 0) return Status::FAILED;
  return static_cast<Status>(entry_(this, frame_.data()));
}

void Pe::resume(Cycle cycle) {
  main_ = Main::IDLE;
  const Cycle before = clock;
  const Status status = call_entry();
  statistics.busy += clock - before;
  switch (status) {
    case Status::DONE:
      main_free_ = std::max(clock, cycle + 1);
      machine_.trace.add(main_free_, x, y, TraceKind::TASK_END, static_cast<uint32_t>(last_task_), traced_entry_);
      running_ = nullptr;
      break;
    case Status::WAITING:
      if (main_ == Main::IDLE) fail(0, "code waits although no operation does; this is a fault of the compiler");
      waiting_since_ = clock;
      break;
    case Status::FAILED:
      if (!machine_.failed()) fail(0, "code ended with an error that it did not name; this is a fault of the compiler");
      break;
  }
}

void Pe::launch(uint32_t entry, const std::vector<uint32_t>& words) {
  if (commands_ == nullptr) commands_ = std::make_unique<std::deque<Command>>();
  commands_->push_back({entry, words});
}

// A color has gone into teardown: its handler runs, or the task that the program has bound to the teardown id itself.
void Pe::teardown(uint8_t color) {
  const bool handled = program_.teardown[color].entry != nullptr || program_.teardown_any.entry != nullptr;
  if (!handled && program_.local[TEARDOWN_ID].entry != nullptr) {
    active_ |= 1u << TEARDOWN_ID;
  } else {
    teardown_ |= 1u << color;
  }
}

}  // namespace openwafer
