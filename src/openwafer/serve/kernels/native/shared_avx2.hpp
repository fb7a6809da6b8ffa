// What AVX2 and AVX-512 do alike.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

// The sums of eight vectors of eight.
inline __m256 sums_of_eight(const __m256* v) {
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

// Sums of products of whole numbers; count is a multiple of 16.
inline int64_t whole_products(const int8_t* weight, const int16_t* x, int64_t count) {
  __m256i total = _mm256_setzero_si256();
  for (int64_t k = 0; k < count; k += 16) {
    const __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weight + k)));
    total = _mm256_add_epi32(
        total, _mm256_madd_epi16(w, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k))));
  }
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return int64_t(_mm_cvtsi128_si32(two)) + _mm_extract_epi32(two, 1);
}

}  // namespace
