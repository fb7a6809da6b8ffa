// From a row of logits to the likeliest token, and to weights that tokens are drawn by.
#pragma once

#include <cmath>

#include "parts.hpp"

namespace {

// Bits of a mask from a multiple of 8 on, as many as a vector has lanes, and never from behind its end.
inline uint32_t bits_of(const uint8_t* mask, int64_t from, int64_t count) {
  const uint8_t* bytes = mask + from / 8;
  return WIDTH <= 8 || count <= 8 ? bytes[0] : bytes[0] | uint32_t(bytes[1]) << 8;
}

// At most WIDTH logits, as they are; -infinity behind the end.
inline Vector logits_of(const Survey& survey, int64_t from, int64_t end) {
  const int64_t count = end - from;
  return count >= WIDTH ? load(survey.logits + from)
                        : keep(load_part(survey.logits + from, count), (1u << count) - 1);
}

// Those of them that the mask leaves.
inline Vector masked(const Survey& survey, const Vector& a, int64_t from, int64_t end) {
  return survey.mask ? keep(a, bits_of(survey.mask, from, end - from)) : a;
}

void survey(Survey& survey) {
  const auto each_chunk = [&](auto&& body) {
    for (int64_t begin = 0, chunk = 0; begin < survey.count; begin += CHUNK_WEIGHTS, ++chunk) {
      body(chunk, begin, begin + CHUNK_WEIGHTS < survey.count ? begin + CHUNK_WEIGHTS : survey.count);
    }
  };
  bool nan = false;
  float top = -INFINITY;
  each_chunk([&](int64_t chunk, int64_t begin, int64_t end) {
    Vector highest = set(-INFINITY);
    bool odd = false;
    for (int64_t i = begin; i < end; i += WIDTH) {
      const Vector a = logits_of(survey, i, end);
      odd |= has_nan(a);
      highest = maximum(highest, masked(survey, a, i, end));
    }
    nan |= odd;
    survey.maxima[chunk] = largest(highest);
    top = survey.maxima[chunk] > top ? survey.maxima[chunk] : top;
  });
  survey.largest = nan ? NAN : top;
  survey.likeliest = -1;
  if (nan || !std::isfinite(top)) return;
  each_chunk([&](int64_t chunk, int64_t begin, int64_t end) {
    if (survey.likeliest >= 0 || survey.maxima[chunk] != top) return;
    for (int64_t i = begin; i < end && survey.likeliest < 0; ++i) {
      const bool left = !survey.mask || survey.mask[i / 8] >> (i % 8) & 1;
      if (left && survey.logits[i] == top) survey.likeliest = i;
    }
  });
  if (survey.scale == 0) return;
  // What `exponential` makes of everything below its range: logits of -infinity must come out as 0.
  const Vector nothing = exponential(set(-1000)), by = set(survey.scale), from = set(top);
  each_chunk([&](int64_t chunk, int64_t begin, int64_t end) {
    Vector total = set(0);
    for (int64_t i = begin; i < end; i += WIDTH) {
      const Vector a = masked(survey, logits_of(survey, i, end), i, end);
      const Vector weight = subtract(exponential(multiply(subtract(a, from), by)), nothing);
      if (survey.weights) store_part(survey.weights + i, weight, end - i);
      total = add(total, weight);
    }
    survey.sums[chunk] = sum(total);
  });
}

Heavier heavier(const float* weights, int64_t count, float weight) {
  constexpr int64_t LANES = 64;
  float totals[LANES] = {};
  int32_t equal[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const float one = weights[i + lane];
      totals[lane] += one > weight ? one : 0.0f;
      equal[lane] += one == weight;
    }
  }
  Heavier found = {0, 0};
  for (; i < count; ++i) {
    totals[0] += weights[i] > weight ? weights[i] : 0.0f;
    equal[0] += weights[i] == weight;
  }
  Vector total = set(0);
  for (int64_t lane = 0; lane < LANES; lane += WIDTH) total = add(total, load(totals + lane));
  found.sum = sum(total);
  for (int64_t lane = 0; lane < LANES; ++lane) found.equal += equal[lane];
  return found;
}

}  // namespace
