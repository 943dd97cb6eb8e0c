// common/denoiser_phases.h, which the CUDA kernel runs, as loops over blocks and threads: against a naive loop, and bit
// by bit against itself, whatever the number and order of blocks and threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "tests/check.h"
#include "tests/host_team.h"
#include "tests/naive_denoiser.h"

using namespace survcore;

namespace {

constexpr double untouched = 12345;

// How a call is divided.
struct Division {
  int64_t column_groups = 1, row_groups = 1;
  int threads = 64;
  bool resident = false;   // blocks keep their weights, as in the cooperative kernel
  bool backwards = false;  // blocks, warps and threads in the opposite order
};

// Memory of exactly its size on a boundary of 16 bytes, so that a sanitizer sees what goes beyond.
template <class Number>
class Exact {
 public:
  explicit Exact(int64_t count) : count_(count), data_(static_cast<Number*>(operator new(bytes(), alignment))) {
    std::memset(static_cast<void*>(data_.get()), 0xff, bytes());  // NaN, so that what was never written is seen
  }
  Exact(const std::vector<double>& values) : Exact(static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < count_; ++i) data_.get()[i] = static_cast<Number>(values[i]);
  }
  Number* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t alignment{16};
  struct Free {
    void operator()(Number* data) const { operator delete(data, alignment); }
  };
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(Number); }

  int64_t count_;
  std::unique_ptr<Number, Free> data_;
};

template <class Real, class Weight>
constexpr PackType type_of_pack = sizeof(Real) == 8                  ? PackType::float64
                                  : std::is_same_v<Weight, BFloat16> ? PackType::bfloat16
                                                                     : PackType::float32;

// A flat pack of the weights, which stand one after the other.
template <class Real, class Weight>
class FlatPack {
 public:
  FlatPack(const DenoiserInputs& inputs, const FlatDenoiser& layout)
      : next_(inputs.weights.data()), bytes_(layout.bytes) {
    const DenoiserShape& shape = inputs.shape;
    const int64_t header[] = {DenoiserHeader::expected_magic,
                              static_cast<int64_t>(PackForm::flat),
                              static_cast<int64_t>(type_of_pack<Real, Weight>),
                              0,
                              shape.layers,
                              shape.width,
                              shape.heads,
                              layout.bytes};
    std::memcpy(bytes_.get(), header, sizeof(header));
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const int64_t start = layout.layer_start(layer);
      norm(start, layout.attention_norm, layout.width);
      affine(layout, DenoiserProduct::query_key_value, layer);
      affine(layout, DenoiserProduct::projection, layer);
      norm(start, layout.mlp_norm, layout.width);
      affine(layout, DenoiserProduct::expand, layer);
      affine(layout, DenoiserProduct::contract, layer);
    }
    norm(0, layout.last_norm, layout.width);
    affine(layout, DenoiserProduct::output, 0);
    CHECK(next_ == inputs.weights.data() + inputs.weights.size());
  }
  unsigned char* get() const { return bytes_.get(); }

 private:
  void vector(int64_t offset, int64_t count) {
    Real* place = reinterpret_cast<Real*>(bytes_.get() + offset);
    for (int64_t i = 0; i < count; ++i) place[i] = static_cast<Real>(*next_++);
  }
  void norm(int64_t start, FlatDenoiser::Norm norm, int64_t width) {
    vector(start + norm.weight, width);
    vector(start + norm.bias, width);
  }
  void affine(const FlatDenoiser& layout, DenoiserProduct product, int64_t layer) {
    const FlatDenoiser::Affine place = layout.place(product, layer);
    Weight* matrix = reinterpret_cast<Weight*>(bytes_.get() + place.matrix);
    for (int64_t i = 0; i < layout.columns(product) * layout.depth(product); ++i) {
      if constexpr (std::is_same_v<Weight, BFloat16>) {
        matrix[i].bits = to_bfloat16(static_cast<float>(*next_++));
      } else {
        matrix[i] = static_cast<Weight>(*next_++);
      }
    }
    vector(place.bias, layout.columns(product));
  }

  const double* next_;
  Exact<unsigned char> bytes_;
};

