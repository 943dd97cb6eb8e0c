// CPU kernel of ddim_sample: the whole sampling loop of all draws (common/denoiser.h holds the steps).
//
// With few draws the time goes into reading the weights, once per step and block of draws; up to 32 draws are one
// block, which is shared with the companion thread. More are several blocks, which threads take one after the other, so
// that a thread that is held up takes fewer.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "common/denoiser.h"
#include "common/denoiser_pack.h"
#include "common/dispatch.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// Below this many weights read in a call, waking the companion costs more than it saves.
constexpr int64_t least_shared_work = int64_t(1) << 22;
constexpr int64_t fewest_block_draws = 8;

// A pack on a cache line's boundary, where torch allocates it; a view into another tensor is copied.
Tensor aligned(const Tensor& pack) {
  if (reinterpret_cast<uintptr_t>(pack.const_data_ptr<uint8_t>()) % 64 == 0) return pack;
  Tensor copy = empty_on(pack, {pack.numel()}, ScalarType::Byte);
  std::memcpy(copy.mutable_data_ptr<uint8_t>(), pack.const_data_ptr<uint8_t>(), pack.numel());
  return copy;
}

// The tensor under another name: what its owner does to his (resize_, .data =) does not move this one's memory.
Tensor alias_of(const Tensor& tensor) {
  return torch::stable::narrow(const_cast<Tensor&>(tensor), 0, 0, tensor.size(0));
}

// What a call is given, made contiguous; kept until the companion has let go of it as well.
struct Inputs {
  Inputs(const Tensor& noise, const Tensor& condition, const Tensor& condition_index, const Tensor& step_noise,
         const Tensor& pack, const Tensor& modulation, const Tensor& coefficients, ScalarType type)
      : noise(alias_of(contiguous_as(noise, type))),
        condition(alias_of(contiguous_as(condition, type))),
        condition_index(alias_of(contiguous_as(condition_index, ScalarType::Long))),
        step_noise(alias_of(contiguous_as(step_noise, type))),
        pack(alias_of(pack)),
        modulation(alias_of(contiguous_as(modulation, type))),
        coefficients(alias_of(contiguous_as(coefficients, ScalarType::Double))) {}

  template <class Real>
  SamplingProblem<Real> problem(const DenoiserLayout& layout) const {
    return {layout,
            pack.const_data_ptr<uint8_t>(),
            noise.const_data_ptr<Real>(),
            step_noise.numel() ? step_noise.const_data_ptr<Real>() : nullptr,
            condition.const_data_ptr<Real>(),
            condition_index.const_data_ptr<int64_t>(),
            modulation.const_data_ptr<Real>(),
            coefficients.const_data_ptr<double>(),
            noise.size(0),
            condition.size(0),
            condition.size(1),
            coefficients.size(0)};
  }

  const Tensor noise, condition, condition_index, step_noise, pack, modulation, coefficients;
  std::vector<int64_t> draws;  // those with a condition
};

void check(const Inputs& inputs, const DenoiserHeader& header) {
  const int64_t width = header.width, steps = inputs.coefficients.size(0);
  STD_TORCH_CHECK(inputs.noise.dim() == 2 && inputs.noise.size(1) == width, "noise must be [S, ", width,
                  "], as the denoiser was packed");
  STD_TORCH_CHECK(inputs.condition.dim() == 3 && inputs.condition.size(2) == width, "condition must be [P, C, ", width,
                  "], as the denoiser was packed");
  STD_TORCH_CHECK(inputs.condition_index.dim() == 1 && inputs.condition_index.size(0) == inputs.noise.size(0),
                  "condition_index must have one entry per row of noise");
  STD_TORCH_CHECK(inputs.coefficients.dim() == 2 && inputs.coefficients.size(1) == coefficient_columns,
                  "coefficients must be [T, 5]");
  const Tensor& modulation = inputs.modulation;
  STD_TORCH_CHECK(modulation.dim() == 4 && modulation.size(0) == steps && modulation.size(1) == header.layers &&
                      modulation.size(2) == 6 && modulation.size(3) == width,
                  "modulation must be [", steps, ", ", header.layers, ", 6, ", width, "]");
  const Tensor& step_noise = inputs.step_noise;
  STD_TORCH_CHECK(
      step_noise.numel() == 0 || (step_noise.dim() == 3 && step_noise.size(0) == steps &&
                                  step_noise.size(1) == inputs.noise.size(0) && step_noise.size(2) == width),
      "step_noise must be empty or [", steps, ", ", inputs.noise.size(0), ", ", width, "]");
  const InstructionSet set = static_cast<InstructionSet>(header.instruction_set);
  const InstructionSet best = best_instruction_set(static_cast<PackType>(header.type));
  STD_TORCH_CHECK(set <= best, "the denoiser was packed for ", name_of(set),
                  ", which this CPU does not have (its best is ", name_of(best), "): pack it again");
}

