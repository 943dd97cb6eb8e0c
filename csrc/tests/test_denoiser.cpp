// common/denoiser.h on every instruction set of this CPU against a naive loop, and bit by bit against itself: alone or
// with the companion, whatever rows stand beside a row.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "tests/check.h"
#include "tests/denoiser_engine.h"
#include "tests/naive_denoiser.h"

using namespace survcore;

namespace {

template <class Real>
bool same_bits(const Real* a, const Real* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(Real)) == 0;
}

template <class Real>
bool has_nan(const Real* row, int64_t width) {
  return std::any_of(row, row + width, [](Real value) { return std::isnan(value); });
}

// One kind of kernel: weights, numbers and vector width.
template <class Weight, class Real, class Width>
struct Engine {
  using Inputs = EngineInputs<Weight, Real>;

  static std::shared_ptr<const Inputs> given(const DenoiserInputs& inputs) { return std::make_shared<Inputs>(inputs); }
  static std::vector<Real> latents(const DenoiserInputs& inputs) {
    return Call<Weight, Real, Width>(given(inputs), first_draws(inputs.shape.draws)).run();
  }

  // Latents are of order one. Where rows are rounded, a number between two others may fall to the other side.
  static constexpr double error = rounding_of<Weight>.rows ? 2e-3 : sizeof(Real) == 8 ? 4e-15 : 2e-6;

  static void test_against_naive(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const NaiveDenoiser naive(inputs, rounding_of<Weight>);
    const std::vector<Real> result = latents(inputs);
    double worst = 0;
    for (int64_t draw = 0; draw < shape.draws; ++draw) {
      const std::vector<double> expected = naive.sample(draw);
      for (int64_t i = 0; i < shape.width; ++i) {
        const double difference = std::fabs(static_cast<double>(result[draw * shape.width + i]) - expected[i]);
        worst = difference <= worst ? worst : difference;  // NaN counts
      }
    }
    CHECK(worst <= error);
  }

  // A draw's latents do not depend on the number of draws beside it, across the borders of the kernels' blocks of rows.
  static void test_row_counts(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const auto given_inputs = given(inputs);
    const std::vector<Real> all = latents(inputs);
    for (int64_t count = 1; count < shape.draws; ++count) {
      const std::vector<Real> some = Call<Weight, Real, Width>(given_inputs, first_draws(count)).run();
      CHECK(same_bits(some.data(), all.data(), count * shape.width));
      CHECK(some[count * shape.width] == Real(untouched) && some.back() == Real(untouched));
    }
  }

  // Nor on which these are, nor on the conditions that are looked at together.
  static void test_neighbours(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const std::vector<Real> all = latents(inputs);
    const std::vector<int64_t> draws = {shape.draws - 1, 3, 0};
    const std::vector<Real> some = Call<Weight, Real, Width>(given(inputs), draws, 1).run();
    for (int64_t draw = 0; draw < shape.draws; ++draw) {
      const Real* row = some.data() + draw * shape.width;
      if (std::find(draws.begin(), draws.end(), draw) != draws.end()) {
        CHECK(same_bits(row, all.data() + draw * shape.width, shape.width));
      } else {
        CHECK(std::all_of(row, row + shape.width, [](Real value) { return value == Real(untouched); }));
      }
    }
  }

  // What is not a number in one condition or draw is none of the others' concern.
  static void test_nan(const DenoiserShape& shape) {
    const DenoiserInputs sound(shape);
    DenoiserInputs inputs = sound;
    const double nan_value = std::numeric_limits<double>::quiet_NaN();
    const int64_t patient = sound.condition_index[1], draw = 4;
    inputs.condition[(patient * shape.tokens + 1) * shape.width] = nan_value;
    inputs.noise[draw * shape.width + shape.width - 1] = nan_value;
    const std::vector<Real> expected = latents(sound), result = latents(inputs);
    for (int64_t other = 0; other < shape.draws; ++other) {
      const Real* row = result.data() + other * shape.width;
      if (inputs.condition_index[other] == patient || other == draw) {
        CHECK(has_nan(row, shape.width));
      } else {
        CHECK(same_bits(row, expected.data() + other * shape.width, shape.width));
      }
    }
  }

  // No step noise is a step noise of zeros.
  static void test_without_step_noise(const DenoiserShape& shape) {
    DenoiserInputs inputs(shape);
    std::fill(inputs.step_noise.begin(), inputs.step_noise.end(), 0.0);
    const std::vector<Real> expected = latents(inputs);
    inputs.step_noise.clear();
    const std::vector<Real> result = latents(inputs);
    CHECK(same_bits(result.data(), expected.data(), shape.draws * shape.width));
  }

  // The companion may come before the loop or in its midst.
  static void test_companion(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const auto given_inputs = given(inputs);
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Real> alone = latents(inputs);
    const auto duration = std::chrono::steady_clock::now() - start;
    for (const int part : {0, 0, 3, 3}) {
      const Call<Weight, Real, Width> call(given_inputs, first_draws(shape.draws));
      std::thread companion([&] {
        if (part > 0) std::this_thread::sleep_for(duration / part);
        call.task()->help();
      });
      if (part == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
      const std::vector<Real> together = call.run();
      companion.join();
      CHECK(same_bits(together.data(), alone.data(), shape.draws * shape.width));
    }
  }

  // Through the thread that calls share.
  static void test_offer(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const std::vector<Real> alone = latents(inputs);
    const Call<Weight, Real, Width> call(given(inputs), first_draws(shape.draws));
    Companion::offer(call.task());
    const std::vector<Real> together = call.run();
    CHECK(same_bits(together.data(), alone.data(), shape.draws * shape.width));
  }

  static void test() {
    // Heads of 5 columns: parts of an odd width. 40 draws: the largest blocks of rows of every kernel and one more.
    test_against_naive({2, 10, 2, 3, 3, 40, 3});
    test_against_naive({1, 33, 3, 1, 2, 7, 2});   // one part; columns just above a panel
    test_against_naive({2, 76, 4, 2, 5, 17, 2});  // part width 38
    test_against_naive({1, 64, 2, 1, 1, 1, 1});   // whole panels, one row, one step
    test_against_naive({1, 4, 4, 3, 2, 3, 2});    // heads of one column
    test_against_naive({2, 12, 2, 0, 1, 5, 2});   // no condition rows
    test_row_counts({1, 10, 2, 2, 3, 41, 2});
    test_neighbours({2, 12, 2, 2, 4, 19, 2});
    test_nan({2, 12, 2, 3, 4, 19, 2});
    test_without_step_noise({1, 10, 2, 1, 2, 4, 2});
    test_companion({2, 72, 2, 2, 3, 5, 60});
    test_companion({1, 33, 3, 1, 2, 2, 4});  // one part: nothing to share
    test_offer({2, 72, 2, 2, 3, 5, 20});
  }
};

void test_set(InstructionSet set) {
  with_vector_width(set, [](auto width) {
    Engine<float, float, decltype(width)>::test();
    Engine<double, double, decltype(width)>::test();
    Engine<BFloat16Pair, float, decltype(width)>::test();
  });
}

}  // namespace

int main() {
  for (const InstructionSet set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (set <= best_instruction_set()) test_set(set);
  }
  if (best_instruction_set() == InstructionSet::avx512 && have_tiles()) {
    Engine<BFloat16Tile, float, VectorWidth<64>>::test();
  }
  return failures();
}
