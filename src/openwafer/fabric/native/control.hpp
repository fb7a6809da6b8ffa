// A control wavelet's payload: up to eight commands of three bits, an entry point, and data where few commands stand.
//
// Bits 16 to 21 are the entry point of a control task (31: none). The commands are one field of 24 bits, the first one
// lowest: bits 22 to 29 of the payload, then bits 0 to 15, which are data instead if only the first commands count.
// A command is NOCE (bit 2: the CE is passed by) and an opcode. Source: the <control> library's reference, and the
// payloads that the public examples build by hand (25-pt-stencil, spmv-hypersparse).
#pragma once

#include <cstdint>

namespace openwafer {

enum class Opcode : uint8_t { NOP = 0, ADVANCE = 1, RESET = 2, TEARDOWN = 3 };

inline Opcode leading_opcode(uint32_t payload) { return static_cast<Opcode>((payload >> 22) & 3); }
inline bool leading_passes_ce(uint32_t payload) { return (payload >> 24) & 1; }

// What `advance_switch` of a fabric output puts behind its last wavelet: SWITCH_ADV, NOCE and no entry point, for the
// sender's own router, where it ends. Bit 31, which no command uses, tells it from a program's wavelets. Source:
// "Advancing Switch Positions" of the SDK documentation; public collectives (spcl/spatial-collectives) stall if it goes on.
constexpr uint32_t OWN_ADVANCE = 0x895f9249;

// The payload without its first command. A NOP with NOCE comes in at the end, as the example allreduce says of a popped
// teardown (0x9df9249 becomes 0x91f9249).
inline uint32_t popped(uint32_t payload) {
  uint32_t commands = ((payload >> 22) & 0xff) | (payload & 0xffff) << 8;
  commands = commands >> 3 | 4u << 21;
  return (payload & 0xc03f0000) | (commands & 0xff) << 22 | commands >> 8;
}

}  // namespace openwafer
