// CUDA kernels of discrete_hazard_nll. Four lanes share a row: neighbouring lanes read neighbouring bins, and the few
// bins of a survival head leave no lane idle for long. One pass over the logits forward (a second, one-block kernel
// adds the partial sums in a fixed order: deterministic, no atomics) and one backward. The mathematics is
// core/hazard.h, shared with the CPU kernel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/cuda_launch.h"
#include "common/hazard_arguments.h"
#include "common/tensors.h"
#include "core/hazard.h"

namespace survcore {
namespace {

constexpr int threads = 256;
constexpr int lanes_per_row = 4;
constexpr int rows_per_block = threads / lanes_per_row;
constexpr int max_blocks = 4096;  // blocks then walk over several groups of rows

template <class Real, class Code>
struct Problem {
  const Real* logits;       // [rows, bins]
  const int64_t* time_bin;  // [rows]
  const Code* event;        // [rows]
  const Real* weights;      // [rows], or null: all 1
  int64_t rows;
  int32_t bins;
  HazardForm form;
  Real alpha;
};

template <class Real>
struct Row {
  HazardRow bounds;
  Real factor;  // of the row's sum; NaN for an invalid row (it reads all bins), 0 for one that is left out
  Real weight;

  template <class Code>
  __device__ Row(const Problem<Real, Code>& problem, int64_t row) {
    const int32_t event = event_of(problem.event[row]);
    const int64_t time_bin = problem.time_bin[row];
    const bool valid = hazard_row_valid(time_bin, event, problem.bins);
    bounds = hazard_row(time_bin, event, problem.form);
    if (!valid) bounds = {0, problem.bins, -1};
    weight = problem.weights ? problem.weights[row] : Real(1);
    const Real product = weight * (Real(1) - problem.alpha * Real(event == kCensored));
    factor = weight == Real(0) ? Real(0) : valid ? product : Real(NAN);
    if (factor == Real(0)) bounds.end = 0;
  }
};

// Sum over the threads of a block, given to thread 0, in a fixed order.
__device__ double block_sum(double value) {
  __shared__ double partial[threads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < threads / 32; ++warp) total += partial[warp];
  }
  return total;
}

template <class Real, class Code>
__global__ void __launch_bounds__(threads)
    forward_kernel(Problem<Real, Code> problem,
                   Real* losses,       // [rows], or null
                   double* partial) {  // [blocks, 2]: sums of losses and of weights
  const int lane = threadIdx.x % lanes_per_row;
  double loss_sum = 0;
  double weight_sum = 0;
  // The bound is the same for all threads of a block, so that all take part in the shuffles.
  for (int64_t group = blockIdx.x; group * rows_per_block < problem.rows; group += gridDim.x) {
    const int64_t row = group * rows_per_block + threadIdx.x / lanes_per_row;
    Real total = 0;
    Real factor = 0;
    if (row < problem.rows) {
      const Row<Real> read(problem, row);
      const Real* logits = problem.logits + row * problem.bins;
      SoftplusSum<Real> sum;
      int64_t terms = 0;
      for (int32_t bin = lane; bin < read.bounds.end; bin += lanes_per_row) {
        if (bin < read.bounds.begin) continue;
        const Real x = logits[bin];
        sum.add(bin == read.bounds.flipped ? -x : x, true);
        if (++terms % SoftplusSum<Real>::capacity == 0) sum.fold();
      }
      total = sum.value();
      factor = read.factor;
      if (lane == 0) weight_sum += read.weight;
    }
    for (int offset = lanes_per_row / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
    if (lane == 0 && row < problem.rows) {
      const Real loss = factor == Real(0) ? Real(0) : factor * total;
      loss_sum += loss;
      if (losses) losses[row] = loss;
    }
  }
  loss_sum = block_sum(loss_sum);
  weight_sum = block_sum(weight_sum);
  if (threadIdx.x == 0) {
    partial[2 * blockIdx.x] = loss_sum;
    partial[2 * blockIdx.x + 1] = weight_sum;
  }
}

// One block. Writes the reduced loss (unless null) and what it was divided by.
template <class Real>
__global__ void __launch_bounds__(threads) finish_kernel(const double* partial,  // [blocks, 2]
                                                         int blocks, bool mean, Real* loss, Real* divisor) {
  double loss_sum = 0;
  double weight_sum = 0;
  for (int block = threadIdx.x; block < blocks; block += threads) {
    loss_sum += partial[2 * block];
    weight_sum += partial[2 * block + 1];
  }
  loss_sum = block_sum(loss_sum);
  weight_sum = block_sum(weight_sum);
  if (threadIdx.x == 0) {
    const double total = mean ? hazard_divisor(weight_sum) : 1.0;
    if (loss) *loss = static_cast<Real>(loss_sum / total);
    *divisor = static_cast<Real>(total);
  }
}

template <class Real, class Code>
__global__ void __launch_bounds__(threads)
    backward_kernel(Problem<Real, Code> problem,
                    const Real* grad_loss,  // [rows] if per_row, else [1], null: 1
                    const Real* divisor,    // [1]
                    bool per_row,
                    Real* grad_logits) {  // [rows, bins]
  const int lane = threadIdx.x % lanes_per_row;
  const Real divided = per_row ? Real(1) : (grad_loss ? grad_loss[0] : Real(1)) / divisor[0];
  for (int64_t group = blockIdx.x; group * rows_per_block < problem.rows; group += gridDim.x) {
    const int64_t row = group * rows_per_block + threadIdx.x / lanes_per_row;
    if (row >= problem.rows) continue;
    const Row<Real> read(problem, row);
    const Real factor = read.factor * (per_row ? grad_loss[row] : divided);
    const int64_t offset = row * problem.bins;
    for (int32_t bin = lane; bin < problem.bins; bin += lanes_per_row) {
      const bool active = bin >= read.bounds.begin && bin < read.bounds.end;
      grad_logits[offset + bin] =
          hazard_gradient(problem.logits[offset + bin], factor, bin == read.bounds.flipped, active);
    }
  }
}

// Calls body(problem) with the event codes in the type they are stored in.
template <class Real, class Body>
void with_problem(const HazardTensors& tensors, const HazardOptions& options, const Body& body) {
  const auto call = [&](const auto* event) {
    using Code = std::remove_cv_t<std::remove_pointer_t<decltype(event)>>;
    body(Problem<Real, Code>{static_cast<const Real*>(tensors.logits.const_data_ptr()),
                             static_cast<const int64_t*>(tensors.time_bin.const_data_ptr()), event,
                             tensors.weighted() ? static_cast<const Real*>(tensors.weights.const_data_ptr()) : nullptr,
                             tensors.rows, tensors.bins, options.form, static_cast<Real>(options.alpha)});
  };
  const EventCodes event = tensors.event_codes();
  switch (event.type) {
    case ScalarType::Bool:
      return call(static_cast<const uint8_t*>(event.data));
    case ScalarType::Long:
      return call(static_cast<const int64_t*>(event.data));
    default:
      return call(static_cast<const Real*>(event.data));
  }
}

int blocks_for(int64_t rows) {
  return static_cast<int>(std::clamp<int64_t>((rows + rows_per_block - 1) / rows_per_block, 1, max_blocks));
}

// grad_loss null: that of a loss that nothing was done to.
template <class Real>
Tensor gradient_of(const Real* grad_loss, const Real* divisor, const HazardTensors& tensors,
                   const HazardOptions& options, cudaStream_t stream) {
  Tensor grad_logits = empty_on(tensors.logits, {tensors.rows, tensors.bins}, tensors.logits.scalar_type());
  with_problem<Real>(tensors, options, [&](const auto& problem) {
    backward_kernel<<<blocks_for(tensors.rows), threads, 0, stream>>>(
        problem, grad_loss, divisor, grad_loss != nullptr && options.reduction == Reduction::none,
        static_cast<Real*>(grad_logits.mutable_data_ptr()));
  });
  check_launch("discrete_hazard_nll (backward)");
  return grad_logits;
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> forward(const HazardTensors& tensors, const HazardOptions& options,
                                           bool with_gradient, cudaStream_t stream) {
  const ScalarType type = tensors.logits.scalar_type();
  const bool per_row = options.reduction == Reduction::none;
  Tensor loss = per_row ? empty_on(tensors.logits, {tensors.rows}, type) : empty_on(tensors.logits, {}, type);
  Tensor divisor = empty_on(tensors.logits, {}, type);
  const int blocks = blocks_for(tensors.rows);
  Tensor partial = empty_on(tensors.logits, {blocks, 2}, ScalarType::Double);
  Real* output = static_cast<Real*>(loss.mutable_data_ptr());
  double* sums = static_cast<double*>(partial.mutable_data_ptr());
  with_problem<Real>(tensors, options, [&](const auto& problem) {
    forward_kernel<<<blocks, threads, 0, stream>>>(problem, per_row ? output : nullptr, sums);
  });
  check_launch("discrete_hazard_nll (forward)");
  finish_kernel<Real><<<1, threads, 0, stream>>>(sums, blocks, options.reduction == Reduction::mean,
                                                 per_row ? nullptr : output,
                                                 static_cast<Real*>(divisor.mutable_data_ptr()));
  check_launch("discrete_hazard_nll (sum)");
  const Real* total = static_cast<const Real*>(divisor.const_data_ptr());
  Tensor gradient = with_gradient ? gradient_of<Real>(nullptr, total, tensors, options, stream)
                                  : empty_on(tensors.logits, {0, tensors.bins}, type);
  return {loss, divisor, gradient};
}

template <class Real>
Tensor backward(const Tensor& grad_loss, const Tensor& divisor, const HazardTensors& tensors,
                const HazardOptions& options, cudaStream_t stream) {
  tensors.check_upstream(grad_loss, divisor, options);
  const ScalarType type = tensors.logits.scalar_type();
  const Tensor gradients = contiguous_as(grad_loss, type);
  const Tensor total = contiguous_as(divisor, type);
  return gradient_of(static_cast<const Real*>(gradients.const_data_ptr()),
                     static_cast<const Real*>(total.const_data_ptr()), tensors, options, stream);
}

std::tuple<Tensor, Tensor, Tensor> discrete_hazard_nll(const Tensor& logits, const Tensor& time_bin,
                                                       const Tensor& event, const Tensor& weights, std::string censored,
                                                       std::string form, double alpha, std::string reduction,
                                                       bool with_gradient) {
  const HazardOptions options(censored, form, alpha, reduction);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device());
  const cudaStream_t stream = current_stream(logits.get_device());
  const HazardTensors tensors(logits, time_bin, event, weights);
  return tensors.logits.scalar_type() == ScalarType::Double ? forward<double>(tensors, options, with_gradient, stream)
                                                            : forward<float>(tensors, options, with_gradient, stream);
}

Tensor discrete_hazard_nll_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& time_bin,
                                    const Tensor& event, const Tensor& weights, const Tensor& divisor,
                                    std::string censored, std::string form, double alpha, std::string reduction) {
  const HazardOptions options(censored, form, alpha, reduction);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device());
  const cudaStream_t stream = current_stream(logits.get_device());
  const HazardTensors tensors(logits, time_bin, event, weights);
  const Tensor grad_logits = tensors.logits.scalar_type() == ScalarType::Double
                                 ? backward<double>(grad_loss, divisor, tensors, options, stream)
                                 : backward<float>(grad_loss, divisor, tensors, options, stream);
  return contiguous_as(grad_logits, logits.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CUDA, m) {
  m.impl("discrete_hazard_nll", TORCH_BOX(&discrete_hazard_nll));
  m.impl("discrete_hazard_nll_backward", TORCH_BOX(&discrete_hazard_nll_backward));
}

}  // namespace survcore