template <class Real, class Weight>
class Call {
 public:
  explicit Call(const DenoiserInputs& inputs)
      : shape_(inputs.shape),
        layout_(inputs.shape.layers, inputs.shape.width, type_of_pack<Real, Weight>),
        pack_(inputs, layout_),
        noise_(inputs.noise),
        step_noise_(inputs.step_noise),
        condition_(inputs.condition),
        modulation_(inputs.modulation),
        coefficients_(inputs.coefficients),
        condition_index_(inputs.condition_index),
        without_noise_(inputs.step_noise.empty()) {}

  // [draws, width]
  std::vector<Real> run(const Division& division) const {
    return division.resident ? run<true>(division) : run<false>(division);
  }

  unsigned char* pack() const { return pack_.get(); }

 private:
  template <bool resident>
  std::vector<Real> run(const Division& division) const {
    const int64_t own = shape_.draws * shape_.width, shared = shape_.patients * shape_.tokens * shape_.width;
    std::vector<Real> output(own, Real(untouched));
    const Exact<Real> state(own), previous_state(own), previous_output(own), rows(own), query_key_value(3 * own),
        hidden(4 * own), condition_rows(shared), condition_query_key_value(shape_.layers * 3 * shared),
        condition_hidden(4 * shared);
    const PhaseProblem<Real> problem{layout_,
                                     type_of_pack<Real, Weight>,
                                     pack_.get(),
                                     noise_.get(),
                                     without_noise_ ? nullptr : step_noise_.get(),
                                     condition_.get(),
                                     condition_index_.data(),
                                     modulation_.get(),
                                     coefficients_.get(),
                                     shape_.draws,
                                     shape_.patients,
                                     shape_.tokens,
                                     shape_.steps,
                                     output.data(),
                                     state.get(),
                                     previous_state.get(),
                                     previous_output.get(),
                                     rows.get(),
                                     query_key_value.get(),
                                     hidden.get(),
                                     condition_rows.get(),
                                     condition_query_key_value.get(),
                                     condition_hidden.get()};
    const ResidentWeights places(layout_, division.column_groups);
    const HostTeam team{division.threads, division.backwards};
    const int64_t blocks = division.column_groups * division.row_groups;
    std::vector<Exact<Weight>> kept;
    const auto runner = [&](int64_t block, Real* memory) {
      const BlockShare share{block % division.column_groups, division.column_groups, block / division.column_groups,
                             division.row_groups};
      return PhaseRunner<Real, Weight, resident, HostTeam>{
          problem, share, std::max<int64_t>(1, problem.heads()), memory, resident ? kept[block].get() : nullptr,
          &places, team};
    };
    for (int64_t block = 0; resident && block < blocks; ++block) {
      kept.emplace_back(places.weights);
      runner(block, nullptr).keep_weights();
    }
    const PhaseSequence phases = problem.phases();
    for (int64_t i = 0; i < phases.count(); ++i) {
      for (int64_t j = 0; j < blocks; ++j) {
        const Exact<Real> memory(block_numbers(shape_.width));
        runner(division.backwards ? blocks - 1 - j : j, memory.get()).run(phases.at(i));
      }
    }
    return output;
  }

  const DenoiserShape shape_;
  const FlatDenoiser layout_;
  const FlatPack<Real, Weight> pack_;
  const Exact<Real> noise_, step_noise_, condition_, modulation_;
  const Exact<double> coefficients_;
  const std::vector<int64_t> condition_index_;
  const bool without_noise_;
};

template <class Real>
bool same_bits(const Real* a, const Real* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(Real)) == 0;
}

template <class Real>
bool all_nan(const Real* row, int64_t width) {
  return std::all_of(row, row + width, [](Real value) { return std::isnan(value); });
}

template <class Real, class Weight>
struct Phases {
  static constexpr double error = sizeof(Real) == 8 ? 4e-15 : 2e-6;

  static std::vector<Real> latents(const DenoiserInputs& inputs, const Division& division = {}) {
    return Call<Real, Weight>(inputs).run(division);
  }

  static void test_against_naive(const DenoiserShape& shape) {
    const DenoiserInputs inputs(shape);
    const NaiveDenoiser naive(inputs, {std::is_same_v<Weight, BFloat16>, false});
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
    for (const Division& division :
         {Division{3, 1, 64, true, false}, Division{8, 1, 32, true, true}, Division{5, 1, 96, false, true},
          Division{2, 3, 64, false, true}, Division{1000, 1, 32, true, false}}) {
      CHECK(same_bits(latents(inputs, division).data(), result.data(), shape.draws * shape.width));
    }
  }

