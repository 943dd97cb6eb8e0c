// Kernels of cox_ph_loss for rows that enter late: every row is held to every group (common/cox_pairs.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cox_pairs.h"
#include "cuda/cox_workspace.cuh"

namespace survcore {
namespace {

constexpr int pair_blocks = 1056;  // eight on each multiprocessor of a large GPU

template <class Real>
__device__ int32_t parts_of(const CoxRows<Real>& rows) {
  return pair_parts((rows.groups() + threads - 1) / threads, (rows.rows + threads - 1) / threads, pair_blocks);
}

// Sums of a tile of groups, one for each thread, over a part of the rows' tiles.
template <class Sum, class Real>
__device__ void sum_pairs(const CoxRows<Real>& rows, double shift, const Workspace& work) {
  __shared__ int32_t own[threads];
  __shared__ int32_t last[threads];
  alignas(16) __shared__ unsigned char storage[threads * sizeof(Sum)];
  Sum* hazards = reinterpret_cast<Sum*>(storage);
  const int32_t groups = rows.groups();
  const int32_t group_tiles = (groups + threads - 1) / threads;
  const int32_t row_tiles = (rows.rows + threads - 1) / threads;
  const int32_t parts = parts_of(rows);
  for (int32_t item = blockIdx.x; item < group_tiles * parts; item += gridDim.x) {
    // The latest groups, which have most rows at risk, first.
    const int32_t group_tile = group_tiles - 1 - item / parts;
    const int32_t part = item % parts;
    const int32_t group = group_tile * threads + static_cast<int32_t>(threadIdx.x);
    Sum at_risk;
    for (int32_t tile = part; tile < row_tiles; tile += parts) {
      const int32_t first = tile * threads;
      if (work.groups[first] >= (group_tile + 1) * threads) break;  // as those of all later rows
      const int32_t count = rows.rows - first < threads ? rows.rows - first : threads;
      const int32_t position = first + static_cast<int32_t>(threadIdx.x);
      __syncthreads();
      if (position < rows.rows) {
        const int32_t row = rows.order[position] >> 1;
        own[threadIdx.x] = work.groups[position];
        last[threadIdx.x] = rows.last[position];
        hazards[threadIdx.x] = hazard_of<Sum>(rows, shift, row, rows.weight(row));
      }
      __syncthreads();
      add_rows(group, own, last, hazards, count, at_risk);
    }
    if (group < groups) static_cast<Sum*>(work.parts)[int64_t(part) * groups + group] = at_risk;
  }
}

// pair_blocks blocks.
template <class Real>
__global__ void __launch_bounds__(threads) pair_sum_kernel(CoxRows<Real> rows, Workspace work) {
  const CoxScale scale = scale_of(rows, work.ranges);
  if (blockIdx.x == 0 && threadIdx.x == 0) *work.scale = scale;
  if (!scale.known) return;
  if (scale.plain) {
    sum_pairs<PlainSum>(rows, scale.shift, work);
  } else {
    sum_pairs<PairSum>(rows, scale.shift, work);
  }
}

// The terms of groups, a warp for each.
template <class Sum, class Real>
__device__ LossSums terms_of_groups(const CoxRows<Real>& rows, double shift, const Workspace& work) {
  const int32_t groups = rows.groups();
  const int32_t parts = parts_of(rows);
  const int lane = threadIdx.x % warp_lanes;
  const int32_t warps = gridDim.x * (threads / warp_lanes);
  LossSums loss;
  for (int32_t group = (blockIdx.x * threads + threadIdx.x) / warp_lanes; group < groups; group += warps) {
    const int32_t events = rows.events[group];
    const int32_t end = rows.begin(group + 1);
    GroupEvents<Sum> own;
    own.add(rows, shift, end - events + lane, end, warp_lanes);
    own = warp_total(own);
    JoinedSum<Sum> at_risk;
    for (int32_t part = lane; part < parts; part += warp_lanes) {
      at_risk.sum.add(static_cast<const Sum*>(work.parts)[int64_t(part) * groups + group]);
    }
    at_risk = warp_total(at_risk);
    Sum all;
    Sum kept;
    if (own.weight > 0) {
      const double mean_weight = own.weight / events;
      const double share = rows.efron && events > 1 ? own.tied.over(at_risk.sum) : 0.0;
      TiedTerms terms;
      terms.add(lane, events, warp_lanes, events, rows.efron, share);
      loss.loss += mean_weight * terms.logs;
      terms = warp_total(terms);
      all.add_quotient(mean_weight * terms.plain, at_risk.sum);
      kept.add_quotient(mean_weight * terms.kept, at_risk.sum);
      if (lane == 0) loss.loss += own.weight * at_risk.sum.log_rest();
      add_distances(rows, shift, at_risk.sum.origin(), end - events + lane, end, warp_lanes, loss);
    }
    if (lane != 0) continue;
    static_cast<Sum*>(work.all)[group] = all;
    static_cast<Sum*>(work.kept)[group] = kept;
  }
  return loss;
}

template <class Real>
__global__ void __launch_bounds__(threads) pair_terms_kernel(CoxRows<Real> rows, Workspace work) {
  const CoxScale scale = *work.scale;
  if (!scale.known) return;
  LossSums loss = scale.plain ? terms_of_groups<PlainSum>(rows, scale.shift, work)
                              : terms_of_groups<PairSum>(rows, scale.shift, work);
  loss = block_total<threads>(loss);
  if (threadIdx.x == 0) work.losses[blockIdx.x] = loss;
}

struct LastGroup {
  int32_t group = -1;

