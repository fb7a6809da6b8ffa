// Colors that carry messages: the first wavelet of each names the tile that it is for, and how many follow.
//
// A message goes along its row first, then along its column, which cannot close a circle of messages that wait for one
// another. A router gives each side to one message at a time: the first one that wants it holds it until its last wavelet
// has passed, which goes down the ramp of the destination as a control wavelet. Others wait in their buffers.
//
// That a router routes like this is assumed: the documentation of <message_passing> says what programs see of it, and
// neither how the wafer does it nor what a header looks like. Header: bits 0-9 column and 10-19 row in the program's
// rectangle, 20-25 the number of wavelets that follow.

#include "network.hpp"
#include "network_state.hpp"

namespace openwafer {

// Where the wavelet at the head of an input goes: with the message under way, or as the header that it is says.
uint8_t Network::State::message_sides(const Slot& slot, uint8_t input, uint32_t data) const {
  const Extra::Message& message = extras[slot.extra].messages[input];
  if (message.left > 0) return message.sides;
  const Tile tile = tile_of(slot);
  const uint32_t left = program ? program->left : 0, top = program ? program->top : 0;
  const uint32_t column = left + (data & 0x3ff), row = top + (data >> 10 & 0x3ff);
  if (column != tile % width) return bit(column > tile % width ? EAST : WEST);
  if (row != tile / width) return bit(row > tile / width ? SOUTH : NORTH);
  return bit(RAMP);
}

// Whether a message of another input has that side.
bool Network::State::message_waits(const Slot& slot, uint8_t input, uint8_t sides) const {
  const auto& messages = extras[slot.extra].messages;
  for (uint8_t other = 0; other < INPUTS; other++) {
    if (other != input && messages[other].left > 0 && messages[other].sides == sides) return true;
  }
  return false;
}

// A wavelet has passed. Whether it was the last of its message.
bool Network::State::message_moves(uint32_t slot, uint8_t input, uint8_t sides, uint32_t data) {
  Extra::Message& message = extras[slots[slot].extra].messages[input];
  if (message.left > 0) return --message.left == 0;
  message = {static_cast<uint8_t>(data >> 20 & 0x3f), sides};
  return false;
}

bool Network::carries_messages(Tile tile, uint8_t color) const {
  const uint32_t index = state_->slot_at(tile, color);
  return index != NONE && state_->slots[index].bits & MESSAGES;
}

}  // namespace openwafer
