// From a row of logits to weights that tokens are drawn by.
#pragma once

#include "parts.hpp"

namespace {

// weights = exp((logits - largest) * scale), 0 where that is next to nothing, and the sum of each chunk of them.
void weigh(const float* logits, int64_t count, float largest, float scale, float* weights, float* sums) {
  // What `exponential` makes of everything below its range: logits of -infinity must come out as 0.
  const Vector nothing = exponential(set(-1000)), top = set(largest), by = set(scale);
  for (int64_t begin = 0; begin < count; begin += CHUNK_WEIGHTS) {
    const int64_t end = begin + CHUNK_WEIGHTS < count ? begin + CHUNK_WEIGHTS : count;
    Vector total = set(0);
    const auto weight = [&](const Vector& a) {
      return subtract(exponential(multiply(subtract(a, top), by)), nothing);
    };
    int64_t i = begin;
    for (; i + WIDTH <= end; i += WIDTH) {
      const Vector a = weight(load(logits + i));
      store(weights + i, a);
      total = add(total, a);
    }
    if (i < end) {
      store_part(weights + i, weight(load_part(logits + i, end - i)), end - i);
      total = add(total, load_part(weights + i, end - i));
    }
    *sums++ = sum(total);
  }
}

// The sum of those that are larger than `weight`.
float heavier(const float* weights, int64_t count, float weight) {
  constexpr int64_t LANES = 64;
  float totals[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const float one = weights[i + lane];
      totals[lane] += one > weight ? one : 0.0f;
    }
  }
  for (; i < count; ++i) totals[0] += weights[i] > weight ? weights[i] : 0.0f;
  Vector total = set(0);
  for (int64_t lane = 0; lane < LANES; lane += WIDTH) total = add(total, load(totals + lane));
  return sum(total);
}

}  // namespace
