// Whole operations: what the inner loops do, cut into chunks for the threads.
#pragma once

#include <vector>

#include "level.hpp"

namespace openwafer::serve {

// Those that this processor has, in rising order.
const std::vector<const Level*>& levels();

size_t bytes_of(Type type);

// Asks for large pages for memory that was not written yet; without them, addresses cost part of the bandwidth.
void want_large_pages(void* start, size_t bytes);

struct Matrix {
  const Level* level;
  Type weight_type, type;
  int64_t rows, columns;
  const void* weight;
  const void* bias;
  const float* scale;
  const int32_t* sum;

  // y [tokens, rows] = x [tokens, columns] times the matrix, + residual if there is one. wide: y takes float32s.
  void multiply(const void* x, int64_t tokens, const void* residual, void* y, bool wide = false) const;
};

// All fields but pieces and partials are set; places: how many tokens there are.
void attend(const Level& level, Attention attention, int64_t places);

struct Cache {
  void* keys;
  void* values;
  const int32_t* tables;
  int64_t table_width;
};

struct Layer {
  const Level* level;
  Type type;
  const Matrix *qkv, *output, *gate_up, *down;
  const void *attention_norm, *mlp_norm, *query_norm, *key_norm;
  float epsilon;
  int64_t heads, heads_kv, head_dim, window;

  // places: one for each token, in the tokens' order. cosine, sine: [tokens, head_dim / 2].
  void run(const void* x, int64_t tokens, const Place* places, const Cache& cache, const float* cosine, const float* sine,
           void* out) const;
};

}  // namespace openwafer::serve
