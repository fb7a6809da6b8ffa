#include <algorithm>
#include <cmath>

#include "kernels.hpp"

namespace openwafer::serve {

namespace {

int64_t chunks_of(int64_t count) { return (count + CHUNK_WEIGHTS - 1) / CHUNK_WEIGHTS; }

// Where a running sum exceeds the target; where it reaches its end if rounding left nothing beyond. `before` becomes the
// sum up to there.
int64_t place(const float* numbers, int64_t count, double target, double& before) {
  int64_t reached = 0;
  double running = 0, until_reached = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double next = running + double(numbers[i]);
    if (next > target) {
      before = running;
      return i;
    }
    if (next > running) {
      reached = i;
      until_reached = running;
    }
    running = next;
  }
  before = until_reached;
  return reached;
}

double total_of(const std::vector<float>& sums) {
  double total = 0;
  for (const float sum : sums) total += double(sum);
  return total;
}

// By sums over chunks, then within one: a running sum over a whole vocabulary takes longer and is less exact.
int64_t place_in_row(const float* weights, int64_t count, const std::vector<float>& sums, double draw) {
  const double target = draw * total_of(sums);
  double before = 0, ignored = 0;
  const int64_t begin = place(sums.data(), int64_t(sums.size()), target, before) * CHUNK_WEIGHTS;
  return begin + place(weights + begin, std::min(CHUNK_WEIGHTS, count - begin), target - before, ignored);
}

// The token if it is in the nucleus, else DRAW_AGAIN, and only what is more likely keeps its weight.
int64_t within(const Level& level, float* weights, int64_t count, int64_t token, double limit) {
  const float weight = weights[token];
  const Heavier heavier = level.heavier(weights, count, weight);
  int64_t equal = 0;  // that belong to the nucleus: of equally likely tokens the first ones
  if (double(heavier.sum) < limit) {
    if (heavier.equal == 1) return token;
    equal = int64_t(std::ceil((limit - double(heavier.sum)) / double(weight)));
  }
  bool inside = false;
  for (int64_t i = 0, met = 0; i <= token && met < equal; ++i) {
    if (weights[i] == weight) {
      ++met;
      inside = i == token;
    }
  }
  if (inside) return token;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] > weight || (weights[i] == weight && equal-- > 0)) continue;
    weights[i] = 0;
  }
  return DRAW_AGAIN;
}

// The largest logits, equal ones in their order; most chunks are passed over by their maximum.
std::vector<std::pair<int64_t, float>> most_likely(
    const float* logits, int64_t count, const std::vector<float>& maxima, size_t wanted) {
  std::vector<std::pair<int64_t, float>> found;
  if (wanted == 0) return found;
  found.reserve(wanted + 1);
  for (int64_t begin = 0, chunk = 0; begin < count; begin += CHUNK_WEIGHTS, ++chunk) {
    if (found.size() == wanted && maxima[size_t(chunk)] <= found.back().second) continue;
    for (int64_t i = begin; i < std::min(begin + CHUNK_WEIGHTS, count); ++i) {
      if (found.size() == wanted && logits[i] <= found.back().second) continue;
      const auto after = std::upper_bound(found.begin(), found.end(), logits[i],
                                          [](float value, const auto& other) { return value > other.second; });
      found.insert(after, {i, logits[i]});
      if (found.size() > wanted) found.pop_back();
    }
  }
  return found;
}

}  // namespace

void choose(const Level& level, int64_t count, Choice& choice) {
  std::vector<float> sums(size_t(chunks_of(count))), maxima(sums.size());
  if (choice.tops >= 0) {
    Survey told = {choice.told, count, nullptr, 1, nullptr, sums.data(), maxima.data(), -1, 0};
    level.survey(told);
    choice.token = told.likeliest;
    if (told.likeliest < 0) return;
    choice.whole = double(told.largest) + std::log(total_of(sums));
    for (const auto& [token, logit] : most_likely(choice.told, count, maxima, size_t(choice.tops))) {
      choice.likely.emplace_back(token, double(logit) - choice.whole);
    }
    if (choice.logits == choice.told && !choice.mask && choice.scale == 0) return;
  }
  Survey survey = {choice.logits, count, choice.mask, choice.scale, choice.weights, sums.data(), maxima.data(), -1, 0};
  level.survey(survey);
  choice.token = survey.likeliest;
  if (survey.likeliest < 0 && survey.largest == -INFINITY) choice.token = NOTHING_LEFT;
  if (survey.likeliest < 0 || choice.scale == 0) return;
  choice.token = place_in_row(choice.weights, count, sums, choice.draw);
  if (choice.top_p >= 1) return;
  choice.limit = choice.top_p * total_of(sums);
  choice.token = within(level, choice.weights, count, choice.token, choice.limit);
}

int64_t draw_again(const Level& level, float* weights, int64_t count, double limit, double draw) {
  std::vector<float> sums;
  for (int64_t begin = 0; begin < count; begin += CHUNK_WEIGHTS) {
    float sum = 0;
    for (int64_t i = begin; i < std::min(begin + CHUNK_WEIGHTS, count); ++i) sum += weights[i];
    sums.push_back(sum);
  }
  return within(level, weights, count, place_in_row(weights, count, sums, draw), limit);
}

}  // namespace openwafer::serve
