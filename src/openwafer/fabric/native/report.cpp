// What a PE says: errors with their place, prints, and what each of its parts waits for.
#include <cstdio>

#include "half.hpp"
#include "machine.hpp"
#include "pe.hpp"

namespace openwafer {

namespace {

template <class... Values>
std::string text(const char* format, Values... values) {
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), format, values...);
  return buffer;
}

const char* side_of(const Operand& operand) {
  switch (operand.kind) {
    case Kind::FABRIC_IN: return "input queue ";
    case Kind::FABRIC_OUT: return "output queue ";
    default: return "FIFO ";
  }
}

}  // namespace

std::string Pe::place(uint32_t location) const {
  if (location == 0 || location >= program_.locations.size()) return program_.name;
  const Location& where = program_.locations[location];
  return where.file + ":" + std::to_string(where.line) + ":" + std::to_string(where.column);
}

void Pe::fail(uint32_t location, const std::string& what) {
  std::string where = "PE (" + std::to_string(x) + ", " + std::to_string(y) + ")";
  if (running_ != nullptr) where += ", task " + *running_;
  machine_.fail(place(location) + ": " + where + ", cycle " + std::to_string(std::max(clock, now_)) + ": " + what);
}

void Pe::trap(Trap kind, uint32_t location, uint64_t first, uint64_t second) {
  const std::string a = std::to_string(static_cast<int64_t>(first)), b = std::to_string(second);
  switch (kind) {
    case Trap::INDEX:
      fail(location, "index " + a + " is outside the array, whose extent here is " + b + "; check the bounds of the loop");
      return;
    case Trap::ADDRESS:
      fail(location, "an access of " + b + " bytes at address " + a + " is outside the memory of " +
                         std::to_string(memory_bytes) + " bytes; check the pointer");
      return;
    case Trap::ASSERT: fail(location, "an assertion does not hold"); return;
    case Trap::DIVISION: fail(location, "a division by zero; check the divisor first"); return;
    case Trap::UNREACHABLE: fail(location, "code that was declared unreachable was reached"); return;
    case Trap::STACK:
      fail(location, "the stack of " + std::to_string(second & 0xffffffff) + " bytes is full: this call of `" +
                         program_.strings.at(second >> 32) + "` needs " + a +
                         " more; make the recursion less deep or its local arrays global, or write it as a loop");
      return;
    case Trap::SHIFT:
      fail(location, "a shift by " + a + " bits of a value that has " + b + "; shift by less than its width");
      return;
  }
  fail(location, "an error of a kind that the machine does not know");
}

std::string Pe::format(PrintKind kind, uint32_t bits, uint32_t string) const {
  switch (kind) {
    case PrintKind::STRING: return string < program_.strings.size() ? program_.strings[string] : std::string();
    case PrintKind::U16: return text("%u", bits & 0xffff);
    case PrintKind::U32: return text("%u", bits);
    case PrintKind::I16: return text("%d", static_cast<int16_t>(bits));
    case PrintKind::I32: return text("%d", static_cast<int32_t>(bits));
    case PrintKind::F16: return text("%g", static_cast<double>(half_to_float(bits, program_.half)));
    case PrintKind::F32: return text("%g", static_cast<double>(std::bit_cast<float>(bits)));
    case PrintKind::HEX16: return text("%04X", bits & 0xffff);
    case PrintKind::HEX32: return text("%08X", bits);
    case PrintKind::BOOL: return bits != 0 ? "true" : "false";
    case PrintKind::TIMESTAMP: return std::to_string(clock);
  }
  return {};
}

void Pe::print(PrintKind kind, uint32_t bits, uint32_t string) {
  for (const char c : format(kind, bits, string)) {
    if (c != '\n') {
      line_ += c;
      continue;
    }
    machine_.lines.push_back({clock, x, y, std::move(line_)});
    line_.clear();
  }
}

void Pe::add_trace(uint32_t key, PrintKind kind, uint32_t bits, uint32_t string) {
  traces.push_back({clock, key, kind, bits, string});
}

bool Pe::unfinished() const {
  return main_ != Main::IDLE || (commands_ != nullptr && !commands_->empty()) || commands_blocked_ || output_blocked_;
}

