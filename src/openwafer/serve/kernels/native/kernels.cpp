#include "kernels.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>

#include "pool.hpp"
#include "scratch.hpp"

namespace openwafer::serve {

namespace {

// Small enough that two threads end together, large enough that taking one costs nothing: 3 us of reading.
constexpr int64_t CHUNK_BYTES = 128 * 1024;
// With several tokens larger: a chunk and the next one are in the second cache together.
constexpr int64_t TOKENS_CHUNK_BYTES = 288 * 1024;

}  // namespace

size_t bytes_of(Type type) { return type == Type::f32 ? 4 : type == Type::i8 ? 1 : 2; }

const std::vector<const Level*>& levels() {
  static const std::vector<const Level*> all = [] {
    std::vector<const Level*> found{&plain_level};
#ifdef OPENWAFER_X86
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    if (avx2) found.push_back(&avx2_level);
    if (avx512) found.push_back(&avx512_level);
    if (bf16) found.push_back(&avx512bf16_level);
#endif
    return found;
  }();
  return all;
}

void want_large_pages([[maybe_unused]] void* start, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t PAGE = 2 * 1024 * 1024;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(start) + PAGE - 1) / PAGE * PAGE;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(start) + bytes) / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a kernel without is slower
#endif
}

void Matrix::multiply(const void* x, int64_t tokens, const void* residual, void* y, bool wide) const {
  static thread_local Scratch scratch;
  const auto pool = shared_pool();
  const int64_t padded = (columns + PADDING - 1) / PADDING * PADDING;
  const auto at = [&](const void* start, int64_t numbers) {
    return start == nullptr ? nullptr : static_cast<const char*>(start) + size_t(numbers) * bytes_of(type);
  };
  for (int64_t first = 0; first < tokens; first += MAX_TOKENS) {
    const int64_t count = std::min<int64_t>(MAX_TOKENS, tokens - first);
    const int64_t row_bytes = std::max<int64_t>(columns * int64_t(bytes_of(weight_type)), 1);
    const int64_t fit = (count == 1 ? CHUNK_BYTES : TOKENS_CHUNK_BYTES) / row_bytes;
    const int64_t chunk = std::clamp<int64_t>(fit / ROW_STEP * ROW_STEP, ROW_STEP, MAX_CHUNK_ROWS);
    float x_scale[MAX_TOKENS] = {};
    const Product product{
        weight,
        weight_type,
        type,
        rows,
        columns,
        padded,
        bias,
        scale,
        sum,
        at(x, first * columns),
        static_cast<char*>(scratch.take(size_t(count * 4 * (padded + PLANE_GAP)))),
        x_scale,
        count,
        chunk * pool->threads(),
        at(residual, first * rows),
        static_cast<char*>(y) + size_t(first * rows) * bytes_of(wide ? Type::f32 : type),
        wide};
    pool->each(count, [&](int64_t token) { level->prepare(product, token); });
    pool->each((rows + chunk - 1) / chunk, [&](int64_t i) {
      level->rows(product, i * chunk, std::min(rows, (i + 1) * chunk));
    });
  }
}

void attend(const Level& level, Attention attention, int64_t places) {
  static thread_local Scratch scratch;
  int64_t longest = 0;
  for (int64_t i = 0; i < places; ++i) longest = std::max<int64_t>(longest, attention.places[i].seen);
  const int64_t pieces = attention.pieces = (longest + PIECE_TOKENS - 1) / PIECE_TOKENS;
  const int64_t partial = attention.head_dim + 2;
  attention.partials =
      static_cast<float*>(scratch.take(size_t(places * attention.heads * pieces * partial) * sizeof(float)));
  const auto pool = shared_pool();
  pool->each(places * attention.heads_kv * pieces, [&](int64_t i) {
    const int64_t piece = i % pieces, place = i / pieces / attention.heads_kv;
    const Range range = piece_range(attention, attention.places[place], piece);
    if (range.last > range.first) level.attend(attention, place, i / pieces % attention.heads_kv, piece);
  });
  pool->each(places, [&](int64_t place) { level.merge(attention, place); });
}

}  // namespace openwafer::serve
