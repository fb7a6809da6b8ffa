// Asks for memory that will be needed soon. On a fabric larger than the caches, waiting for it is most of the work.
#pragma once

#include <cstddef>

namespace openwafer {

inline void prefetch(const void* from, size_t bytes) {
#if defined(__GNUC__) || defined(__clang__)
  constexpr size_t LINE = 64;
  for (size_t at = 0; at < bytes; at += LINE) __builtin_prefetch(static_cast<const char*>(from) + at);
#else
  static_cast<void>(from), static_cast<void>(bytes);
#endif
}

}  // namespace openwafer
