// CUDA kernels of cox_ph_loss. The mathematics is common/cox_strips.h: a thread has a strip of consecutive positions,
// blocks scan what their strips must know of each other. Sums are float64, under one shift where the log-hazards lie
// close together, else as pairs (core/cox.h); which of both the kernels find out themselves: nothing is copied to the
// host, and the risk sets' header is read on the device. No atomics: the same bits in every run.
//
// Up to small_rows rows: one block, one launch, loss and gradient.
// Above: tiles of 2,048 positions in 6 launches (5 without gradient), two of them one block that scans the tiles:
//   range  sums  scan  terms  scan and loss  gradients
// A row costs about 110 bytes: 28 of order and log-hazard in four passes (16 more of weights), up to 20 of its group's
// bounds, up to 32 of its group's sums written and read, 28 of its strip's, 4 of gradient; and 3 exponentials. An event
// costs up to 2 divisions and 2 logarithms.
// With late entries: every row held to every group (common/cox_pairs.h), 5 launches (4 without gradient), rows * groups
// comparisons and additions in each direction.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>

#include "cuda/cox_late_entry.cuh"
#include "cuda/cox_workspace.cuh"

namespace survcore {
namespace {

constexpr int strip_rows = 8;
constexpr int tile_rows = threads * strip_rows;
constexpr int small_threads = 512;
constexpr int64_t small_rows = 16384;

// The strip of a thread; an empty one for a thread behind the last row.
template <class Real>
__device__ CoxStrip strip_of(const CoxRows<Real>& rows, const int32_t* groups, int64_t number) {
  const int64_t first = number * strip_rows;
  if (first >= rows.rows) return {0, 0, 0};
  const int64_t end = first + strip_rows;
  return {static_cast<int32_t>(first), static_cast<int32_t>(end < rows.rows ? end : rows.rows), groups[number]};
}

template <class Sum, class Real>
__device__ void sum_tile(const CoxRows<Real>& rows, double shift, const Workspace& work) {
  const int64_t number = int64_t(blockIdx.x) * threads + threadIdx.x;
  const CoxStrip strip = strip_of(rows, work.groups, number);
  RunningRisk<Sum> running;
  GroupRest<Sum> rest;
  if (strip.first < strip.end) {
    sum_strip(rows, shift, strip, running, rest);
    static_cast<RunningRisk<Sum>*>(work.running)[number] = running;
    static_cast<GroupRest<Sum>*>(work.rest)[number] = rest;
  }
  running = block_total<threads>(running);
  rest = block_total<threads>(rest);
  if (threadIdx.x != 0) return;
  static_cast<RunningRisk<Sum>*>(work.tile_running)[blockIdx.x] = running;
  static_cast<GroupRest<Sum>*>(work.tile_rest)[blockIdx.x] = rest;
}

// One block per tile: the hazards of each strip and of the tile.
template <class Real>
__global__ void __launch_bounds__(threads, 2) sum_kernel(CoxRows<Real> rows, Workspace work) {
  const CoxScale scale = scale_of(rows, work.ranges);
  if (blockIdx.x == 0 && threadIdx.x == 0) *work.scale = scale;
  if (!scale.known) return;
  if (scale.plain) {
    sum_tile<PlainSum>(rows, scale.shift, work);
  } else {
    sum_tile<PairSum>(rows, scale.shift, work);
  }
}

// One block.
__global__ void __launch_bounds__(scan_threads, 1) scan_kernel(Workspace work, int32_t tiles) {
  const CoxScale scale = *work.scale;
  if (!scale.known) return;
  if (scale.plain) {
    scan_tiles<true, RunningRisk<PlainSum>>(work.tile_running, tiles);
    scan_tiles<false, GroupRest<PlainSum>>(work.tile_rest, tiles);
  } else {
    scan_tiles<true, RunningRisk<PairSum>>(work.tile_running, tiles);
    scan_tiles<false, GroupRest<PairSum>>(work.tile_rest, tiles);
  }
}

template <class Sum, class Real>
__device__ void terms_of_tile(const CoxRows<Real>& rows, double shift, const Workspace& work, bool with_gradient) {
  const int64_t number = int64_t(blockIdx.x) * threads + threadIdx.x;
  const CoxStrip strip = strip_of(rows, work.groups, number);
  const bool inside = strip.first < strip.end;
  RunningRisk<Sum> running;
  GroupRest<Sum> rest;
  if (inside) {
    running = static_cast<const RunningRisk<Sum>*>(work.running)[number];
    rest = static_cast<const GroupRest<Sum>*>(work.rest)[number];
  }
  RunningRisk<Sum> running_total;
  running = block_scan<threads, true>(running, running_total);
  running = RunningRisk<Sum>::joined(static_cast<const RunningRisk<Sum>*>(work.tile_running)[blockIdx.x], running);
  GroupRest<Sum> rest_total;
  rest = block_scan<threads, false>(rest, rest_total);
  rest = GroupRest<Sum>::joined(rest, static_cast<const GroupRest<Sum>*>(work.tile_rest)[blockIdx.x]);

  OpenGroup<Sum> open;
  LaterEvents<Sum> later;
  LossSums loss;
  if (inside) {
    terms_of_strip(rows, shift, strip, running, rest, with_gradient ? static_cast<Sum*>(work.all) : nullptr,
                   with_gradient ? static_cast<Sum*>(work.kept) : nullptr, open, later, loss);
  }
  loss = block_total<threads>(loss);
  if (threadIdx.x == 0) work.losses[blockIdx.x] = loss;
  if (!with_gradient) return;
  if (inside) {
    static_cast<OpenGroup<Sum>*>(work.open)[number] = open;
    static_cast<LaterEvents<Sum>*>(work.later)[number] = later;
  }
  open = block_total<threads>(open);
  later = block_total<threads>(later);
  if (threadIdx.x != 0) return;
  static_cast<OpenGroup<Sum>*>(work.tile_open)[blockIdx.x] = open;
  static_cast<LaterEvents<Sum>*>(work.tile_later)[blockIdx.x] = later;
}

// One block per tile: the terms of its events.
template <class Real>
__global__ void __launch_bounds__(threads) terms_kernel(CoxRows<Real> rows, Workspace work, bool with_gradient) {
  const CoxScale scale = *work.scale;
  if (!scale.known) return;
  if (scale.plain) {
    terms_of_tile<PlainSum>(rows, scale.shift, work, with_gradient);
  } else {
    terms_of_tile<PairSum>(rows, scale.shift, work, with_gradient);
  }
}

template <class Sum, class Real>
__device__ void gradients_of_tile(const CoxRows<Real>& rows, double shift, const Workspace& work, Real* gradient) {
  const int64_t number = int64_t(blockIdx.x) * threads + threadIdx.x;
  const CoxStrip strip = strip_of(rows, work.groups, number);
  const bool inside = strip.first < strip.end;
  OpenGroup<Sum> open;
  LaterEvents<Sum> later;
  if (inside) {
    open = static_cast<const OpenGroup<Sum>*>(work.open)[number];
    later = static_cast<const LaterEvents<Sum>*>(work.later)[number];
  }
  OpenGroup<Sum> open_total;
  open = block_scan<threads, true>(open, open_total);
  open = OpenGroup<Sum>::joined(static_cast<const OpenGroup<Sum>*>(work.tile_open)[blockIdx.x], open);
  LaterEvents<Sum> later_total;
  later = block_scan<threads, false>(later, later_total);
  later = LaterEvents<Sum>::joined(later, static_cast<const LaterEvents<Sum>*>(work.tile_later)[blockIdx.x]);
  if (!inside) return;
  gradients_of_strip(rows, shift, strip, open, later, static_cast<const Sum*>(work.all),
                     static_cast<const Sum*>(work.kept), *work.divisor, gradient);
}

// One block per tile.
template <class Real>
__global__ void __launch_bounds__(threads, 2) gradient_kernel(CoxRows<Real> rows, Workspace work,
                                                              Real* gradient) {  // [rows]
  const CoxScale scale = *work.scale;
  if (!scale.known) {
    const int64_t end = (int64_t(blockIdx.x) + 1) * tile_rows;
    for (int64_t row = int64_t(blockIdx.x) * tile_rows + threadIdx.x; row < end && row < rows.rows; row += threads) {
      gradient[row] = static_cast<Real>(NAN);
    }
  } else if (scale.plain) {
    gradients_of_tile<PlainSum>(rows, scale.shift, work, gradient);
  } else {
    gradients_of_tile<PairSum>(rows, scale.shift, work, gradient);
  }
}

template <class Sum, class Real>
__device__ void small_loss(const CoxRows<Real>& rows, double shift, bool mean, const Workspace& work, Real* loss,
                           Real* gradient) {
  const int32_t length = (rows.rows + small_threads - 1) / small_threads;
  const int32_t first = static_cast<int32_t>(threadIdx.x) * length;
  const bool inside = first < rows.rows;
  CoxStrip strip{first, first + length < rows.rows ? first + length : rows.rows, 0};
  RunningRisk<Sum> running;
  GroupRest<Sum> rest;
  if (inside) {
    strip.group = rows.group_of(first);
    sum_strip(rows, shift, strip, running, rest);
  }
  RunningRisk<Sum> running_total;
  running = block_scan<small_threads, true>(running, running_total);
  GroupRest<Sum> rest_total;
  rest = block_scan<small_threads, false>(rest, rest_total);

  Sum* all = gradient ? static_cast<Sum*>(work.all) : nullptr;
  Sum* kept = gradient ? static_cast<Sum*>(work.kept) : nullptr;
  OpenGroup<Sum> open;
  LaterEvents<Sum> later;
  LossSums sums;
  if (inside) terms_of_strip(rows, shift, strip, running, rest, all, kept, open, later, sums);
  sums = block_total<small_threads>(sums);
  const double divisor = sums.divisor(mean);
  if (threadIdx.x == 0) *loss = static_cast<Real>(sums.loss / divisor);
  if (gradient == nullptr) return;

  OpenGroup<Sum> open_total;
  open = block_scan<small_threads, true>(open, open_total);
  LaterEvents<Sum> later_total;
  later = block_scan<small_threads, false>(later, later_total);
  if (inside) gradients_of_strip(rows, shift, strip, open, later, all, kept, divisor, gradient);
}

// One block: everything.
template <class Real>
__global__ void __launch_bounds__(small_threads) small_kernel(CoxRows<Real> rows, bool mean, Workspace work,
                                                              Real* loss,        // [1]
                                                              Real* gradient) {  // [rows], or null
  const CoxRange range = block_total<small_threads>(range_of_rows(rows, threadIdx.x, small_threads));
  const CoxScale scale = scale_for(range, rows.valid());
  if (!scale.known) {
    if (threadIdx.x == 0) *loss = static_cast<Real>(NAN);
    if (gradient == nullptr) return;
    for (int32_t row = threadIdx.x; row < rows.rows; row += small_threads) gradient[row] = static_cast<Real>(NAN);
  } else if (scale.plain) {
    small_loss<PlainSum>(rows, scale.shift, mean, work, loss, gradient);
  } else {
    small_loss<PairSum>(rows, scale.shift, mean, work, loss, gradient);
  }
}

// --- launches --------------------------------------------------------------------------------------------------------

template <class Real>
void launch_small(const CoxRows<Real>& rows, bool mean, const Tensor& like, Real* loss, Real* gradient,
                  cudaStream_t stream) {
  const auto [memory, work] = workspace_on(like, [&](Arrays& arrays) {
    Workspace arranged{};
    arranged.all = arrays.take<PairSum>(gradient ? rows.rows : 1);
    arranged.kept = arrays.take<PairSum>(gradient ? rows.rows : 1);
    return arranged;
  });
  small_kernel<<<1, small_threads, 0, stream>>>(rows, mean, work, loss, gradient);
  check_launch("cox_ph_loss");
}

template <class Real>
void launch_tiles(const CoxRows<Real>& rows, bool mean, const Tensor& like, Real* loss, Real* gradient,
                  cudaStream_t stream) {
  const int64_t strips = ceiling(rows.rows, strip_rows);
  const auto tiles = static_cast<int32_t>(ceiling(rows.rows, tile_rows));
  const bool with_gradient = gradient != nullptr;
  const auto [memory, work] = workspace_on(like, [&](Arrays& arrays) {
    Workspace arranged{};
    arranged.ranges = arrays.take<CoxRange>(range_blocks);
    arranged.scale = arrays.take<CoxScale>(1);
    arranged.divisor = arrays.take<double>(1);
    arranged.groups = arrays.take<int32_t>(strips);
    arranged.losses = arrays.take<LossSums>(tiles);
    arranged.running = arrays.take<RunningRisk<PairSum>>(strips);
    arranged.rest = arrays.take<GroupRest<PairSum>>(strips);
    arranged.tile_running = arrays.take<RunningRisk<PairSum>>(tiles);
    arranged.tile_rest = arrays.take<GroupRest<PairSum>>(tiles);
    if (!with_gradient) return arranged;
    arranged.all = arrays.take<PairSum>(rows.rows);
    arranged.kept = arrays.take<PairSum>(rows.rows);
    arranged.open = arrays.take<OpenGroup<PairSum>>(strips);
    arranged.later = arrays.take<LaterEvents<PairSum>>(strips);
    arranged.tile_open = arrays.take<OpenGroup<PairSum>>(tiles);
    arranged.tile_later = arrays.take<LaterEvents<PairSum>>(tiles);
    return arranged;
  });
  range_kernel<<<range_blocks, threads, 0, stream>>>(rows, strip_rows, work);
  check_launch("cox_ph_loss (range)");
  sum_kernel<<<tiles, threads, 0, stream>>>(rows, work);
  check_launch("cox_ph_loss (sums)");
  scan_kernel<<<1, scan_threads, 0, stream>>>(work, tiles);
  check_launch("cox_ph_loss (scan)");
  terms_kernel<<<tiles, threads, 0, stream>>>(rows, work, with_gradient);
  check_launch("cox_ph_loss (terms)");
  loss_kernel<<<1, scan_threads, 0, stream>>>(work, tiles, with_gradient ? tiles : 0, mean, loss);
  check_launch("cox_ph_loss (loss)");
  if (!with_gradient) return;
  gradient_kernel<<<tiles, threads, 0, stream>>>(rows, work, gradient);
  check_launch("cox_ph_loss (gradient)");
}

template <class Real>
std::tuple<Tensor, Tensor> forward(const Tensor& given_log_hazard, const Tensor& risk_sets, const Tensor& given_weights,
                                   bool efron, bool mean, bool with_gradient, cudaStream_t stream) {
  const ScalarType type = compute_type(given_log_hazard);
  const Tensor log_hazard = contiguous_as(given_log_hazard, type);
  const Tensor plan = contiguous_as(risk_sets, ScalarType::Int);
  const Tensor weights = contiguous_as(given_weights, type);
  const int64_t count = log_hazard.numel();
  STD_TORCH_CHECK(weights.numel() == count || weights.numel() == 0,
                  "weights must have one entry per row of log_hazard, or none");
  STD_TORCH_CHECK(plan.numel() >= CoxSections<int32_t>::size(count, false),
                  "risk_sets are of fewer rows than log_hazard");
  STD_TORCH_CHECK(count < int64_t(1) << 29, "log_hazard has too many rows: ", count);
  Tensor loss = empty_on(log_hazard, {}, type);
  Tensor gradient = empty_on(log_hazard, {with_gradient ? count : 0}, type);
  Real* value = static_cast<Real*>(loss.mutable_data_ptr());
  Real* gradients = with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr;
  if (count == 0) {
    STD_TORCH_CHECK(cudaMemsetAsync(value, 0, sizeof(Real), stream) == cudaSuccess, "cox_ph_loss: memset failed");
    return {loss, gradient};
  }

  const CoxPlan sections{static_cast<const int32_t*>(plan.const_data_ptr()), count};
  const bool late = plan.numel() >= CoxSections<int32_t>::size(count, true);
  const CoxRows<Real> rows{static_cast<const Real*>(log_hazard.const_data_ptr()),
                           weights.numel() ? static_cast<const Real*>(weights.const_data_ptr()) : nullptr,
                           sections.header(),
                           sections.order(),
                           sections.start(),
                           sections.events(),
                           late ? sections.last() : nullptr,
                           static_cast<int32_t>(count),
                           efron};
  if (late) {
    launch_pairs(rows, mean, log_hazard, value, gradients, stream);
  } else if (count <= small_rows) {
    launch_small(rows, mean, log_hazard, value, gradients, stream);
  } else {
    launch_tiles(rows, mean, log_hazard, value, gradients, stream);
  }
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> cox_ph_loss(const Tensor& log_hazard, const Tensor& risk_sets, const Tensor& weights,
                                       std::string ties, std::string reduction, bool with_gradient) {
  STD_TORCH_CHECK(reduction == "mean" || reduction == "sum", "reduction must be 'mean' or 'sum', got '", reduction,
                  "'");
  STD_TORCH_CHECK(ties == "efron" || ties == "breslow", "ties must be 'efron' or 'breslow', got '", ties, "'");
  check_device("risk_sets", risk_sets, "log_hazard", log_hazard);
  check_device("weights", weights, "log_hazard", log_hazard);
  const torch::stable::accelerator::DeviceGuard guard(log_hazard.get_device());
  const cudaStream_t stream = current_stream(log_hazard.get_device());
  const bool efron = ties == "efron";
  const bool mean = reduction == "mean";
  return compute_type(log_hazard) == ScalarType::Double
             ? forward<double>(log_hazard, risk_sets, weights, efron, mean, with_gradient, stream)
             : forward<float>(log_hazard, risk_sets, weights, efron, mean, with_gradient, stream);
}

template <class Real>
__global__ void __launch_bounds__(threads) scale_kernel(const Real* factor,    // [1]
                                                        const Real* gradient,  // [count]
                                                        int64_t count,
                                                        Real* result) {  // [count]
  const Real by = *factor;
  const int64_t step = int64_t(gridDim.x) * threads;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += step) result[i] = by * gradient[i];
}

template <class Real>
void launch_scale(const Tensor& factor, const Tensor& gradient, Tensor& result, cudaStream_t stream) {
  const int64_t count = gradient.numel();
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ceiling(count, threads), 4096));
  scale_kernel<<<blocks, threads, 0, stream>>>(static_cast<const Real*>(factor.const_data_ptr()),
                                               static_cast<const Real*>(gradient.const_data_ptr()), count,
                                               static_cast<Real*>(result.mutable_data_ptr()));
  check_launch("cox_ph_loss (backward)");
}

Tensor cox_ph_loss_backward(const Tensor& grad_loss, const Tensor& gradient) {
  const ScalarType type = gradient.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float, "gradient must be float32 or float64");
  check_device("grad_loss", grad_loss, "gradient", gradient);
  STD_TORCH_CHECK(grad_loss.numel() == 1, "grad_loss must be a scalar");
  const torch::stable::accelerator::DeviceGuard guard(gradient.get_device());
  const cudaStream_t stream = current_stream(gradient.get_device());
  const Tensor factor = contiguous_as(grad_loss, type);
  const Tensor values = contiguous_as(gradient, type);
  Tensor result = empty_on(values, {values.numel()}, type);
  if (type == ScalarType::Double) {
    launch_scale<double>(factor, values, result, stream);
  } else {
    launch_scale<float>(factor, values, result, stream);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CUDA, m) {
  m.impl("cox_ph_loss", TORCH_BOX(&cox_ph_loss));
  m.impl("cox_ph_loss_backward", TORCH_BOX(&cox_ph_loss_backward));
}

}  // namespace survcore
