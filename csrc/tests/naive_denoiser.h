// A small denoiser with its inputs, and the sampling loop over it written as plainly as possible, in float64 and one
// draw at a time: what the engine of common/denoiser.h is held against.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/denoiser_layout.h"

namespace survcore {

struct DenoiserShape {
  int64_t layers, width, heads, tokens, patients, draws, steps;
};

// Numbers that float32 holds exactly, so that both types start from the same ones.
struct DenoiserInputs {
  explicit DenoiserInputs(const DenoiserShape& shape, uint32_t seed = 1) : shape(shape), generator_(seed) {
    const int64_t width = shape.width;
    weights = numbers(denoiser_weight_count(shape.layers, width), 0.7 / std::sqrt(static_cast<double>(width)));
    noise = numbers(shape.draws * width, 1.5);
    step_noise = numbers(shape.steps * shape.draws * width, 1.5);
    condition = numbers(shape.patients * shape.tokens * width, 1.5);
    modulation = numbers(shape.steps * shape.layers * 6 * width, 0.7);
    for (int64_t step = 0; step < shape.steps; ++step) {
      for (const double value : {0.8, -0.5, 0.25, 0.375, -0.125}) coefficients.push_back(value + 0.0625 * double(step));
    }
    for (int64_t draw = 0; draw < shape.draws; ++draw) condition_index.push_back((draw * 7 + 1) % shape.patients);
  }

  DenoiserShape shape;
  std::vector<double> weights, noise, step_noise, condition, modulation, coefficients;
  std::vector<int64_t> condition_index;

 private:
  std::vector<double> numbers(int64_t count, double largest) {
    std::vector<double> result(count);
    for (double& number : result) {
      number = static_cast<float>(largest * (double(generator_()) / 2147483648.0 - 1));
    }
    return result;
  }

  std::mt19937 generator_;
};

// What is rounded to bfloat16 on its way into a matrix product.
struct Rounding {
  bool weights = false, rows = false;
};

class NaiveDenoiser {
 public:
  using Row = std::vector<double>;

  NaiveDenoiser(const DenoiserInputs& inputs, Rounding rounding) : inputs_(inputs), rounding_(rounding) {
    const double* next = inputs.weights.data();
    const int64_t width = inputs.shape.width;
    const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    for (int64_t layer = 0; layer < inputs.shape.layers; ++layer) {
      Layer weights;
      weights.attention_norm = {take(width), take(width)};
      weights.query_key_value = {take(3 * width * width), take(3 * width)};
      weights.projection = {take(width * width), take(width)};
      weights.mlp_norm = {take(width), take(width)};
      weights.expand = {take(4 * width * width), take(4 * width)};
      weights.contract = {take(4 * width * width), take(width)};
      layers_.push_back(weights);
    }
    norm_ = {take(width), take(width)};
    output_ = {take(width * width), take(width)};
  }

  // The latents of one draw after the last step.
  Row sample(int64_t draw) const {
    const DenoiserShape& shape = inputs_.shape;
    const std::vector<Keys> kept = condition_keys(inputs_.condition_index[draw]);
    Row state(&inputs_.noise[draw * shape.width], &inputs_.noise[draw * shape.width] + shape.width);
    Row previous_state(shape.width, 0), previous_output(shape.width, 0);
    for (int64_t step = 0; step < shape.steps; ++step) {
      std::vector<Row> rows = {state};
      for (int64_t layer = 0; layer < shape.layers; ++layer) {
        const double* modulation = &inputs_.modulation[(step * shape.layers + layer) * 6 * shape.width];
        Keys keys = kept[layer];  // a copy: the draw's own key goes with the step
        rows = block(layers_[layer], rows, modulation, keys);
      }
      const Row output = product(normalised(rows[0], norm_, nullptr), output_, shape.width);
      const double* coefficients = &inputs_.coefficients[step * 5];
      Row next(shape.width);
      for (int64_t i = 0; i < shape.width; ++i) {
        next[i] = coefficients[0] * state[i] + coefficients[1] * output[i] +
                  coefficients[2] * inputs_.step_noise[(step * shape.draws + draw) * shape.width + i] +
                  coefficients[3] * previous_output[i] + coefficients[4] * previous_state[i];
      }
      previous_output = output;
      previous_state = state;
      state = next;
    }
    return state;
  }

