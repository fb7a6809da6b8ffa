// Products of tokens with rows of whole numbers, exactly.
#pragma once

#include "parts.hpp"

namespace {

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

// Bytes of a prepared token.
inline int64_t whole_bytes(const Product& product) { return 4 * (product.padded + PLANE_GAP); }

void prepare_whole_token(const Product& product, int64_t token) {
  char* out = product.x + token * whole_bytes(product);
  with_type(product.type, [&](auto number) {
    const auto* from = static_cast<const decltype(number)*>(product.from) + token * product.columns;
    product.x_scale[token] = prepare_whole(from, product.columns, product.padded, out);
  });
}

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

// Sums in 32 bits hold the products of so many columns; longer rows are cut.
constexpr int64_t SEGMENT = 32768;

// A row by M tokens from `token` on.
template <int M>
inline void whole_row(const Product& product, int64_t n, int64_t token, float* out) {
  const int8_t* row = static_cast<const int8_t*>(product.weight) + n * product.columns;
  double sums[M];  // of whole numbers below 2^53
  for (int m = 0; m < M; ++m) sums[m] = double(raise_of(product.sum[n]));
  for (int64_t start = 0; start < product.columns; start += SEGMENT) {
    const Digit* x[M];
    for (int m = 0; m < M; ++m) x[m] = reinterpret_cast<const Digit*>(product.x + (token + m) * whole_bytes(product)) + start;
    const int64_t left = product.columns - start;
    int64_t parts[M];
    segment_totals<M>(row + start, x, plane_of(product.padded), left < SEGMENT ? left : SEGMENT, parts);
    for (int m = 0; m < M; ++m) sums[m] += double(parts[m]);
  }
  for (int m = 0; m < M; ++m) {
    out[m * MAX_CHUNK_ROWS] = float(sums[m] * double(product.scale[n]) * double(product.x_scale[token + m]));
  }
}

// Rows [begin, end) by all tokens. Two tokens pass over all rows before the next ones do: then the rows are in the second
// cache.
inline void multiply_whole_rows(const Product& product, int64_t begin, int64_t end, float* out) {
  for (int64_t token = 0; token < product.tokens; token += 2) {
    float* to = out + token * MAX_CHUNK_ROWS - begin;
    const bool two = token + 1 < product.tokens;
    for (int64_t n = begin; n < end; ++n) two ? whole_row<2>(product, n, token, to + n) : whole_row<1>(product, n, token, to + n);
  }
}

}  // namespace
