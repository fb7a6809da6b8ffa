// The inner loops over Vector, which a file for one instruction set includes before this one. Everything is in an unnamed
// namespace and calls nothing of the standard library: a function that the linker shared among files would bring its
// file's instructions to processors that lack them.
#pragma once

#include "level.hpp"

#define OPENWAFER_UNROLL _Pragma("GCC unroll 16")
#ifdef _MSC_VER
#undef OPENWAFER_UNROLL
#define OPENWAFER_UNROLL
#endif

namespace {

using namespace openwafer::serve;

template <class T>
inline Vector load_part(const T* p, int64_t count) {
  if (count >= WIDTH) return load(p);
  float part[WIDTH] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = to_float(p[i]);
  return load(part);
}

template <class T>
inline void store_part(T* p, const Vector& a, int64_t count) {
  if (count >= WIDTH) return store(p, a);
  float part[WIDTH];
  store(part, a);
  for (int64_t i = 0; i < count; ++i) from_float(part[i], p[i]);
}

template <class T>
inline Vector rounded(const Vector& a) {
  T there[WIDTH];
  store(there, a);
  return load(there);
}
template <>
inline Vector rounded<float>(const Vector& a) {
  return a;
}

template <class F>
inline void with_type(Type type, F body) {
  switch (type) {
    case Type::f32: return body(float{});
    case Type::f16: return body(Half{});
    default: return body(Bfloat{});
  }
}

inline float square_root(float x) {
#if defined(_MSC_VER)
  return ::sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// ---- preparing a token

// Whole numbers: x / scale rounded, with a power of two as scale that makes the largest take 23 bits. They are kept as
// x = 4096 high + low, each of 16 bits with sign, low's plane before high's. Numbers with as many bits as bfloat16 has are
// exact down to 2^-16 of the largest.
template <class T>
float whole_scale(const T* x, int64_t columns) {
  Vector top = set(0);
  Vector check = set(0);
  for (int64_t i = 0; i < columns; i += WIDTH) {
    const Vector a = load_part(x + i, columns - i);
    top = maximum(top, magnitude(a));
    check = multiply_add(a, set(0), check);  // NaN where a number is not finite
  }
  const float all = sum(check);
  if (all != all) return all;
  const uint32_t exponent = bits_of(largest(top)) >> 23;  // the largest is below 2^(exponent - 126)
  return float_of(((exponent < 32 ? 32 : exponent) - 22) << 23);
}

template <class T>
float prepare_whole(const T* x, int64_t columns, int64_t padded, char* out) {
  const float scale = whole_scale(x, columns);
  const bool finite = scale == scale;
  const Vector inverse = set(finite ? float_of((254u << 23) - bits_of(scale)) : 0);
  for (int64_t start = 0; start < padded; start += WIDTH) {
    float sizes[WIDTH] = {};
    if (finite && start < columns) store(sizes, multiply(load_part(x + start, columns - start), inverse));
    for (int i = 0; i < WIDTH; ++i) {
      int32_t whole = int32_t(sizes[i] + (sizes[i] < 0 ? -0.5f : 0.5f));
      whole = whole > 0x7fffff ? 0x7fffff : whole < -0x7fffff ? -0x7fffff : whole;
#ifdef OPENWAFER_VNNI
      // three bytes without sign of whole + 2^23, each in a plane of its own
      const uint32_t raised = uint32_t(whole + 0x800000);
      for (int digit = 0; digit < 3; ++digit) out[digit * (padded + PLANE_GAP) + start + i] = char(raised >> (8 * digit));
#else
      const int32_t high = (whole + 2048) >> 12;
      reinterpret_cast<int16_t*>(out)[start + i] = int16_t(whole - high * 4096);
      reinterpret_cast<int16_t*>(out)[padded + start + i] = int16_t(high);
#endif
    }
  }
  return scale;
}

void prepare(Type weight, Type type, const void* x, int64_t columns, int64_t padded, void* out, float* scale) {
  with_type(type, [&](auto number) {
    using T = decltype(number);
    const T* from = static_cast<const T*>(x);
    if (weight == Type::i8) {
      *scale = prepare_whole(from, columns, padded, static_cast<char*>(out));
      return;
    }
#ifdef OPENWAFER_BF16
    if (weight == Type::bf16) {
      __builtin_memcpy(out, x, size_t(columns) * 2);
      __builtin_memset(static_cast<char*>(out) + columns * 2, 0, size_t(padded - columns) * 2);
      return;
    }
#endif
    float* to = static_cast<float*>(out);
    for (int64_t i = 0; i < padded; i += WIDTH) {
      store(to + i, i < columns ? load_part(from + i, columns - i) : set(0));
    }
  });
}

// ---- products

// Sums in 32 bits hold the products of so many columns of whole numbers; longer rows are cut. A row is read from end to end
// before the next one: that is what processors fetch ahead best, and it is worth more than tokens that stay in the first
// cache (measured with rows of 5632 bfloat16s: 31 GB/s, and 12 by columns of 2048).
constexpr int64_t SEGMENT = 32768;

// One row's part by M tokens' parts. Vector i of the row is added to sum i mod 2 of each token, whatever M is, so that a
// token's result does not depend on the tokens beside it.
template <int M, class W>
inline void segment_products(const W* weight, const float* const* x, int64_t columns, float* out) {
  Vector sums[M][2];
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = set(0);
  const auto step = [&](int64_t k, int a, const Vector& w) {
    OPENWAFER_UNROLL
    for (int m = 0; m < M; ++m) sums[m][a] = multiply_add(w, load(x[m] + k), sums[m][a]);
  };
  int64_t k = 0;
  for (; k + 2 * WIDTH <= columns; k += 2 * WIDTH) {
    step(k, 0, load(weight + k));
    step(k + WIDTH, 1, load(weight + k + WIDTH));
  }
  for (int a = 0; k < columns; ++a, k += WIDTH) step(k, a, load_part(weight + k, columns - k));
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) out[m] = sum(add(sums[m][0], sums[m][1]));
}

#ifdef OPENWAFER_BF16
// Pairs of products are added up by one instruction; it takes subnormal numbers for 0.
template <int M>
inline void segment_products(const Bfloat* weight, const Bfloat* const* x, int64_t columns, float* out) {
  __m512 sums[M][2];
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = _mm512_setzero_ps();
  const auto step = [&](int64_t k, int a, __m512i w) {
    OPENWAFER_UNROLL
    for (int m = 0; m < M; ++m) {
      sums[m][a] = _mm512_dpbf16_ps(sums[m][a], __m512bh(w), __m512bh(_mm512_loadu_si512(x[m] + k)));
    }
  };
  int64_t k = 0;
  for (; k + 64 <= columns; k += 64) {
    step(k, 0, _mm512_loadu_si512(weight + k));
    step(k + 32, 1, _mm512_loadu_si512(weight + k + 32));
  }
  for (int a = 0; k < columns; ++a, k += 32) {
    const int64_t left = columns - k;
    const __mmask32 there = left >= 32 ? ~__mmask32(0) : (__mmask32(1) << left) - 1;
    step(k, a, _mm512_maskz_loadu_epi16(there, weight + k));
  }
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) out[m] = sum(add(sums[m][0], sums[m][1]));
}
#endif

