// CUDA kernel of ddim_sample: the phases of common/denoiser_phases.h for all blocks of the device.
//
// Few draws: one cooperative launch for the whole call. The blocks, a power of two of them and at most one to a
// multiprocessor, if the occupancy query says that all are resident, own a share of the columns of every product and
// keep these weights in shared memory where they fit (else they are read from the L2 cache in each step), and meet at a
// barrier behind each of the 4 L + 1 phases of a step. The time goes into these meetings, not into bytes or operations:
// a step of 4 layers of 256 columns is 17 phases, each a barrier of about a microsecond, a read of the rows from L2 and
// a few hundred operations of each lane.
//
// Many draws, or where the blocks cannot all be resident: one launch for each phase. Both run the same phases, without
// the host ever waiting for the device, and can be captured in a CUDA graph.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/cuda_launch.h"
#include "common/cuda_team.h"
#include "common/denoiser_phases.h"
#include "common/tensors.h"

namespace survcore {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_lanes;
constexpr int64_t most_cooperative_draws = 64;
constexpr int64_t most_cooperative_tokens = 512;     // of all patients' conditions
constexpr int64_t blocks_per_multiprocessor = 4;     // of a launch for a phase; a block then takes several chunks
constexpr int64_t most_arrivals = int64_t(1) << 31;  // what the barrier can count

// Returns when all blocks have come here for the `generation`-th time, and sees what they wrote before. The counter
// starts at 0 and only grows.
__device__ __forceinline__ void meet(unsigned* arrivals, unsigned generation) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrivals, 1u);
    while (*static_cast<volatile unsigned*>(arrivals) < generation * gridDim.x) {
    }
    __threadfence();
  }
  __syncthreads();
}

__device__ __forceinline__ int64_t at_least_one(int64_t heads) { return heads > 0 ? heads : 1; }

template <class Real, class Weight, bool on_chip>
__global__ void __launch_bounds__(threads, 1)
    ddim_sample_cooperative(const __grid_constant__ PhaseProblem<Real> problem,
                            const __grid_constant__ ResidentWeights places,
                            unsigned* arrivals) {  // [1], zero
  extern __shared__ __align__(16) unsigned char memory[];
  Real* own = reinterpret_cast<Real*>(memory);
  Weight* resident = nullptr;
  if constexpr (on_chip) resident = reinterpret_cast<Weight*>(own + block_numbers(problem.layout.width));
  const BlockShare share{blockIdx.x, gridDim.x, 0, 1};
  PhaseRunner<Real, Weight, on_chip, DeviceTeam> runner{
      problem, share, at_least_one(problem.heads()), own, resident, on_chip ? &places : nullptr, {}};
  if constexpr (on_chip) runner.keep_weights();
  const PhaseSequence phases = problem.phases();
  const int64_t count = phases.count();
  for (int64_t i = 0; i < count; ++i) {
    const DenoiserPhase phase = phases.at(i);
    if (i > 0) meet(arrivals, static_cast<unsigned>(i));
    runner.run(phase);
  }
}

template <class Real, class Weight>
__global__ void __launch_bounds__(threads, 2)
    ddim_sample_phase(const __grid_constant__ PhaseProblem<Real> problem, const __grid_constant__ DenoiserPhase phase,
                      Real* scratch) {  // [blocks, block_numbers], or null: shared memory
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t block = int64_t(blockIdx.y) * gridDim.x + blockIdx.x;
  const BlockShare share{blockIdx.y, gridDim.y, blockIdx.x, gridDim.x};
  Real* own = scratch ? scratch + block * block_numbers(problem.layout.width) : reinterpret_cast<Real*>(memory);
  PhaseRunner<Real, Weight, false, DeviceTeam> runner{problem, share, at_least_one(problem.heads()), own, nullptr,
                                                      nullptr, {}};
  runner.run(phase);
}

struct Device {
  int multiprocessors = 0, shared_bytes = 0, cooperative = 0;

  explicit Device(int32_t index) {
    const bool known =
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index) == cudaSuccess &&
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index) == cudaSuccess &&
        cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, index) == cudaSuccess;
    STD_TORCH_CHECK(known, "ddim_sample: CUDA device ", index, " does not tell its size");
  }
};