// Calls body(i) for i in [0, count) on as many threads as torch grants, each taking the next one when it is done.
template <class Body>
void for_each_in_turn(int64_t count, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1)) < count;) body(i);
  };
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    work(0, 1);
  } else {
    torch::stable::parallel_for(0, threads, 1, work);
  }
}

template <class Weight, class Real, class Width>
void sample(Width width, const std::shared_ptr<Inputs>& inputs, const DenoiserLayout& layout, Real* output) {
  const SamplingProblem<Real> problem = inputs->template problem<Real>(layout);
  const int64_t draws = static_cast<int64_t>(inputs->draws.size());
  const int64_t threads = torch::stable::get_num_threads();
  if (draws == 0) return;

  // Blocks are of even size, and no thread is left without one.
  int64_t blocks = 1;
  if (draws > most_shared_draws) {
    const int64_t needed = (draws + most_block_draws<Weight> - 1) / most_block_draws<Weight>;
    blocks = std::min((needed + threads - 1) / threads * threads, std::max(needed, draws / fewest_block_draws));
  }
  const int64_t work = problem.steps * denoiser_weight_count(layout.layers, layout.width);
  const auto kept = std::make_shared<ConditionKeys<Real>>(problem);
  const auto sampling_of = [&](int64_t block, bool shared) {
    const int64_t first = draws * block / blocks, last = draws * (block + 1) / blocks;
    return std::make_shared<Sampling<Weight, Real, Width>>(problem, kept, inputs->draws.data() + first, last - first,
                                                           inputs, shared);
  };
  const auto look_at_conditions = [&] {
    if (problem.tokens == 0) return;
    const int64_t together = std::max<int64_t>(1, most_block_draws<Weight> / problem.tokens);
    for_each_in_turn((problem.patients + together - 1) / together, [&](int64_t i) {
      keep_condition_keys<Weight>(width, problem, i * together, std::min(problem.patients, (i + 1) * together), *kept);
    });
  };
  if (blocks == 1 && threads > 1 && layout.parts == 2 && work >= least_shared_work) {
    const auto sampling = sampling_of(0, true);
    struct LetGo {
      Sampling<Weight, Real, Width>& sampling;
      ~LetGo() { sampling.let_companion_go(); }
    } let_go{*sampling};
    // Before the conditions are looked at, so that it is awake when the loop begins.
    Companion::offer(sampling);
    look_at_conditions();
    sampling->run(output);
  } else {
    look_at_conditions();
    for_each_in_turn(blocks, [&](int64_t i) { sampling_of(i, false)->run(output); });
  }
}

Tensor ddim_sample(const Tensor& noise, const Tensor& condition, const Tensor& condition_index,
                   const Tensor& step_noise, const Tensor& packed_weights, const Tensor& modulation,
                   const Tensor& coefficients) {
  STD_TORCH_CHECK(packed_weights.scalar_type() == ScalarType::Byte && packed_weights.dim() == 1,
                  "packed_weights must be uint8, of one dimension: pack them with pack_denoiser");
  Tensor pack = aligned(contiguous_as(packed_weights, ScalarType::Byte));
  DenoiserHeader header = denoiser_header(pack);
  if (header.form == static_cast<int64_t>(PackForm::flat)) {
    const bool wide = header.type == static_cast<int64_t>(PackType::float64);
    pack = pack_denoiser(pack, wide ? "float64" : "float32", "");
    header = denoiser_header(pack);
  }
  const DenoiserLayout layout(header.layers, header.width, header.heads, static_cast<PackType>(header.type));
  const ScalarType type = layout.type == PackType::float64 ? ScalarType::Double : ScalarType::Float;
  const std::shared_ptr<Inputs> inputs =
      std::make_shared<Inputs>(noise, condition, condition_index, step_noise, pack, modulation, coefficients, type);
  check(*inputs, header);

  const int64_t draws = noise.size(0), width = header.width;
  Tensor output = empty_on(noise, {draws, width}, type);
  const int64_t* index = inputs->condition_index.const_data_ptr<int64_t>();
  const auto run = [&](auto real, auto weight) {
    using Real = decltype(real);
    Real* latents = output.mutable_data_ptr<Real>();
    for (int64_t draw = 0; draw < draws; ++draw) {
      if (index[draw] >= 0 && index[draw] < condition.size(0)) {
        inputs->draws.push_back(draw);
      } else {
        std::fill_n(latents + draw * width, width, std::numeric_limits<Real>::quiet_NaN());
      }
    }
    with_vector_width(static_cast<InstructionSet>(header.instruction_set),
                      [&](auto tag) { sample<decltype(weight)>(tag, inputs, layout, latents); });
  };
  if (layout.type == PackType::float64) {
    run(double(), double());
  } else if (layout.type == PackType::bfloat16) {
    if (header.instruction_set == static_cast<int64_t>(InstructionSet::amx)) {
      run(float(), BFloat16Tile());
    } else {
      run(float(), BFloat16Pair());
    }
  } else {
    run(float(), float());
  }
  return contiguous_as(output, noise.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) { m.impl("ddim_sample", TORCH_BOX(&ddim_sample)); }

}  // namespace survcore