// The same of whole numbers, exactly. Sums of 32 bits hold a segment's products. `plane`: how far planes are apart.
#ifdef OPENWAFER_VNNI
using Digit = uint8_t;

template <int M>
inline void segment_totals(const int8_t* weight, const Digit* const* x, int64_t plane, int64_t columns, int64_t* out) {
  constexpr int PARTS = M == 1 ? 2 : 1;  // sums beside each other, to hide how long an addition takes
  __m512i sums[M][3][PARTS];
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) {
    OPENWAFER_UNROLL
    for (int d = 0; d < 3; ++d) {
      OPENWAFER_UNROLL
      for (int p = 0; p < PARTS; ++p) sums[m][d][p] = _mm512_setzero_si512();
    }
  }
  const auto step = [&](int64_t k, int p, __m512i w) {
    OPENWAFER_UNROLL
    for (int m = 0; m < M; ++m) {
      OPENWAFER_UNROLL
      for (int d = 0; d < 3; ++d) {
        sums[m][d][p] = _mm512_dpbusd_epi32(sums[m][d][p], _mm512_loadu_si512(x[m] + d * plane + k), w);
      }
    }
  };
  int64_t k = 0;
  for (; k + 64 * PARTS <= columns; k += 64 * PARTS) {
    OPENWAFER_UNROLL
    for (int p = 0; p < PARTS; ++p) step(k + 64 * p, p, _mm512_loadu_si512(weight + k + 64 * p));
  }
  for (; k < columns; k += 64) {
    const int64_t left = columns - k;
    const __mmask64 there = left >= 64 ? ~__mmask64(0) : (__mmask64(1) << left) - 1;
    step(k, 0, _mm512_maskz_loadu_epi8(there, weight + k));
  }
  OPENWAFER_UNROLL
  for (int m = 0; m < M; ++m) {
    __m512i wide = _mm512_setzero_si512();
    OPENWAFER_UNROLL
    for (int d = 0; d < 3; ++d) {
      const __m512i all = _mm512_add_epi32(sums[m][d][0], PARTS == 2 ? sums[m][d][PARTS - 1] : _mm512_setzero_si512());
      const __m512i eight = _mm512_add_epi64(
          _mm512_cvtepi32_epi64(_mm512_castsi512_si256(all)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(all, 1)));
      wide = _mm512_add_epi64(wide, _mm512_slli_epi64(eight, 8 * d));
    }
    out[m] = _mm512_reduce_add_epi64(wide);
  }
}