// Always for as much as there is: the limit is the kernel's, whatever launches of other sizes other threads prepare.
template <class Kernel>
bool allow_shared(Kernel kernel, const Device& device) {
  const bool allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes) == cudaSuccess;
  if (!allowed) cudaGetLastError();  // another path is taken: nobody else is to find this error
  return allowed;
}

// Whether the whole call was launched as one grid of so many blocks.
template <class Real, class Weight, bool on_chip>
bool launch_cooperative(const PhaseProblem<Real>& problem, const Device& device, int64_t blocks, unsigned* arrivals,
                        cudaStream_t stream) {
  const auto kernel = ddim_sample_cooperative<Real, Weight, on_chip>;
  PhaseProblem<Real> given = problem;
  ResidentWeights places(problem.layout, blocks);
  const int64_t bytes = block_numbers(problem.layout.width) * static_cast<int64_t>(sizeof(Real)) +
                        (on_chip ? places.weights * static_cast<int64_t>(sizeof(Weight)) : 0);
  if (bytes > device.shared_bytes || !allow_shared(kernel, device)) return false;
  int per_multiprocessor = 0;
  cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, bytes);
  if (error == cudaSuccess && int64_t(per_multiprocessor) * device.multiprocessors < blocks) return false;
  if (error == cudaSuccess) {
    void* arguments[] = {&given, &places, &arrivals};
    error = cudaLaunchCooperativeKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), arguments, bytes,
                                        stream);
  }
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess;
}

template <class Real, class Weight>
bool launch_whole(const PhaseProblem<Real>& problem, const Device& device, unsigned* arrivals, cudaStream_t stream) {
  // More blocks than that leave warps without a column in the widest product.
  const int64_t useful = std::min<int64_t>(device.multiprocessors, (4 * problem.layout.width + warps - 1) / warps);
  int64_t even = 1;  // a power of two divides most widths into equal shares
  while (2 * even <= useful) even *= 2;
  if (!device.cooperative || problem.draws > most_cooperative_draws ||
      problem.patients * problem.tokens > most_cooperative_tokens ||
      problem.phases().count() >= most_arrivals / useful) {
    return false;
  }
  const cudaError_t zeroed = cudaMemsetAsync(arrivals, 0, sizeof(unsigned), stream);
  STD_TORCH_CHECK(zeroed == cudaSuccess, "ddim_sample: ", cudaGetErrorString(zeroed));
  return launch_cooperative<Real, Weight, true>(problem, device, even, arrivals, stream) ||
         launch_cooperative<Real, Weight, true>(problem, device, useful, arrivals, stream) ||
         launch_cooperative<Real, Weight, false>(problem, device, even, arrivals, stream);
}

template <class Real, class Weight>
void launch_phases(const PhaseProblem<Real>& problem, const Device& device, const Tensor& like, cudaStream_t stream) {
  const auto kernel = ddim_sample_phase<Real, Weight>;
  const int64_t bytes = block_numbers(problem.layout.width) * static_cast<int64_t>(sizeof(Real));
  const bool on_chip = bytes <= device.shared_bytes && allow_shared(kernel, device);
  const int64_t blocks = (on_chip ? blocks_per_multiprocessor : 1) * device.multiprocessors;
  Tensor scratch = empty_on(like, {on_chip ? 0 : blocks * bytes}, ScalarType::Byte);
  Real* numbers = on_chip ? nullptr : static_cast<Real*>(scratch.mutable_data_ptr());
  const PhaseSequence phases = problem.phases();
  for (int64_t i = 0; i < phases.count(); ++i) {
    const DenoiserPhase phase = phases.at(i);
    const int64_t rows = phase.of_draws ? problem.draws : problem.patients * problem.tokens;
    const int64_t row_groups = std::min((rows + chunk_rows - 1) / chunk_rows, blocks);
    const int64_t useful = (problem.layout.columns(phase.product) + warps - 1) / warps;
    const int64_t column_groups = std::min({blocks / row_groups, useful, most_column_groups});
    kernel<<<dim3(static_cast<unsigned>(row_groups), static_cast<unsigned>(column_groups)), threads,
             on_chip ? bytes : 0, stream>>>(problem, phase, numbers);
    check_launch("ddim_sample");
  }
}

