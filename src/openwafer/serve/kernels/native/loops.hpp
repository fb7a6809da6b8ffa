// The inner loops over Vector, which a file for one instruction set includes before this one. Everything is in an unnamed
// namespace and calls nothing of the standard library: a function that the linker shared among files would bring its
// file's instructions to processors that lack them.
#pragma once

#include "attention.hpp"
#include "parts.hpp"
#include "products.hpp"
#include "sampling.hpp"
#include "whole_products.hpp"

namespace {

// ---- products

template <class T>
inline void finish(const Product& product, int64_t token, int64_t begin, int64_t end, const float* sums) {
  const int64_t at = token * product.rows + begin;
  const T* bias = product.bias ? static_cast<const T*>(product.bias) + begin : nullptr;
  const T* residual = product.residual ? static_cast<const T*>(product.residual) + at : nullptr;
  for (int64_t i = 0; i < end - begin; i += WIDTH) {
    const int64_t left = end - begin - i;
    Vector a = load_part(sums + i, left);
    if (bias) a = add(a, load_part(bias + i, left));
    if (residual) a = add(load_part(residual + i, left), rounded<T>(a));
    if (product.wide) {
      store_part(static_cast<float*>(product.y) + at + i, rounded<T>(a), left);
    } else {
      store_part(static_cast<T*>(product.y) + at + i, a, left);
    }
  }
}

void prepare(const Product& product, int64_t token) {
  switch (product.weight_type) {
    case Type::f32: return prepare_token<float>(product, token);
    case Type::f16: return prepare_token<Half>(product, token);
    case Type::bf16: return prepare_token<Bfloat>(product, token);
    case Type::i8: return prepare_whole_token(product, token);
  }
}

void rows(const Product& product, int64_t begin, int64_t end) {
  alignas(64) float sums[MAX_TOKENS * MAX_CHUNK_ROWS];
  switch (product.weight_type) {
    case Type::f32: multiply_rows<float>(product, begin, end, sums); break;
    case Type::f16: multiply_rows<Half>(product, begin, end, sums); break;
    case Type::bf16: multiply_rows<Bfloat>(product, begin, end, sums); break;
    case Type::i8: multiply_whole_rows(product, begin, end, sums); break;
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
