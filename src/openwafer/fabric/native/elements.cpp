// The table of vector operations, in the order of VECTOR_OPERATIONS. Where the public reference leaves the result open,
// the comment says what is assumed.
#include "elements.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>

#include "half.hpp"
#include "timing.hpp"

namespace openwafer {

uint16_t draw_random(ElementState& state) {
  constexpr uint32_t TAPS = (1u << 22) | (1u << 17);  // x^23 + x^18 + 1, shifted right
  constexpr uint32_t MASK = (1u << 23) - 1;
  uint32_t value = state.random & MASK;
  if (value == 0) value = 1;  // the one state that never leaves itself
  for (uint32_t i = 0; i < state.random_steps; ++i) value = (value >> 1) ^ ((value & 1) ? TAPS : 0);
  state.random = value;
  return static_cast<uint16_t>(value);
}

namespace {

using State = ElementState;
using Half = uint16_t;

float single(uint32_t bits) { return std::bit_cast<float>(bits); }
uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }
double half(const State& s, uint32_t value) { return half_to_float(value, s.half); }
uint32_t half_bits(const State& s, double value) { return double_to_half(value, s.half); }

// Conversions to 16-bit integers round to nearest even and stop at the ends of the range (assumed).
uint32_t to_integer(double value) {
  if (std::isnan(value)) return 0;
  return static_cast<uint16_t>(static_cast<int16_t>(std::clamp(std::nearbyint(value), -32768.0, 32767.0)));
}
// The mantissa in [1, 2) with its sign (assumed); zero, infinity and NaN stay.
double normalized(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  return 2 * std::frexp(value, &exponent);
}

// Every operation: name, destination type, source types, result. Types give the bytes only; a, b, c are bits.
#define OPENWAFER_ELEMENTS(X)                                                                                        \
  X(add16, 2, 2, 2, 2, 0, (s.carry = a + b > 0xffff, a + b))                                                         \
  X(addc16, 2, 2, 2, 2, 0, add_with_carry(s, a, b))                                                                  \
  X(sub16, 2, 2, 2, 2, 0, a - b)                                                                                     \
  X(and16, 2, 2, 2, 2, 0, a & b)                                                                                     \
  X(or16, 2, 2, 2, 2, 0, a | b)                                                                                      \
  X(xor16, 2, 2, 2, 2, 0, a ^ b)                                                                                     \
  X(sar16, 2, 2, 2, 2, 0, static_cast<uint32_t>(static_cast<int16_t>(a) >> std::min(b, 15u)))                        \
  X(sll16, 2, 2, 2, 2, 0, b > 15 ? 0 : a << b)                                                                       \
  X(slr16, 2, 2, 2, 2, 0, b > 15 ? 0 : a >> b)                                                                       \
  X(clz, 1, 2, 2, 0, 0, static_cast<uint32_t>(std::countl_zero(static_cast<uint16_t>(a))))                           \
  X(ctz, 1, 2, 2, 0, 0, static_cast<uint32_t>(std::countr_zero(static_cast<uint16_t>(a))))                           \
  X(popcnt, 1, 2, 2, 0, 0, static_cast<uint32_t>(std::popcount(a)))                                                  \
  X(mov16, 1, 2, 2, 0, 0, a)                                                                                         \
  X(mov32, 1, 4, 4, 0, 0, a)                                                                                         \
  X(fabsh, 1, 2, 2, 0, 0, a & 0x7fff)                                                                                \
  X(fabss, 1, 4, 4, 0, 0, a & 0x7fffffff)                                                                            \
  X(faddh, 2, 2, 2, 2, 0, half_bits(s, half(s, a) + half(s, b)))                                                     \
  X(faddhs, 2, 4, 4, 2, 0, bits(static_cast<float>(single(a) + half(s, b))))                                         \
  X(fadds, 2, 4, 4, 4, 0, bits(single(a) + single(b)))                                                               \
  X(fh2s, 1, 4, 2, 0, 0, bits(static_cast<float>(half(s, a))))                                                       \
  X(fh2xp16, 1, 2, 2, 0, 0, to_integer(half(s, a)))                                                                  \
  X(fmach, 3, 2, 2, 2, 2, half_bits(s, std::fma(half(s, b), half(s, c), half(s, a))))                                \
  X(fmachs, 3, 4, 4, 2, 2, bits(static_cast<float>(half(s, b) * half(s, c) + single(a))))                            \
  X(fmacs, 3, 4, 4, 4, 4, bits(std::fmaf(single(b), single(c), single(a))))                                          \
  X(fmaxh, 2, 2, 2, 2, 0, half_bits(s, std::fmax(half(s, a), half(s, b))))                                           \
  X(fmaxs, 2, 4, 4, 4, 0, bits(std::fmax(single(a), single(b))))                                                     \
  X(fmovh, 1, 2, 2, 0, 0, a)                                                                                         \
  X(fmovs, 1, 4, 4, 0, 0, a)                                                                                         \
  X(fmulh, 2, 2, 2, 2, 0, half_bits(s, half(s, a) * half(s, b)))                                                     \
  X(fmuls, 2, 4, 4, 4, 0, bits(single(a) * single(b)))                                                               \
  X(fnegh, 1, 2, 2, 0, 0, a ^ 0x8000)                                                                                \
  X(fnegs, 1, 4, 4, 0, 0, a ^ 0x80000000)                                                                            \
  X(fnormh, 1, 2, 2, 0, 0, half_bits(s, normalized(half(s, a))))                                                     \
  X(fnorms, 1, 4, 4, 0, 0, bits(static_cast<float>(normalized(single(a)))))                                          \
  X(fs2h, 1, 2, 4, 0, 0, half_bits(s, single(a)))                                                                    \
  X(fs2xp16, 1, 2, 4, 0, 0, to_integer(single(a)))                                                                   \
  X(fscaleh, 2, 2, 2, 2, 0, half_bits(s, std::ldexp(half(s, a), static_cast<int16_t>(b))))                           \
  X(fscales, 2, 4, 4, 2, 0, bits(std::ldexp(single(a), static_cast<int16_t>(b))))                                    \
  X(fsubh, 2, 2, 2, 2, 0, half_bits(s, half(s, a) - half(s, b)))                                                     \
  X(fsubs, 2, 4, 4, 4, 0, bits(single(a) - single(b)))                                                               \
  X(xp162fh, 1, 2, 2, 0, 0, half_bits(s, static_cast<int16_t>(a)))                                                   \
  X(xp162fs, 1, 4, 2, 0, 0, bits(static_cast<float>(static_cast<int16_t>(a))))                                       \
  X(dfilt, 1, 4, 4, 0, 0, a)                                                                                         \
  X(random16, 0, 2, 0, 0, 0, draw_random(s))

// The carry of one element is the next one's; add16 begins a chain (assumed from the example of wide sums).
uint32_t add_with_carry(State& s, uint32_t a, uint32_t b) {
  const uint32_t sum = a + b + s.carry;
  s.carry = sum > 0xffff;
  return sum;
}

template <int BYTES>
uint32_t load(const uint8_t* address) {
  if constexpr (BYTES == 2) {
    uint16_t value;
    std::memcpy(&value, address, 2);
    return value;
  } else if constexpr (BYTES == 4) {
    uint32_t value;
    std::memcpy(&value, address, 4);
    return value;
  } else {
    return 0;
  }
}

template <int BYTES>
void store(uint8_t* address, uint32_t value) {
  std::memcpy(address, &value, BYTES);
}

template <int BYTES>
uint32_t next(const Run& run, const uint8_t*& address) {
  if (run.address == nullptr) return run.value;
  const uint32_t value = load<BYTES>(address);
  address += run.step;
  return value;
}

template <int D, int A, int B, int C, uint32_t (*ELEMENT)(State&, uint32_t, uint32_t, uint32_t)>
void bulk(State& state, const Run& destination, const Run* sources, uint32_t count, bool fold) {
  uint8_t* to = destination.address;
  const uint8_t *a = sources[0].address, *b = sources[1].address, *c = sources[2].address;
  uint32_t carried = sources[0].value;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t first = fold ? carried : next<A>(sources[0], a);
    const uint32_t second = next<B>(sources[1], b), third = next<C>(sources[2], c);
    carried = ELEMENT(state, first, second, third);
    if constexpr (D == 2) carried &= 0xffff;
    store<D>(to, carried);
    to += destination.step;
  }
}

#define X(name, sources, d, a_bytes, b_bytes, c_bytes, expression)                                             \
  uint32_t element_##name([[maybe_unused]] State& s, [[maybe_unused]] uint32_t a, [[maybe_unused]] uint32_t b, \
                          [[maybe_unused]] uint32_t c) {                                                       \
    return expression;                                                                                         \
  }
OPENWAFER_ELEMENTS(X)
#undef X

#define X(name, sources, d, a_bytes, b_bytes, c_bytes, expression)   \
  {#name, sources, d, {a_bytes, b_bytes, c_bytes}, element_##name,   \
   bulk<d, a_bytes, b_bytes, c_bytes, element_##name>},
constexpr Kernel KERNELS[] = {OPENWAFER_ELEMENTS(X)};
#undef X

}  // namespace

const Kernel& kernel_of(uint32_t operation) { return KERNELS[operation]; }

uint32_t kernel_count() { return static_cast<uint32_t>(std::size(KERNELS)); }

const std::vector<std::string>& vector_operation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const Kernel& kernel : KERNELS) result.emplace_back(kernel.name);
    return result;
  }();
  return names;
}

}  // namespace openwafer