// Contiguous, and of a view that begins anywhere a copy that begins where four numbers can be read at once.
Tensor aligned(const Tensor& tensor, ScalarType type) {
  const Tensor whole = contiguous_as(tensor, type);
  return reinterpret_cast<uintptr_t>(whole.const_data_ptr()) % 16 == 0 ? whole : torch::stable::clone(whole);
}

// What a call is given, contiguous.
struct Inputs {
  Inputs(const Tensor& noise, const Tensor& condition, const Tensor& condition_index, const Tensor& step_noise,
         const Tensor& pack, const Tensor& modulation, const Tensor& coefficients, ScalarType type)
      : noise(contiguous_as(noise, type)),
        condition(aligned(condition, type)),
        condition_index(contiguous_as(condition_index, ScalarType::Long)),
        step_noise(contiguous_as(step_noise, type)),
        pack(aligned(pack, ScalarType::Byte)),
        modulation(aligned(modulation, type)),
        coefficients(contiguous_as(coefficients, ScalarType::Double)) {}

  Tensor noise, condition, condition_index, step_noise, pack, modulation, coefficients;
};

template <class Real>
const Real* read(const Tensor& tensor) {
  return static_cast<const Real*>(tensor.const_data_ptr());
}

template <class Real, class Weight>
void sample(const Inputs& inputs, const FlatDenoiser& layout, PackType type, const Device& device, Tensor& output,
            cudaStream_t stream) {
  const int64_t draws = inputs.noise.size(0), patients = inputs.condition.size(0), width = layout.width;
  // Without a patient every draw becomes NaN, whatever is computed: nothing is.
  const int64_t tokens = patients > 0 ? inputs.condition.size(1) : 0;
  const int64_t steps = patients > 0 ? inputs.coefficients.size(0) : 0;
  const int64_t own = draws * width, shared = patients * tokens * width;
  constexpr int64_t line = 32;  // numbers; every array begins on one
  const auto rounded = [](int64_t count) { return (count + line - 1) / line * line; };
  const int64_t numbers = 4 * rounded(own) + rounded(3 * own) + rounded(4 * own) + rounded(shared) +
                          rounded(layout.layers * 3 * shared) + rounded(4 * shared);
  Tensor workspace = empty_on(inputs.noise, {(line + numbers) * static_cast<int64_t>(sizeof(Real))}, ScalarType::Byte);
  unsigned* arrivals = static_cast<unsigned*>(workspace.mutable_data_ptr());
  Real* next = static_cast<Real*>(workspace.mutable_data_ptr()) + line;
  const auto take = [&](int64_t count) {
    Real* start = next;
    next += rounded(count);
    return start;
  };
  const PhaseProblem<Real> problem{layout,
                                   type,
                                   read<unsigned char>(inputs.pack),
                                   read<Real>(inputs.noise),
                                   inputs.step_noise.numel() ? read<Real>(inputs.step_noise) : nullptr,
                                   read<Real>(inputs.condition),
                                   read<int64_t>(inputs.condition_index),
                                   read<Real>(inputs.modulation),
                                   read<double>(inputs.coefficients),
                                   draws,
                                   patients,
                                   tokens,
                                   steps,
                                   static_cast<Real*>(output.mutable_data_ptr()),
                                   take(own),
                                   take(own),
                                   take(own),
                                   take(own),
                                   take(3 * own),
                                   take(4 * own),
                                   take(shared),
                                   take(layout.layers * 3 * shared),
                                   take(4 * shared)};
  STD_TORCH_CHECK(problem.phases().count() < int64_t(1) << 31, "ddim_sample: too many steps");
  if (!launch_whole<Real, Weight>(problem, device, arrivals, stream)) {
    launch_phases<Real, Weight>(problem, device, inputs.noise, stream);
  }
}