inline int64_t plane_of(int64_t padded) { return padded + PLANE_GAP; }
inline int64_t raise_of(int32_t sum) { return -int64_t(sum) * 0x800000; }  // what 2^23 in each number of x added
#else
using Digit = int16_t;

template <int M>
inline void segment_totals(const int8_t* weight, const Digit* const* x, int64_t plane, int64_t columns, int64_t* out) {
  const int64_t whole = columns / 16 * 16;
  for (int m = 0; m < M; ++m) {
    int64_t low = whole_products(weight, x[m], whole), high = whole_products(weight, x[m] + plane, whole);
    for (int64_t k = whole; k < columns; ++k) {
      low += weight[k] * x[m][k];
      high += weight[k] * x[m][plane + k];
    }
    out[m] = high * 4096 + low;
  }
}

inline int64_t plane_of(int64_t padded) { return padded; }
inline int64_t raise_of(int32_t) { return 0; }
#endif

// As what tokens are kept for products with a matrix of W, and how many are multiplied at once.
template <class W>
struct Kept {
  using Number = float;
  using Sum = float;
  static constexpr int tile = TILE_TOKENS;
};
template <>
struct Kept<int8_t> {
  using Number = Digit;
  using Sum = double;  // of whole numbers, below 2^53
  static constexpr int tile = TILE_TOKENS;
};
#ifdef OPENWAFER_BF16
template <>
struct Kept<Bfloat> {
  using Number = Bfloat;
  using Sum = float;
  static constexpr int tile = 4;
};
#endif

template <int M, class W>
inline void row(const Product& product, int64_t n, int64_t token, typename Kept<W>::Sum* out) {
  using Number = typename Kept<W>::Number;
  typename Kept<W>::Sum sums[M] = {};
  if constexpr (sizeof(W) == 1) {
    for (int m = 0; m < M; ++m) sums[m] = double(raise_of(product.sum[n]));
  }
  for (int64_t start = 0; start < product.columns; start += SEGMENT) {
    const int64_t count = product.columns - start < SEGMENT ? product.columns - start : SEGMENT;
    const W* weight = static_cast<const W*>(product.weight) + n * product.columns + start;
    const Number* x[M];
    OPENWAFER_UNROLL
    for (int m = 0; m < M; ++m) {
      x[m] = reinterpret_cast<const Number*>(product.x + (token + m) * product.x_bytes) + start;
    }
    if constexpr (sizeof(W) == 1) {
      int64_t parts[M];
      segment_totals<M>(weight, x, plane_of(product.padded), count, parts);
      for (int m = 0; m < M; ++m) sums[m] += double(parts[m]);
    } else {
      float parts[M];
      segment_products<M>(weight, x, count, parts);
      for (int m = 0; m < M; ++m) sums[m] += parts[m];
    }
  }
  for (int m = 0; m < M; ++m) out[m * MAX_CHUNK_ROWS] = sums[m];
}

template <int M, class W>
inline void some_tokens(
    const Product& product, int64_t begin, int64_t end, int64_t& token, typename Kept<W>::Sum* sums) {
  for (; token + M <= product.tokens; token += M) {
    for (int64_t n = begin; n < end; ++n) row<M, W>(product, n, token, sums + token * MAX_CHUNK_ROWS + n - begin);
  }
}

// Few tokens pass over all rows of a chunk before the next ones do: then the rows are in the second cache.
template <class W>
inline void rows_of(const Product& product, int64_t begin, int64_t end, typename Kept<W>::Sum* sums) {
  int64_t token = 0;
  if constexpr (Kept<W>::tile >= 4) some_tokens<4, W>(product, begin, end, token, sums);
  if constexpr (Kept<W>::tile >= 2) some_tokens<2, W>(product, begin, end, token, sums);
  some_tokens<1, W>(product, begin, end, token, sums);
}

