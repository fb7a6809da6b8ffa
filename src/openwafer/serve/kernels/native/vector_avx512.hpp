// Sixteen numbers in a register of AVX-512 (F, BW, DQ, VL).
#pragma once

#include <immintrin.h>

#include <cmath>

#include "numbers.hpp"
#include "shared_avx2.hpp"

namespace {

constexpr int WIDTH = 16;
// Of products: tokens and sums that registers hold at once, and sums of each row by each token.
constexpr int TILE_TOKENS = 8, REGISTER_SUMS = 24, SUMS = 1;

using Vector = __m512;

inline Vector set(float x) { return _mm512_set1_ps(x); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
inline Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector magnitude(Vector a) { return _mm512_abs_ps(a); }
inline float sum(Vector a) { return _mm512_reduce_add_ps(a); }
inline float largest(Vector a) { return _mm512_reduce_max_ps(a); }

inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
inline Vector load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vector load(const Bfloat* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline void store(float* p, Vector a) { _mm512_storeu_ps(p, a); }
inline void store(Half* p, Vector a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
// By whole numbers and not by BF16's own instruction, which makes subnormal numbers 0.
inline void store(Bfloat* p, Vector a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

// Numbers where a bit is set, the lowest first; -infinity elsewhere.
inline Vector keep(Vector a, uint32_t bits) { return _mm512_mask_mov_ps(set(-INFINITY), __mmask16(bits), a); }
inline bool has_nan(Vector a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }

// The sums of sixteen vectors that lie one after another.
inline Vector sums(const float* p) {
  __m256 v[16];
  for (int i = 0; i < 16; ++i) v[i] = _mm256_add_ps(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8));
  return _mm512_insertf32x8(_mm512_castps256_ps512(sums_of_eight(v)), sums_of_eight(v + 8), 1);
}

// As AVX2's: within 2 units in the last place between -87 and 88, where it stops; NaN stays NaN.
inline Vector exponential(Vector x) {
  x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), x));
  const Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, set(1.44269504f)), 0);
  Vector r = _mm512_fnmadd_ps(n, set(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, set(-2.12194440e-4f), r);
  Vector y = set(1.0f / 720);
  y = multiply_add(y, r, set(1.0f / 120));
  y = multiply_add(y, r, set(1.0f / 24));
  y = multiply_add(y, r, set(1.0f / 6));
  y = multiply_add(y, r, set(0.5f));
  y = multiply_add(y, r, set(1.0f));
  y = multiply_add(y, r, set(1.0f));
  return _mm512_scalef_ps(y, n);
}

}  // namespace