// The type of a flat pack of so many bytes.
PackType type_of(const Tensor& pack, int64_t layers, int64_t width) {
  PackType found = PackType::float32;
  bool known = false;
  for (const PackType type : {PackType::float32, PackType::bfloat16, PackType::float64}) {
    if (pack.numel() != FlatDenoiser(layers, width, type).bytes) continue;
    found = type;
    known = true;
  }
  STD_TORCH_CHECK(known, "packed_weights has ", pack.numel(), " bytes, which is no denoiser of ", layers,
                  " layers and width ", width, " that was packed on a CUDA device");
  return found;
}

void check(const Tensor& noise, const Tensor& condition, const Tensor& condition_index, const Tensor& step_noise,
           const Tensor& pack, const Tensor& modulation, const Tensor& coefficients) {
  using Named = std::pair<const char*, const Tensor*>;
  for (const Named& given :
       {Named{"condition", &condition}, Named{"condition_index", &condition_index}, Named{"packed_weights", &pack},
        Named{"modulation", &modulation}, Named{"coefficients", &coefficients}}) {
    check_device(given.first, *given.second, "noise", noise);
  }
  STD_TORCH_CHECK(pack.scalar_type() == ScalarType::Byte && pack.dim() == 1,
                  "packed_weights must be uint8, of one dimension: pack them with pack_denoiser");
  STD_TORCH_CHECK(noise.dim() == 2 && noise.size(1) > 0 && noise.size(1) <= most_denoiser_width,
                  "noise must be [S, D] with D in 1..", most_denoiser_width);
  const int64_t draws = noise.size(0), width = noise.size(1);
  STD_TORCH_CHECK(condition.dim() == 3 && condition.size(2) == width, "condition must be [P, C, ", width, "]");
  STD_TORCH_CHECK(condition_index.dim() == 1 && condition_index.size(0) == draws,
                  "condition_index must have one entry per row of noise");
  STD_TORCH_CHECK(coefficients.dim() == 2 && coefficients.size(1) == 5, "coefficients must be [T, 5]");
  const int64_t steps = coefficients.size(0);
  STD_TORCH_CHECK(modulation.dim() == 4 && modulation.size(0) == steps && modulation.size(1) > 0 &&
                      modulation.size(2) == 6 && modulation.size(3) == width,
                  "modulation must be [", steps, ", L, 6, ", width, "]");
  if (step_noise.numel() > 0) {
    check_device("step_noise", step_noise, "noise", noise);
    STD_TORCH_CHECK(step_noise.dim() == 3 && step_noise.size(0) == steps && step_noise.size(1) == draws &&
                        step_noise.size(2) == width,
                    "step_noise must be empty or [", steps, ", ", draws, ", ", width, "]");
  }
}

Tensor ddim_sample(const Tensor& noise, const Tensor& condition, const Tensor& condition_index,
                   const Tensor& step_noise, const Tensor& packed_weights, const Tensor& modulation,
                   const Tensor& coefficients) {
  check(noise, condition, condition_index, step_noise, packed_weights, modulation, coefficients);
  const torch::stable::accelerator::DeviceGuard guard(noise.get_device());
  const cudaStream_t stream = current_stream(noise.get_device());
  const int64_t layers = modulation.size(1), width = noise.size(1);
  const PackType pack_type = type_of(packed_weights, layers, width);
  const ScalarType type = pack_type == PackType::float64 ? ScalarType::Double : ScalarType::Float;
  Tensor output = empty_on(noise, {noise.size(0), width}, type);
  if (noise.size(0) > 0) {
    const Inputs inputs(noise, condition, condition_index, step_noise, packed_weights, modulation, coefficients, type);
    const FlatDenoiser layout(layers, width, pack_type);
    const Device device(noise.get_device());
    if (pack_type == PackType::float64) {
      sample<double, double>(inputs, layout, pack_type, device, output, stream);
    } else if (pack_type == PackType::bfloat16) {
      sample<float, BFloat16>(inputs, layout, pack_type, device, output, stream);
    } else {
      sample<float, float>(inputs, layout, pack_type, device, output, stream);
    }
  }
  return contiguous_as(output, noise.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CUDA, m) { m.impl("ddim_sample", TORCH_BOX(&ddim_sample)); }

}  // namespace survcore
