// Eight numbers as a loop: what any compiler makes of it.
#pragma once

#include <cmath>

#include "numbers.hpp"

namespace {

constexpr int WIDTH = 8;
// Of products: tokens and sums that registers hold at once, and sums of each row by each token.
constexpr int TILE_TOKENS = 2, REGISTER_SUMS = 4, SUMS = 2;

struct Vector {
  float v[WIDTH];
};

#define EACH for (int i = 0; i < WIDTH; ++i)
inline Vector set(float x) { Vector r; EACH r.v[i] = x; return r; }
inline Vector add(Vector a, const Vector& b) { EACH a.v[i] += b.v[i]; return a; }
inline Vector subtract(Vector a, const Vector& b) { EACH a.v[i] -= b.v[i]; return a; }
inline Vector multiply(Vector a, const Vector& b) { EACH a.v[i] *= b.v[i]; return a; }
inline Vector divide(Vector a, const Vector& b) { EACH a.v[i] /= b.v[i]; return a; }
inline Vector maximum(Vector a, const Vector& b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline Vector multiply_add(const Vector& a, const Vector& b, Vector c) { EACH c.v[i] += a.v[i] * b.v[i]; return c; }
inline Vector magnitude(Vector a) { EACH a.v[i] = __builtin_fabsf(a.v[i]); return a; }
inline Vector exponential(Vector a) { EACH a.v[i] = ::expf(a.v[i]); return a; }
template <class T> inline Vector load(const T* p) { Vector r; EACH r.v[i] = to_float(p[i]); return r; }
template <class T> inline void store(T* p, const Vector& a) { EACH from_float(a.v[i], p[i]); }
#undef EACH

inline float sum(const Vector& a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float largest(const Vector& a) {
  float r = a.v[0];
  for (int i = 1; i < WIDTH; ++i) r = a.v[i] > r ? a.v[i] : r;
  return r;
}
// Numbers where a bit is set, the lowest first; -infinity elsewhere.
inline Vector keep(Vector a, uint32_t bits) {
  for (int i = 0; i < WIDTH; ++i) a.v[i] = bits >> i & 1 ? a.v[i] : -INFINITY;
  return a;
}
inline bool has_nan(const Vector& a) {
  bool found = false;
  for (int i = 0; i < WIDTH; ++i) found |= a.v[i] != a.v[i];
  return found;
}
// The sums of WIDTH vectors that lie one after another.
inline Vector sums(const float* p) {
  Vector r;
  for (int i = 0; i < WIDTH; ++i) r.v[i] = sum(load(p + i * WIDTH));
  return r;
}

inline int64_t whole_products(const int8_t* weight, const int16_t* x, int64_t count) {
  int32_t total = 0;
  for (int64_t k = 0; k < count; ++k) total += int32_t(weight[k]) * x[k];
  return total;
}

}  // namespace
