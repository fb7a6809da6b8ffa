// 16-bit floating point, one number at a time, for what is not a whole vector and for processors without instructions.
#pragma once

#include <cstdint>

namespace {

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

inline float to_float(float x) { return x; }
inline float to_float(Bfloat x) { return float_of(uint32_t(x.bits) << 16); }

inline float to_float(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest >= 0x400) return float_of(sign | ((rest << 13) + (112u << 23)));
  const float small = float(rest) * 0x1p-24f;
  return sign ? -small : small;
}

inline void from_float(float x, float& out) { out = x; }

// to the nearest, ties to even
inline void from_float(float x, Bfloat& out) {
  const uint32_t bits = bits_of(x);
  out.bits = x != x ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void from_float(float x, Half& out) {
  const uint32_t bits = bits_of(x), size = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (size > 0x7f800000) {
    out.bits = uint16_t(sign | 0x7e00);
  } else if (size >= 0x477ff000) {  // rounds to 65536
    out.bits = uint16_t(sign | 0x7c00);
  } else if (size < 0x38800000) {  // subnormal: adding 0.5 rounds at the right place
    out.bits = uint16_t(sign | (bits_of(float_of(size) + 0.5f) - 0x3f000000));
  } else {
    out.bits = uint16_t(sign | ((size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13));
  }
}

}  // namespace