 private:
  struct Affine {
    const double *weight, *bias;
  };
  struct Layer {
    Affine attention_norm, query_key_value, projection, mlp_norm, expand, contract;
  };
  using Keys = std::vector<std::pair<Row, Row>>;  // key and value of a row, all heads

  // Per layer, keys and values of a patient's condition rows, which attend to each other.
  std::vector<Keys> condition_keys(int64_t patient) const {
    const DenoiserShape& shape = inputs_.shape;
    std::vector<Row> rows;
    for (int64_t token = 0; token < shape.tokens; ++token) {
      const double* start = inputs_.condition.data() + (patient * shape.tokens + token) * shape.width;
      rows.push_back(Row(start, start + shape.width));
    }
    std::vector<Keys> kept(shape.layers);
    for (int64_t layer = 0; layer < shape.layers; ++layer) rows = block(layers_[layer], rows, nullptr, kept[layer]);
    return kept;
  }

  // A transformer block over rows that attend to each other and to the keys given, to which theirs are added.
  // modulation [6, width]: shift, scale and gate of the attention, then of the MLP.
  std::vector<Row> block(const Layer& layer, std::vector<Row> rows, const double* modulation, Keys& keys) const {
    const int64_t width = inputs_.shape.width;
    std::vector<Row> queries;
    for (const Row& row : rows) {
      const Row made = product(normalised(row, layer.attention_norm, modulation), layer.query_key_value, 3 * width);
      queries.push_back(Row(made.begin(), made.begin() + width));
      keys.push_back({Row(made.begin() + width, made.begin() + 2 * width), Row(made.begin() + 2 * width, made.end())});
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      add(rows[i], product(attended(queries[i], keys), layer.projection, width), modulation);
      const double* second = modulation ? modulation + 3 * width : nullptr;
      Row hidden = product(normalised(rows[i], layer.mlp_norm, second), layer.expand, 4 * width);
      for (double& h : hidden) h = h * (1 + std::erf(h / std::sqrt(2.0))) / 2;
      add(rows[i], product(hidden, layer.contract, width), second);
    }
    return rows;
  }

  Row attended(const Row& query, const Keys& keys) const {
    const int64_t width = inputs_.shape.width, head_width = width / inputs_.shape.heads;
    Row mixed(width, 0);
    for (int64_t first = 0; first < width; first += head_width) {
      double total = 0;
      for (const auto& [key, value] : keys) {
        double score = 0;
        for (int64_t i = first; i < first + head_width; ++i) score += query[i] * key[i];
        const double share = std::exp(score / std::sqrt(static_cast<double>(head_width)));
        for (int64_t i = first; i < first + head_width; ++i) mixed[i] += share * value[i];
        total += share;
      }
      for (int64_t i = first; i < first + head_width; ++i) mixed[i] /= total;
    }
    return mixed;
  }

  static Row normalised(const Row& row, Affine norm, const double* modulation) {
    const std::size_t width = row.size();
    double mean = 0, squares = 0;
    for (const double x : row) mean += x / static_cast<double>(width);
    for (const double x : row) squares += (x - mean) * (x - mean) / static_cast<double>(width);
    Row result(width);
    for (std::size_t i = 0; i < width; ++i) {
      result[i] = (row[i] - mean) / std::sqrt(squares + 1e-5) * norm.weight[i] + norm.bias[i];
      if (modulation) result[i] = result[i] * (1 + modulation[width + i]) + modulation[i];
    }
    return result;
  }

  static void add(Row& row, const Row& change, const double* modulation) {
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] += (modulation ? modulation[2 * row.size() + i] : 1) * change[i];
  }

  // weight [columns, in] times the row, plus bias.
  Row product(const Row& row, Affine affine, int64_t columns) const {
    const int64_t in = static_cast<int64_t>(row.size());
    Row result(affine.bias, affine.bias + columns);
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t k = 0; k < in; ++k) {
        result[j] += rounded(row[k], rounding_.rows) * rounded(affine.weight[j * in + k], rounding_.weights);
      }
    }
    return result;
  }

  static double rounded(double value, bool to_half) {
    if (!to_half) return value;
    const uint32_t bits = uint32_t(to_bfloat16(static_cast<float>(value))) << 16;
    float widened;
    std::memcpy(&widened, &bits, sizeof(widened));
    return widened;
  }

  const DenoiserInputs& inputs_;
  const Rounding rounding_;
  std::vector<Layer> layers_;
  Affine norm_, output_;
};

}  // namespace survcore
