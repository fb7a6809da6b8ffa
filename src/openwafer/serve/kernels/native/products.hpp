// Products of tokens with rows of floating-point numbers.
//
// Of a row by one token memory is the bound: rows are read from end to end, one after another, which is what processors
// fetch ahead best. Of a row by more tokens arithmetic comes near the bound, and what is read must not push the tokens
// out of the first cache, where each is needed again with every row. So a chunk's rows are multiplied by blocks of columns,
// several rows at a time, and meanwhile the next chunk is asked for, line by line, into the second cache. Measured with 8
// tokens and rows of 5632 bfloat16s on one thread: 20 GB/s; 13 without blocks, 12 without asking ahead, 7 row by row.
#pragma once

#include "parts.hpp"

namespace {

// How rows of W are multiplied: what tokens are kept as, and a vector of a row by one of a token.
template <class W>
struct Way {
  using Number = float;
  static constexpr int64_t LANES = WIDTH;
  static Vector weights(const W* p) { return load(p); }
  static Vector weights(const W* p, int64_t count) { return load_part(p, count); }
  static Vector multiply_add(const Vector& w, const float* x, const Vector& sum) { return ::multiply_add(w, load(x), sum); }
};

#ifdef OPENWAFER_BF16
// Pairs of products are added up by one instruction; it takes subnormal numbers for 0.
template <>
struct Way<Bfloat> {
  using Number = Bfloat;
  static constexpr int64_t LANES = 32;
  static __m512i weights(const Bfloat* p) { return _mm512_loadu_si512(p); }
  static __m512i weights(const Bfloat* p, int64_t count) {
    return count >= LANES ? weights(p) : _mm512_maskz_loadu_epi16((__mmask32(1) << count) - 1, p);
  }
  static Vector multiply_add(__m512i w, const Bfloat* x, Vector sum) {
    return _mm512_dpbf16_ps(sum, __m512bh(w), __m512bh(_mm512_loadu_si512(x)));
  }
};
#endif

// Tokens are kept in tiles of up to TILE_TOKENS, a tile's tokens vector by vector in turn, and zeros up to `padded`.
inline int64_t tile_tokens(int64_t tokens, int64_t first) {
  return tokens - first < TILE_TOKENS ? tokens - first : TILE_TOKENS;
}

template <class W>
void prepare_token(const Product& product, int64_t token) {
  using Number = typename Way<W>::Number;
  constexpr int64_t LANES = Way<W>::LANES;
  const int64_t place = token % TILE_TOKENS, first = token - place, tile = tile_tokens(product.tokens, first);
  Number* out = reinterpret_cast<Number*>(product.x) + first * product.padded + place * LANES;
  const W* from = static_cast<const W*>(product.from) + token * product.columns;
  for (int64_t i = 0; i < product.padded; i += LANES, out += tile * LANES) {
    const int64_t left = product.columns - i;
    if constexpr (sizeof(Number) == sizeof(W)) {
      const int64_t count = left < 0 ? 0 : left < LANES ? left : LANES;
      for (int64_t j = 0; j < count; ++j) out[j] = from[i + j];
      for (int64_t j = count; j < LANES; ++j) out[j] = Number{};
    } else {
      store(out, left > 0 ? load_part(from + i, left) : set(0));
    }
  }
}

inline void ask_for([[maybe_unused]] const char* line) {
#if defined(__GNUC__)
  __builtin_prefetch(line, 0, 2);
#endif
}

// `count` columns of R rows by those of M tokens, added to sums: vector i to sum i mod SUMS, whatever R and M are, so that
// a token's result does not depend on the tokens beside it.
template <class W, int R, int M, bool AHEAD>
inline void accumulate(
    const W* weight, int64_t columns, const typename Way<W>::Number* x, int64_t count, Vector (&sums)[R][M][SUMS],
    const char* ahead) {
  using By = Way<W>;
  constexpr int64_t LANES = By::LANES;
  const auto step = [&](int64_t k, int s, const auto& vector_of) {
    decltype(By::weights(weight)) w[R];
    OPENWAFER_UNROLL
    for (int r = 0; r < R; ++r) {
      w[r] = vector_of(weight + r * columns + k);
      if constexpr (AHEAD) ask_for(ahead + (k * R + r * LANES) * int64_t(sizeof(W)));
    }
    OPENWAFER_UNROLL
    for (int m = 0; m < M; ++m) {
      OPENWAFER_UNROLL
      for (int r = 0; r < R; ++r) sums[r][m][s] = By::multiply_add(w[r], x + k * M + m * LANES, sums[r][m][s]);
    }
  };
  int64_t k = 0;
  for (; k + SUMS * LANES <= count; k += SUMS * LANES) {
    OPENWAFER_UNROLL
    for (int s = 0; s < SUMS; ++s) step(k + s * LANES, s, [](const W* p) { return By::weights(p); });
  }
  for (int s = 0; k < count; ++s, k += LANES) {
    step(k, s, [&](const W* p) { return By::weights(p, count - k); });
  }
}

inline float total(const Vector (&sums)[SUMS]) {
  Vector all = sums[0];
  OPENWAFER_UNROLL
  for (int s = 1; s < SUMS; ++s) all = add(all, sums[s]);
  return sum(all);
}

template <class W>
void one_token(const Product& product, int64_t begin, int64_t end, float* out) {
  for (int64_t n = begin; n < end; ++n) {
    Vector sums[1][1][SUMS];
    for (Vector& s : sums[0][0]) s = set(0);
    const W* weight = static_cast<const W*>(product.weight) + n * product.columns;
    const auto* x = reinterpret_cast<const typename Way<W>::Number*>(product.x);
    accumulate<W, 1, 1, false>(weight, product.columns, x, product.columns, sums, nullptr);
    out[n - begin] = total(sums[0][0]);
  }
}

// A block of columns: where it lies in the rows, and whether it is the first and the last.
struct Columns {
  int64_t first, count;
  bool begins, ends;
};

// R rows of a chunk, from `n` on, by M tokens from `token` on; between blocks of columns sums are in `kept`.
template <class W, int R, int M, bool AHEAD>
inline void tile(
    const Product& product, const W* chunk, int64_t n, int64_t token, const Columns& block, const char* ahead, float* kept,
    float* out) {
  Vector sums[R][M][SUMS];
  float* at = kept + (token * MAX_CHUNK_ROWS + n * M) * SUMS * WIDTH;
  const auto each = [&](const auto& act) {
    OPENWAFER_UNROLL
    for (int r = 0; r < R; ++r) {
      OPENWAFER_UNROLL
      for (int m = 0; m < M; ++m) {
        OPENWAFER_UNROLL
        for (int s = 0; s < SUMS; ++s) act(sums[r][m][s], at + ((r * M + m) * SUMS + s) * WIDTH);
      }
    }
  };
  if (block.begins) {
    each([](Vector& sum, const float*) { sum = set(0); });
  } else {
    each([](Vector& sum, const float* from) { sum = load(from); });
  }
  const auto* x = reinterpret_cast<const typename Way<W>::Number*>(product.x) + token * product.padded + block.first * M;
  accumulate<W, R, M, AHEAD>(chunk + n * product.columns + block.first, product.columns, x, block.count, sums, ahead);
  if (block.ends) {
    OPENWAFER_UNROLL
    for (int r = 0; r < R; ++r) {
      OPENWAFER_UNROLL
      for (int m = 0; m < M; ++m) out[(token + m) * MAX_CHUNK_ROWS + n + r] = total(sums[r][m]);
    }
    return;
  }
  each([](const Vector& sum, float* to) { store(to, sum); });
}

// As many rows at a time as registers hold sums for.
constexpr int tile_rows(int tokens) {
  const int rows = REGISTER_SUMS / (tokens * SUMS);
  return rows > 6 ? 6 : rows < 1 ? 1 : rows;
}

// All rows of a chunk by one tile of tokens and one block of columns; returns how far ahead it has asked.
template <class W, int M, bool AHEAD>
const char* tiles(
    const Product& product, const W* chunk, int64_t rows, int64_t token, const Columns& block, const char* ahead, float* kept,
    float* out) {
  constexpr int R = tile_rows(M);
  const int64_t row_bytes = block.count * int64_t(sizeof(W));
  int64_t n = 0;
  for (; n + R <= rows; n += R, ahead += R * row_bytes) {
    tile<W, R, M, AHEAD>(product, chunk, n, token, block, ahead, kept, out);
  }
  for (; n < rows; ++n, ahead += row_bytes) tile<W, 1, M, AHEAD>(product, chunk, n, token, block, ahead, kept, out);
  return ahead;
}

template <class W, bool AHEAD, int M = TILE_TOKENS, class... Rest>
const char* tiles_of(int64_t tokens, Rest&&... rest) {
  if constexpr (M > 1) {
    if (tokens < M) return tiles_of<W, AHEAD, M - 1>(tokens, rest...);
  }
  return tiles<W, M, AHEAD>(rest...);
}

// Of a token's columns: so much that 8 tokens' take half of the first cache.
constexpr int64_t BLOCK_BYTES = 2 * 1024;

template <class W>
void some_tokens(const Product& product, int64_t begin, int64_t end, float* out) {
  alignas(64) float kept[MAX_CHUNK_ROWS * MAX_TOKENS * SUMS * WIDTH];
  const W* all = static_cast<const W*>(product.weight);
  const W* chunk = all + begin * product.columns;
  const int64_t next = begin + product.ahead < product.rows ? begin + product.ahead : begin;
  const char* ahead = reinterpret_cast<const char*>(all + next * product.columns);
  constexpr int64_t most = BLOCK_BYTES / sizeof(typename Way<W>::Number);
  for (int64_t first = 0; first < product.columns; first += most) {
    const int64_t left = product.columns - first;
    const Columns block{first, left < most ? left : most, first == 0, left <= most};
    ahead = tiles_of<W, true>(tile_tokens(product.tokens, 0), product, chunk, end - begin, 0, block, ahead, kept, out);
    if constexpr (TILE_TOKENS < MAX_TOKENS) {
      for (int64_t token = TILE_TOKENS; token < product.tokens; token += TILE_TOKENS) {
        const int64_t count = tile_tokens(product.tokens, token);
        tiles_of<W, false>(count, product, chunk, end - begin, token, block, ahead, kept, out);
      }
    }
  }
}

// A token that takes more of the first cache is multiplied by blocks of columns even if it is alone.
constexpr int64_t LINEAR_BYTES = 16 * 1024;

// Rows [begin, end) by all tokens.
template <class W>
void multiply_rows(const Product& product, int64_t begin, int64_t end, float* out) {
  const bool fits = product.columns * int64_t(sizeof(typename Way<W>::Number)) <= LINEAR_BYTES;
  if (product.tokens == 1 && fits) return one_token<W>(product, begin, end, out);
  some_tokens<W>(product, begin, end, out);
}

}  // namespace
