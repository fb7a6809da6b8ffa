// Whole operations: what the inner loops do, cut into chunks for the threads.
#pragma once

#include <utility>
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

// How a token is chosen from a row of logits.
struct Choice {
  const float* logits;
  const uint8_t* mask;  // a bit for each token, the lowest first, or null: all may come
  float scale;          // tokens are drawn by exp(logit * scale); 0: the likeliest is taken
  double top_p;         // from the fewest most likely ones that make up so much of the whole
  double draw;          // in [0, 1)
  float* weights;       // room for a number of each token, if one is drawn; may be the logits
  const float* told;    // logits whose probabilities are wanted
  int64_t tops;         // of so many of the most likely ones; -1: of none
  // Found:
  int64_t token = NO_TOKEN;
  double limit = 0;  // with DRAW_AGAIN: what the nucleus weighs
  double whole = 0;  // the logarithm of the sum of e^told
  std::vector<std::pair<int64_t, double>> likely = {};  // tokens and the logarithms of their probabilities

  // No finite largest logit, or NaN; the token that was drawn is outside of the nucleus, and only the weights of more likely
  // ones are left; the mask leaves nothing.
  static constexpr int64_t NO_TOKEN = -1, DRAW_AGAIN = -2, NOTHING_LEFT = -3;
};
inline constexpr int64_t DRAW_AGAIN = Choice::DRAW_AGAIN, NOTHING_LEFT = Choice::NOTHING_LEFT;

void choose(const Level& level, int64_t count, Choice& choice);

// With the weights and the limit of a choice that was DRAW_AGAIN: the token, or DRAW_AGAIN.
int64_t draw_again(const Level& level, float* weights, int64_t count, double limit, double draw);

}  // namespace openwafer::serve