  // What is not a number in one condition or draw is none of the others' concern; an unknown patient gives NaN.
  static void test_nan(const DenoiserShape& shape) {
    const DenoiserInputs sound(shape);
    DenoiserInputs inputs = sound;
    const double nan_value = std::numeric_limits<double>::quiet_NaN();
    const int64_t patient = sound.condition_index[1], draw = 4;
    inputs.condition[(patient * shape.tokens + 1) * shape.width] = nan_value;
    inputs.noise[draw * shape.width + shape.width - 1] = nan_value;
    inputs.condition_index[5] = -1;
    inputs.condition_index[6] = shape.patients;
    const std::vector<Real> expected = latents(sound), result = latents(inputs);
    for (int64_t other = 0; other < shape.draws; ++other) {
      const Real* row = result.data() + other * shape.width;
      if (inputs.condition_index[other] == patient || (other >= 4 && other <= 6)) {
        CHECK(all_nan(row, shape.width));
      } else {
        CHECK(same_bits(row, expected.data() + other * shape.width, shape.width));
      }
    }
  }

  // No step noise is a step noise of zeros; no steps leave the noise as it is.
  static void test_without(const DenoiserShape& shape) {
    DenoiserInputs inputs(shape);
    std::fill(inputs.step_noise.begin(), inputs.step_noise.end(), 0.0);
    const std::vector<Real> expected = latents(inputs);
    inputs.step_noise.clear();
    const std::vector<Real> result = latents(inputs);
    CHECK(same_bits(result.data(), expected.data(), shape.draws * shape.width));
    DenoiserShape none = shape;
    none.steps = 0;
    const DenoiserInputs still(none);
    const std::vector<Real> noise(still.noise.begin(), still.noise.end());
    CHECK(latents(still) == noise);
  }

  static void test_header_of_another() {
    const DenoiserShape shape{1, 8, 2, 1, 1, 3, 1};
    for (const int64_t position : {0, 1, 2, 4, 5, 6}) {
      const Call<Real, Weight> call{DenoiserInputs(shape)};
      const int64_t wrong = 3;
      std::memcpy(call.pack() + 8 * position, &wrong, sizeof(wrong));
      const std::vector<Real> result = call.run({});
      CHECK(all_nan(result.data(), shape.draws * shape.width));
    }
  }

  static void test() {
    test_against_naive({2, 12, 2, 3, 3, 19, 3});  // heads of 6 columns, three chunks of draws
    test_against_naive({1, 33, 3, 1, 2, 7, 2});   // a width without vectors
    test_against_naive({3, 40, 4, 2, 5, 9, 2});   // more columns than lanes
    test_against_naive({1, 64, 2, 1, 1, 1, 1});   // one row, one step
    test_against_naive({2, 4, 4, 3, 2, 3, 2});    // heads of one column: a tile of one key
    test_against_naive({1, 8, 2, 9, 2, 4, 2});    // more keys than a tile holds
    test_against_naive({1, 6, 3, 9, 2, 4, 2});    // more keys than a tile holds
    test_against_naive({2, 12, 2, 0, 1, 5, 2});   // no condition rows
    test_nan({2, 12, 2, 3, 4, 19, 2});
    test_without({1, 10, 2, 1, 2, 4, 2});
    test_header_of_another();
  }
};

// Every layout's arrays lie apart, and sizes tell the types.
void test_layouts() {
  for (int64_t layers = 1; layers <= 3; ++layers) {
    for (int64_t width = 1; width <= 70; ++width) {
      const FlatDenoiser single(layers, width, PackType::float32), wide(layers, width, PackType::float64),
          half(layers, width, PackType::bfloat16);
      CHECK(single.bytes == 64 + 4 * denoiser_weight_count(layers, width));
      CHECK(wide.bytes == 64 + 8 * denoiser_weight_count(layers, width));
      CHECK(half.bytes != single.bytes && half.bytes != wide.bytes);
    }
  }
}

}  // namespace

int main() {
  test_layouts();
  Phases<float, float>::test();
  Phases<double, double>::test();
  Phases<float, BFloat16>::test();
  return failures();
}
