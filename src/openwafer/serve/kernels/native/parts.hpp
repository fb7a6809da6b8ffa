// What the inner loops are made of, over Vector.
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

}  // namespace
