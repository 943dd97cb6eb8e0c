// Runs the engine of common/denoiser.h on the inputs of naive_denoiser.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "common/denoiser.h"
#include "common/denoiser_packer.h"
#include "tests/naive_denoiser.h"

namespace survcore {

template <class Weight, class Real>
constexpr PackType pack_type = std::is_same_v<Real, double>    ? PackType::float64
                               : std::is_same_v<Weight, float> ? PackType::float32
                                                               : PackType::bfloat16;

template <class Weight>
constexpr Rounding rounding_of = {std::is_same_v<Weight, BFloat16Pair> || std::is_same_v<Weight, BFloat16Tile>,
                                  std::is_same_v<Weight, BFloat16Tile>};

// The arrays of a call, each in memory of its own and of exactly its size, so that a sanitizer sees what goes beyond.
template <class Weight, class Real>
class EngineInputs {
 public:
  explicit EngineInputs(const DenoiserInputs& inputs)
      : shape(inputs.shape),
        noise(in_real(inputs.noise)),
        step_noise(in_real(inputs.step_noise)),
        condition(in_real(inputs.condition)),
        modulation(in_real(inputs.modulation)),
        coefficients(inputs.coefficients),
        condition_index(inputs.condition_index),
        layout_(shape.layers, shape.width, shape.heads, pack_type<Weight, Real>),
        pack_(layout_.bytes) {
    Packer<Real>(layout_, in_real(inputs.weights).data(), pack_.data()).pack();
  }

  SamplingProblem<Real> problem() const {
    return {
        layout_,          pack_.data(),           noise.data(),      step_noise.empty() ? nullptr : step_noise.data(),
        condition.data(), condition_index.data(), modulation.data(), coefficients.data(),
        shape.draws,      shape.patients,         shape.tokens,      shape.steps};
  }

  DenoiserShape shape;
  std::vector<Real> noise, step_noise, condition, modulation;
  std::vector<double> coefficients;
  std::vector<int64_t> condition_index;

 private:
  static std::vector<Real> in_real(const std::vector<double>& values) { return {values.begin(), values.end()}; }

  const DenoiserLayout layout_;
  Buffer<unsigned char> pack_;
};

// Marks what the engine must not touch.
constexpr int untouched = 12345;

// A call on one block of draws. Condition keys are made of so many patients at a time.
template <class Weight, class Real, class Width>
class Call {
 public:
  using Inputs = EngineInputs<Weight, Real>;

  Call(std::shared_ptr<const Inputs> inputs, std::vector<int64_t> draws, int64_t patients_together = 1 << 20)
      : owner_(std::make_shared<Owner>(std::move(inputs), std::move(draws))) {
    const SamplingProblem<Real> problem = owner_->inputs->problem();
    const auto kept = std::make_shared<ConditionKeys<Real>>(problem);
    sampling_ = std::make_shared<Sampling<Weight, Real, Width>>(problem, kept, owner_->draws.data(),
                                                                owner_->draws.size(), owner_, true);
    for (int64_t first = 0; problem.tokens > 0 && first < problem.patients; first += patients_together) {
      const int64_t last = std::min(problem.patients, first + patients_together);
      keep_condition_keys<Weight>(Width(), problem, first, last, *kept);
    }
  }

  std::shared_ptr<CompanionTask> task() const { return sampling_; }

  // [draws, width]
  std::vector<Real> run() const {
    const DenoiserShape& shape = owner_->inputs->shape;
    std::vector<Real> output(shape.draws * shape.width, Real(untouched));
    sampling_->run(output.data());
    sampling_->let_companion_go();
    return output;
  }

 private:
  struct Owner {
    Owner(std::shared_ptr<const Inputs> inputs, std::vector<int64_t> draws)
        : inputs(std::move(inputs)), draws(std::move(draws)) {}
    std::shared_ptr<const Inputs> inputs;
    std::vector<int64_t> draws;
  };

  std::shared_ptr<Owner> owner_;
  std::shared_ptr<Sampling<Weight, Real, Width>> sampling_;
};

inline std::vector<int64_t> first_draws(int64_t count) {
  std::vector<int64_t> draws(count);
  std::iota(draws.begin(), draws.end(), 0);
  return draws;
}

}  // namespace survcore
