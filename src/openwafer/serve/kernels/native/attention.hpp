// Attention of single tokens over a paged cache.
#pragma once

#include "parts.hpp"

namespace {

constexpr float LOWEST = -3.0e38f;
constexpr int64_t MAX_HEAD_DIM = 256;

// H query heads over one block's tokens [first, last); `query` is scaled, in float32. Sums so far are multiplied by what
// the largest score grew by.
template <int H, class T>
void attend_block(
    const float* query, const T* keys, const T* values, int64_t dim, int64_t first, int64_t last, float* const* partials) {
  alignas(64) float scores[H][BLOCK_TOKENS];
  alignas(64) float lanes[H][WIDTH * WIDTH];
  const int64_t start = first / WIDTH * WIDTH, stop = (last + WIDTH - 1) / WIDTH * WIDTH;
  for (int64_t group = start; group < stop; group += WIDTH) {
    for (int64_t t = 0; t < WIDTH; ++t) {
      const T* key = keys + (group + t) * dim;
      Vector sums[H];
      OPENWAFER_UNROLL
      for (int h = 0; h < H; ++h) sums[h] = set(0);
      for (int64_t d = 0; d < dim; d += WIDTH) {
        const Vector k = load(key + d);
        OPENWAFER_UNROLL
        for (int h = 0; h < H; ++h) sums[h] = multiply_add(k, load(query + h * dim + d), sums[h]);
      }
      OPENWAFER_UNROLL
      for (int h = 0; h < H; ++h) store(lanes[h] + t * WIDTH, sums[h]);
    }
    OPENWAFER_UNROLL
    for (int h = 0; h < H; ++h) store(scores[h] + group, sums(lanes[h]));
  }
  float grown[H];
  for (int h = 0; h < H; ++h) {
    for (int64_t t = start; t < first; ++t) scores[h][t] = LOWEST;
    for (int64_t t = last; t < stop; ++t) scores[h][t] = LOWEST;
    Vector top = set(partials[h][dim]);
    for (int64_t t = start; t < stop; t += WIDTH) top = maximum(load(scores[h] + t), top);
    const float high = largest(top);
    Vector total = set(0);
    for (int64_t t = start; t < stop; t += WIDTH) {
      const Vector weight = exponential(subtract(load(scores[h] + t), set(high)));
      store(scores[h] + t, weight);
      total = add(total, weight);
    }
    float old[WIDTH];
    store(old, exponential(set(partials[h][dim] - high)));
    grown[h] = old[0];
    partials[h][dim] = high;
    partials[h][dim + 1] = partials[h][dim + 1] * grown[h] + sum(total);
  }
  for (int64_t d = 0; d < dim; d += WIDTH) {
    Vector sums[H];
    OPENWAFER_UNROLL
    for (int h = 0; h < H; ++h) sums[h] = multiply(load(partials[h] + d), set(grown[h]));
    for (int64_t t = first; t < last; ++t) {
      const Vector v = load(values + t * dim + d);
      OPENWAFER_UNROLL
      for (int h = 0; h < H; ++h) sums[h] = multiply_add(set(scores[h][t]), v, sums[h]);
    }
    OPENWAFER_UNROLL
    for (int h = 0; h < H; ++h) store(partials[h] + d, sums[h]);
  }
}

inline float* partial_of(const Attention& a, int64_t place, int64_t head, int64_t piece) {
  return a.partials + ((place * a.heads + head) * a.pieces + piece) * (a.head_dim + 2);
}

template <int H, class T>
void attend_heads(const Attention& a, int64_t place, int64_t head, int64_t head_kv, int64_t piece) {
  const Place& at = a.places[place];
  const Range range = piece_range(a, at, piece);
  const int64_t dim = a.head_dim, block_size = BLOCK_TOKENS * dim;
  alignas(64) float query[H * MAX_HEAD_DIM];
  const T* from = static_cast<const T*>(a.query) + (at.token * a.heads + head) * dim;
  const Vector scale = set(1.0f / square_root(float(dim)));
  for (int64_t i = 0; i < H * dim; i += WIDTH) store(query + i, multiply(load(from + i), scale));
  float* partials[H];
  for (int h = 0; h < H; ++h) {
    partials[h] = partial_of(a, place, head + h, piece);
    for (int64_t i = 0; i < dim; ++i) partials[h][i] = 0;
    partials[h][dim] = LOWEST;
    partials[h][dim + 1] = 0;
  }
  for (int64_t token = range.first; token < range.last;) {
    const int64_t number = token / BLOCK_TOKENS, start = number * BLOCK_TOKENS;
    const int64_t last = range.last < start + BLOCK_TOKENS ? range.last : start + BLOCK_TOKENS;
    const int64_t block = (a.tables[at.sequence * a.table_width + number] * a.heads_kv + head_kv) * block_size;
    attend_block<H, T>(
        query, static_cast<const T*>(a.keys) + block, static_cast<const T*>(a.values) + block, dim, token - start,
        last - start, partials);
    token = last;
  }
}

void attend(const Attention& a, int64_t place, int64_t head_kv, int64_t piece) {
  with_type(a.type, [&](auto number) {
    using T = decltype(number);
    const int64_t group = a.heads / a.heads_kv;
    int64_t head = head_kv * group;
    const int64_t end = head + group;
    for (; head + 4 <= end; head += 4) attend_heads<4, T>(a, place, head, head_kv, piece);
    for (; head + 2 <= end; head += 2) attend_heads<2, T>(a, place, head, head_kv, piece);
    for (; head < end; ++head) attend_heads<1, T>(a, place, head, head_kv, piece);
  });
}

void merge(const Attention& a, int64_t place) {
  with_type(a.type, [&](auto number) {
    using T = decltype(number);
    const Place& at = a.places[place];
    for (int64_t head = 0; head < a.heads; ++head) {
      alignas(64) float out[MAX_HEAD_DIM] = {};
      float high = LOWEST, total = 0;
      for (int64_t piece = 0; piece < a.pieces; ++piece) {
        const Range range = piece_range(a, at, piece);
        const float* partial = partial_of(a, place, head, piece);
        if (range.last > range.first && !(partial[a.head_dim] <= high)) high = partial[a.head_dim];
      }
      for (int64_t piece = 0; piece < a.pieces; ++piece) {
        const Range range = piece_range(a, at, piece);
        if (range.last <= range.first) continue;
        const float* partial = partial_of(a, place, head, piece);
        float factor[WIDTH];
        store(factor, exponential(set(partial[a.head_dim] - high)));
        total += partial[a.head_dim + 1] * factor[0];
        for (int64_t d = 0; d < a.head_dim; d += WIDTH) {
          store(out + d, multiply_add(load(partial + d), set(factor[0]), load(out + d)));
        }
      }
      T* to = static_cast<T*>(a.out) + (at.token * a.heads + head) * a.head_dim;
      for (int64_t d = 0; d < a.head_dim; d += WIDTH) store(to + d, divide(load(out + d), set(total)));
    }
  });
}

}  // namespace
