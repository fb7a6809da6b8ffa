// The three 16-bit float formats, converted by arithmetic on bits, so that every host gives the same answer.
// Encoding starts from a double and rounds once (to nearest, ties to even): sums, products and fused multiply-adds of
// 16-bit floats are exact in a double wherever rounding could go either way, so a result is rounded once in all.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "abi.hpp"

namespace openwafer {

struct HalfShape {
  int exponent_bits, mantissa_bits, bias;
};

constexpr HalfShape half_shape(HalfFormat format) {
  switch (format) {
    case HalfFormat::BF16: return {8, 7, 127};
    case HalfFormat::CB16: return {6, 9, 42};  // "Type System in CSL" gives 6.0 as 0b0101100100000000
    default: return {5, 10, 15};
  }
}

inline float half_to_float(uint32_t bits, HalfFormat format) {
  const auto [e_bits, m_bits, bias] = half_shape(format);
  const uint32_t sign = (bits >> 15) & 1, exponent = (bits >> m_bits) & ((1u << e_bits) - 1);
  const uint32_t mantissa = bits & ((1u << m_bits) - 1), top = (1u << e_bits) - 1;
  if (exponent == top) return std::bit_cast<float>((sign << 31) | 0x7f800000u | (mantissa << (23 - m_bits)));
  if (exponent != 0) {
    return std::bit_cast<float>((sign << 31) | ((exponent + 127u - static_cast<uint32_t>(bias)) << 23) | (mantissa << (23 - m_bits)));
  }
  const float magnitude = std::ldexp(static_cast<float>(mantissa), 1 - bias - m_bits);
  return sign ? -magnitude : magnitude;
}

inline uint16_t double_to_half(double value, HalfFormat format) {
  const auto [e_bits, m_bits, bias] = half_shape(format);
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint32_t sign = static_cast<uint32_t>(bits >> 63) << 15, top = (1u << e_bits) - 1;
  if (std::isnan(value)) return static_cast<uint16_t>(sign | (top << m_bits) | (1u << (m_bits - 1)));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | (top << m_bits));
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  int exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1023;
  if (exponent < 1 - bias) exponent = 1 - bias;  // subnormal results keep the smallest exponent
  // In units of the last place: an integer after rounding.
  const double scaled = std::nearbyint(std::ldexp(magnitude, m_bits - exponent));
  uint32_t mantissa = static_cast<uint32_t>(scaled);
  if (mantissa >> (m_bits + 1)) {
    mantissa >>= 1;
    ++exponent;
  }
  if (exponent + bias >= static_cast<int>(top)) return static_cast<uint16_t>(sign | (top << m_bits));
  if (mantissa >> m_bits) {
    return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent + bias) << m_bits) |
                                 (mantissa & ((1u << m_bits) - 1)));
  }
  return static_cast<uint16_t>(sign | mantissa);
}

}  // namespace openwafer