  __device__ static LastGroup joined(const LastGroup& left, const LastGroup& right) {
    return left.group > right.group ? left : right;
  }
};

template <class Sum, class Real>
__device__ void pair_gradients(const CoxRows<Real>& rows, double shift, const Workspace& work, Real* gradient) {
  alignas(16) __shared__ unsigned char storage[threads * sizeof(Sum)];
  Sum* reciprocals = reinterpret_cast<Sum*>(storage);
  const Sum* all = static_cast<const Sum*>(work.all);
  const Sum* kept = static_cast<const Sum*>(work.kept);
  const int64_t first = int64_t(blockIdx.x) * threads;
  const int64_t position = first + threadIdx.x;
  const bool inside = position < rows.rows;
  const int32_t own = inside ? work.groups[position] : 0;
  LastGroup last{inside ? rows.last[position] : -1};
  const int32_t groups = rows.groups();
  const int32_t end = block_total<threads>(last).group + 1;
  Sum events;
  for (int32_t tile = work.groups[first] / threads * threads; tile < end; tile += threads) {
    const int32_t group = tile + static_cast<int32_t>(threadIdx.x);
    __syncthreads();
    if (group < groups) reciprocals[threadIdx.x] = all[group];
    __syncthreads();
    add_groups(own, last.group, tile, reciprocals, groups - tile < threads ? groups - tile : threads, events);
  }
  if (!inside) return;
  const int32_t code = rows.order[position];
  const bool event = code & 1;
  if (own <= last.group) events.add(event ? kept[own] : all[own]);
  gradient[code >> 1] = cox_gradient(rows, shift, code >> 1, event, events, *work.divisor);
}

// One block for every `threads` positions.
template <class Real>
__global__ void __launch_bounds__(threads) pair_gradient_kernel(CoxRows<Real> rows, Workspace work,
                                                                Real* gradient) {  // [rows]
  const CoxScale scale = *work.scale;
  if (!scale.known) {
    const int64_t row = int64_t(blockIdx.x) * threads + threadIdx.x;
    if (row < rows.rows) gradient[row] = static_cast<Real>(NAN);
  } else if (scale.plain) {
    pair_gradients<PlainSum>(rows, scale.shift, work, gradient);
  } else {
    pair_gradients<PairSum>(rows, scale.shift, work, gradient);
  }
}

template <class Real>
void launch_pairs(const CoxRows<Real>& rows, bool mean, const Tensor& like, Real* loss, Real* gradient,
                  cudaStream_t stream) {
  const auto blocks = static_cast<int32_t>(std::min<int64_t>(ceiling(rows.rows, threads / warp_lanes), pair_blocks));
  const auto [memory, work] = workspace_on(like, [&](Arrays& arrays) {
    Workspace arranged{};
    arranged.ranges = arrays.take<CoxRange>(range_blocks);
    arranged.scale = arrays.take<CoxScale>(1);
    arranged.divisor = arrays.take<double>(1);
    arranged.groups = arrays.take<int32_t>(rows.rows);
    arranged.losses = arrays.take<LossSums>(blocks);
    arranged.all = arrays.take<PairSum>(rows.rows);
    arranged.kept = arrays.take<PairSum>(rows.rows);
    // parts * groups, of which only the rows tell: parts is 1, or at most blocks / (groups / threads).
    arranged.parts = arrays.take<PairSum>(std::max<int64_t>(rows.rows, int64_t(pair_blocks) * threads));
    return arranged;
  });
  range_kernel<<<range_blocks, threads, 0, stream>>>(rows, 1, work);
  check_launch("cox_ph_loss (range)");
  pair_sum_kernel<<<pair_blocks, threads, 0, stream>>>(rows, work);
  check_launch("cox_ph_loss (sums with late entries)");
  pair_terms_kernel<<<blocks, threads, 0, stream>>>(rows, work);
  check_launch("cox_ph_loss (terms with late entries)");
  loss_kernel<<<1, scan_threads, 0, stream>>>(work, blocks, 0, mean, loss);
  check_launch("cox_ph_loss (loss)");
  if (gradient == nullptr) return;
  pair_gradient_kernel<<<static_cast<unsigned>(ceiling(rows.rows, threads)), threads, 0, stream>>>(rows, work,
                                                                                                   gradient);
  check_launch("cox_ph_loss (gradient with late entries)");
}

}  // namespace
}  // namespace survcore