template <class T>
inline void finish(const Product& product, int64_t token, int64_t begin, int64_t end, const float* sums) {
  const int64_t at = token * product.rows + begin;
  T* y = static_cast<T*>(product.y) + at;
  const T* bias = product.bias ? static_cast<const T*>(product.bias) + begin : nullptr;
  const T* residual = product.residual ? static_cast<const T*>(product.residual) + at : nullptr;
  for (int64_t i = 0; i < end - begin; i += WIDTH) {
    const int64_t left = end - begin - i;
    Vector a = load_part(sums + i, left);
    if (bias) a = add(a, load_part(bias + i, left));
    if (residual) a = add(load_part(residual + i, left), rounded<T>(a));
    store_part(y + i, a, left);
  }
}

void rows(const Product& product, int64_t begin, int64_t end) {
  alignas(64) float sums[MAX_TOKENS * MAX_CHUNK_ROWS];
  switch (product.weight_type) {
    case Type::f32: rows_of<float>(product, begin, end, sums); break;
    case Type::f16: rows_of<Half>(product, begin, end, sums); break;
    case Type::bf16: rows_of<Bfloat>(product, begin, end, sums); break;
    case Type::i8: {
      alignas(64) double exact[MAX_TOKENS * MAX_CHUNK_ROWS];
      rows_of<int8_t>(product, begin, end, exact);
      for (int64_t token = 0; token < product.tokens; ++token) {
        const int64_t at = token * MAX_CHUNK_ROWS - begin;
        for (int64_t n = begin; n < end; ++n) {
          sums[at + n] = float(exact[at + n] * double(product.scale[n]) * double(product.x_scale[token]));
        }
      }
      break;
    }
  }
  with_type(product.type, [&](auto number) {
    for (int64_t token = 0; token < product.tokens; ++token) {
      finish<decltype(number)>(product, token, begin, end, sums + token * MAX_CHUNK_ROWS);
    }
  });
}

// ---- between products

void rms_norm(Type type, const void* x, const void* weight, int64_t count, float epsilon, void* out) {
  with_type(type, [&](auto number) {
    using T = decltype(number);
    const T *from = static_cast<const T*>(x), *by = static_cast<const T*>(weight);
    Vector squares = set(0);
    for (int64_t i = 0; i < count; i += WIDTH) {
      const Vector a = load_part(from + i, count - i);
      squares = multiply_add(a, a, squares);
    }
    const Vector factor = set(1.0f / square_root(sum(squares) / float(count) + epsilon));
    for (int64_t i = 0; i < count; i += WIDTH) {
      const Vector a = rounded<T>(multiply(load_part(from + i, count - i), factor));
      store_part(static_cast<T*>(out) + i, multiply(load_part(by + i, count - i), a), count - i);
    }
  });
}

void rotate(Type type, const void* x, const float* cosine, const float* sine, int64_t half, void* out) {
  with_type(type, [&](auto number) {
    using T = decltype(number);
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(out);
    for (int64_t i = 0; i < half; i += WIDTH) {
      const int64_t left = half - i;
      const Vector a = load_part(from + i, left), b = load_part(from + half + i, left);
      const Vector c = load_part(cosine + i, left), s = load_part(sine + i, left);
      store_part(to + i, subtract(multiply(a, c), multiply(b, s)), left);
      store_part(to + half + i, multiply_add(b, c, multiply(a, s)), left);
    }
  });
}

void swiglu(Type type, const void* gate, const void* up, int64_t count, void* out) {
  with_type(type, [&](auto number) {
    using T = decltype(number);
    for (int64_t i = 0; i < count; i += WIDTH) {
      const int64_t left = count - i;
      const Vector g = load_part(static_cast<const T*>(gate) + i, left);
      const Vector one = set(1);
      const Vector silu = rounded<T>(divide(g, add(one, exponential(subtract(set(0), g)))));
      store_part(static_cast<T*>(out) + i, multiply(silu, load_part(static_cast<const T*>(up) + i, left)), left);
    }
  });
}

// ---- attention

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

// ---- measuring

float read(const float* numbers, int64_t count) {
  Vector tops[8];
  OPENWAFER_UNROLL
  for (int a = 0; a < 8; ++a) tops[a] = set(0);
  for (int64_t i = 0; i + 8 * WIDTH <= count; i += 8 * WIDTH) {
    OPENWAFER_UNROLL
    for (int a = 0; a < 8; ++a) tops[a] = maximum(tops[a], load(numbers + i + a * WIDTH));
  }
  OPENWAFER_UNROLL
  for (int a = 1; a < 8; ++a) tops[0] = maximum(tops[0], tops[a]);
  return largest(tops[0]);
}

}  // namespace
