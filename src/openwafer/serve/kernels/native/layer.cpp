// A decoder layer for a few tokens: four products, and between them microseconds of work, token by token.
#include <cstring>

#include "kernels.hpp"
#include "pool.hpp"
#include "scratch.hpp"

namespace openwafer::serve {

void Layer::run(const void* x, int64_t tokens, const Place* places, const Cache& cache, const float* cosine,
                const float* sine, void* out) const {
  static thread_local Scratch scratch;
  const auto pool = shared_pool();
  const size_t size = bytes_of(type);
  const int64_t hidden = qkv->columns, all = qkv->rows, inner = down->columns, queries = heads * head_dim;
  const int64_t half = head_dim / 2;
  char* normed = static_cast<char*>(
      scratch.take(size_t(tokens * (2 * hidden + all + 2 * queries + 3 * inner)) * size + 8 * 64));
  const auto after = [&](char* start, int64_t numbers) {
    return start + (size_t(tokens * numbers) * size + 63) / 64 * 64;
  };
  char* mixed = after(normed, hidden);  // after attention and its output, with the residual
  char* rows = after(mixed, hidden);
  char* query = after(rows, all);
  char* attended = after(query, queries);
  char* gates = after(attended, queries);
  char* gated = after(gates, 2 * inner);
  const auto at = [&](const void* start, int64_t numbers) { return static_cast<const char*>(start) + size_t(numbers) * size; };

  pool->each(tokens, [&](int64_t t) {
    level->rms_norm(type, at(x, t * hidden), attention_norm, hidden, epsilon, normed + size_t(t * hidden) * size);
  });
  qkv->multiply(normed, tokens, nullptr, rows);

  pool->each(tokens, [&](int64_t t) {
    const Place& place = places[t];
    const int64_t position = place.seen - 1;
    const int64_t block = cache.tables[place.sequence * cache.table_width + position / BLOCK_TOKENS];
    for (int64_t head = 0; head < heads + 2 * heads_kv; ++head) {
      char* row = rows + size_t(t * all + head * head_dim) * size;
      const int64_t kv = (head - heads) % heads_kv;
      const int64_t slot = ((block * heads_kv + kv) * BLOCK_TOKENS + position % BLOCK_TOKENS) * head_dim;
      if (head >= heads + heads_kv) {
        std::memcpy(static_cast<char*>(cache.values) + size_t(slot) * size, row, size_t(head_dim) * size);
        continue;
      }
      const void* norm = head < heads ? query_norm : key_norm;
      if (norm != nullptr) level->rms_norm(type, row, norm, head_dim, epsilon, row);
      char* to = head < heads ? query + size_t(t * queries + head * head_dim) * size
                              : static_cast<char*>(cache.keys) + size_t(slot) * size;
      level->rotate(type, row, cosine + t * half, sine + t * half, half, to);
    }
  });
  attend(*level,
         {type, heads, heads_kv, head_dim, window, query, cache.keys, cache.values, cache.tables, cache.table_width,
          places, attended, 0, nullptr},
         tokens);
  output->multiply(attended, tokens, x, mixed);

  pool->each(tokens, [&](int64_t t) {
    level->rms_norm(type, at(mixed, t * hidden), mlp_norm, hidden, epsilon, normed + size_t(t * hidden) * size);
  });
  gate_up->multiply(normed, tokens, nullptr, gates);
  pool->each(tokens, [&](int64_t t) {
    level->swiglu(type, at(gates, t * 2 * inner), at(gates, (t * 2 + 1) * inner), inner, gated + size_t(t * inner) * size);
  });
  down->multiply(gated, tokens, mixed, out);
}

}  // namespace openwafer::serve
