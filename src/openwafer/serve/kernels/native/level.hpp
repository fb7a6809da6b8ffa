// What one instruction set does: the inner loops, as functions behind a table. Everything else is compiled once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace openwafer::serve {

enum class Type : int { f32, f16, bf16, i8 };

constexpr int MAX_TOKENS = 8;
// Chunks have a multiple of this, so that tiles of up to 6 rows fill them, but for a matrix's last.
constexpr int64_t ROW_STEP = 12;
constexpr int64_t MAX_CHUNK_ROWS = 8 * ROW_STEP;
constexpr int64_t BLOCK_TOKENS = 128;
// Of a context, what is attended to in one go; the same on every machine, because it decides the order of additions.
constexpr int64_t PIECE_TOKENS = 4 * BLOCK_TOKENS;
// Prepared tokens have zeros up to a multiple of this: the widest step of any inner loop.
constexpr int64_t PADDING = 64;
constexpr int64_t CHUNK_WEIGHTS = 512;
// Bytes between the planes of whole numbers: streams a power of two apart would push each other out of the cache.
constexpr int64_t PLANE_GAP = 64;

// y = x W^T, and what is done to each number of it: times its row's scale (i8), + bias, rounded; then + residual, rounded.
struct Product {
  const void* weight;
  Type weight_type;
  Type type;  // of x, bias, residual and y
  int64_t rows, columns, padded;
  const void* bias;    // or null
  const float* scale;  // [rows], for i8
  const int32_t* sum;  // [rows], for i8: the sum of the row's numbers
  const void* from;    // x [tokens, columns]
  char* x;             // room for x as it is prepared for the weight's type: 4 (padded + PLANE_GAP) bytes for each token
  float* x_scale;      // [tokens], for i8
  int64_t tokens;
  int64_t ahead;         // from a chunk's first row to that of the chunk which the same thread is likely to get next
  const void* residual;  // [tokens, rows] or null
  void* y;               // [tokens, rows]
  bool wide;             // y takes float32s; their values are rounded all the same
};

// Attention of tokens over a paged cache, [blocks, heads_kv, BLOCK_TOKENS, head_dim].
struct Place {
  int32_t token, sequence, seen;  // the token sees its sequence's first `seen` tokens, itself the last of them
};

struct Attention {
  Type type;
  int64_t heads, heads_kv, head_dim, window;  // window: 0 means none
  const void* query;                          // [T, heads, head_dim]
  const void* keys;
  const void* values;
  const int32_t* tables;
  int64_t table_width;
  const Place* places;
  void* out;        // as query
  int64_t pieces;   // of the longest context
  float* partials;  // [places, heads, pieces, head_dim + 2]: sums, then the largest score and the sum of weights
};

// A row of logits, of which those that the mask leaves count: the largest one, and what tokens are drawn by,
// exp((logit - largest) * scale).
struct Survey {
  const float* logits;
  int64_t count;
  const uint8_t* mask;  // a bit for each logit, the lowest first, or null: all
  float scale;          // 0: nothing is drawn
  float* weights;       // [count] or null: only their sums are wanted; may be the logits
  float* sums;          // of each chunk of CHUNK_WEIGHTS weights
  float* maxima;        // of each chunk
  // Found: the first of the largest logits, -1 if it is not finite or any logit is NaN. Then nothing is weighed.
  int64_t likeliest;
  float largest;
};

// Of all weights: the sum of those above one, and how many are equal to it.
struct Heavier {
  float sum;
  int64_t equal;
};

struct Level {
  const char* name;
  // One token of x, from `from` to where and as `rows` wants it.
  void (*prepare)(const Product& product, int64_t token);
  // Rows [begin, end) of a product, at most MAX_CHUNK_ROWS.
  void (*rows)(const Product& product, int64_t begin, int64_t end);
  void (*rms_norm)(Type type, const void* x, const void* weight, int64_t count, float epsilon, void* out);
  void (*rotate)(Type type, const void* x, const float* cosine, const float* sine, int64_t half, void* out);
  void (*swiglu)(Type type, const void* gate, const void* up, int64_t count, void* out);
  // The heads of one head of keys over one piece of the context of a place.
  void (*attend)(const Attention& attention, int64_t place, int64_t head_kv, int64_t piece);
  // All heads of a place: its pieces put together.
  void (*merge)(const Attention& attention, int64_t place);
  void (*survey)(Survey& survey);
  Heavier (*heavier)(const float* weights, int64_t count, float weight);
  // Reads whole kilobytes and does next to nothing with them: what products are measured against.
  float (*read)(const float* numbers, int64_t count);
};

// Which of a context's tokens a piece has; empty where last <= first.
struct Range {
  int64_t first, last;
};

static inline Range piece_range(const Attention& attention, const Place& place, int64_t piece) {
  const int64_t first = attention.window > 0 && place.seen > attention.window ? place.seen - attention.window : 0;
  const int64_t start = piece * PIECE_TOKENS, stop = start + PIECE_TOKENS;
  return {start > first ? start : first, stop < place.seen ? stop : place.seen};
}

extern const Level plain_level;
#ifdef OPENWAFER_X86
extern const Level avx2_level;
extern const Level avx512_level;
extern const Level avx512bf16_level;
#endif

}  // namespace openwafer::serve
