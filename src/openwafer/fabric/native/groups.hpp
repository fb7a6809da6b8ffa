// Groups: the elements of a vector operation that the datapath takes at once, and the cycles that takes.
#pragma once

#include "operation.hpp"

namespace openwafer {

// At most so many elements, from where the operands stand, form a group: no more than the operation's width, and none from
// the next row of an operand with several dimensions.
uint32_t group_limit(const Operation& operation);
// Cycles of the group of so many elements that begins where the operands stand.
uint32_t group_cycles(const Operation& operation, uint32_t elements, uint32_t conflict_cycles);
// Cycles of all groups of an operation on memory alone.
uint64_t all_group_cycles(const Operation& operation, uint32_t conflict_cycles);

// Elements a cycle that a stride allows beside what the banks allow (public reference, "SIMD Mode"); stride in 16-bit words.
uint16_t stride_limit(int stride);
// Bytes from element to element of an operand in memory, as long as it stays in a row.
int32_t row_step(const Operand& operand);

}  // namespace openwafer
