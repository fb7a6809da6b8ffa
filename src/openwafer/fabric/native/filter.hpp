// Which wavelets pass a filter, by "Filter Configuration Semantics" of the builtins' reference.
//
// A counter starts at `counter`. Each wavelet that counts is compared with it first and moves it afterwards: up to
// limit1, and from there to 0 again. So of limit1 + 1 wavelets the first maximum + 1 pass, as the two-dimensional FFT
// of the public examples needs it.
#pragma once

#include "network.hpp"

namespace openwafer {

inline bool passes(const Filter& filter, uint32_t data, bool control) {
  switch (filter.kind) {
    case FilterKind::NONE:
      return true;
    case FilterKind::RANGE:
      return control || (filter.minimum <= (data >> 16) && (data >> 16) <= filter.maximum);
    case FilterKind::SPARSE_COUNTER:
      return filter.limit1 == 0 || filter.counter <= filter.maximum;
    case FilterKind::COUNTER:
      if (filter.filter_control) return control && filter.counter == filter.maximum;
      return filter.counter <= filter.maximum;
  }
  return true;
}

// Counts a wavelet that has gone by, passed or not.
inline void count_wavelet(Filter& filter, bool control) {
  if (filter.kind != FilterKind::COUNTER && filter.kind != FilterKind::SPARSE_COUNTER) return;
  if (!(control ? filter.count_control : filter.count_data)) return;
  if (filter.kind == FilterKind::SPARSE_COUNTER && filter.limit1 == 0) return;
  if (filter.counter < filter.limit1) {
    filter.counter++;
    return;
  }
  filter.counter = 0;
  if (filter.kind == FilterKind::SPARSE_COUNTER) {  // limit2 takes the place of limit1 once; then nothing is filtered
    filter.limit1 = filter.has_limit2 ? filter.limit2 : 0;
    filter.has_limit2 = false;
  }
}

}  // namespace openwafer