void Pe::describe_operation(std::string& out, const Operation& operation, Cycle cycle) const {
  out += std::string("@") + operation_name(operation.vector.operation) + " at " + place(operation.vector.location);
  if (operation.remaining != ENDLESS) out += ", " + std::to_string(operation.remaining) + " elements to go,";
  std::string waits;
  Operation copy = operation;
  copy.each_operand([&](Operand& operand) {
    std::string one;
    if (operand.kind == Kind::FABRIC_IN && inputs_[operand.queue].ready(cycle, 1) == 0) {
      one = " is empty (color " + std::to_string(inputs_[operand.queue].color) + ")";
    } else if (operand.kind == Kind::FABRIC_OUT && outputs_[operand.queue].room() == 0) {
      one = " is full (color " + std::to_string(operand.color) + ", " +
            std::to_string(outputs_[operand.queue].depth()) + " wavelets)";
    } else if (operand.kind == Kind::FIFO) {
      const Fifo& fifo = fifos_[operand.queue];
      one = " holds " + std::to_string(fifo.used) + " of " + std::to_string(fifo.bytes) + " bytes";
    }
    if (one.empty()) return;
    waits += std::string(waits.empty() ? "" : " and ") + side_of(operand) + std::to_string(operand.queue) + one;
  });
  if (operation.thread < THREADS && ((blocked_threads_ >> operation.thread) & 1)) waits += " the microthread is blocked";
  out += waits.empty() ? " can go on" : " waits: " + waits;
}

void Pe::describe_waiting(std::string& out, Cycle cycle, bool unblock) const {
  std::string mine;
  const auto line = [&](const std::string& what) { mine += "  " + what + "\n"; };
  if (main_ == Main::WAIT_OPERATION || main_ == Main::WAIT_ISSUE) {
    std::string what = "task " + (running_ != nullptr ? *running_ : std::string("?")) + ": ";
    describe_operation(what, *threads_[MAIN_THREAD], cycle);
    line(what);
  } else if (main_ == Main::WAIT_MAP) {
    line("task " + (running_ != nullptr ? *running_ : std::string("?")) + ": @map at " +
         place(map_->operation.vector.location) + " waits for its fabric operands");
  }
  for (int id = 0; id < THREADS; ++id) {
    if (((active_threads_ >> id) & 1) == 0) continue;
    std::string what = "microthread " + std::to_string(id) + ": ";
    describe_operation(what, *threads_[id], cycle);
    line(what);
  }
  for (int id = 0; id < TASK_IDS; ++id) {
    if ((active_ & blocked_ & (1u << id)) == 0) continue;
    line("task " + program_.local[static_cast<size_t>(id)].name + " (id " + std::to_string(id) +
         ") is active but blocked; @unblock it");
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const WaveletQueue& queue = inputs_[i];
    if (queue.count() == 0 || queue_in_use(static_cast<uint8_t>(i))) continue;
    std::string what = "input queue " + std::to_string(i) + " (color " + std::to_string(queue.color) + ") holds " +
                       std::to_string(queue.count()) + " of " + std::to_string(queue.depth()) + " wavelets";
    if (queue.front().wavelet.control) what += ", first a control wavelet,";
    what += channel_open(static_cast<uint8_t>(i)) ? " that no task or operation takes"
                                                  : ", but its channel is blocked and no operation reads it";
    line(what);
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const WaveletQueue& queue = outputs_[i];
    if (queue.count() == 0) continue;
    line("output queue " + std::to_string(i) + " holds " + std::to_string(queue.count()) + " wavelets of color " +
         std::to_string(queue.front().wavelet.color) + " that the router does not take");
  }
  for (uint8_t color = 0; color < COLORS; ++color) {
    if ((teardown_ >> color) & 1) {
      line("color " + std::to_string(color) + " is in teardown, and no handler runs for it; see @set_teardown_handler");
    }
  }
  if (commands_ != nullptr && (!commands_->empty() || (commands_blocked_ && unblock))) {
    const std::string waiting = std::to_string(commands_->size()) + " commands of the host wait";
    line(!commands_blocked_       ? waiting
         : commands_->empty() ? "the command of the host that runs has not called unblock_cmd_stream()"
                              : waiting + " for unblock_cmd_stream(), which the one before them has not called");
  }
  if (!mine.empty()) out += "PE (" + std::to_string(x) + ", " + std::to_string(y) + ") " + program_.name + ":\n" + mine;
}

}  // namespace openwafer
