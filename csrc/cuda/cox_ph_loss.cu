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

#include "common/cox_pairs.h"
#include "common/cox_strips.h"
#include "common/cuda_launch.h"
#include "common/cuda_scan.h"
#include "common/tensors.h"
#include "core/cox.h"

namespace survcore {
namespace {

constexpr int threads = 256;
constexpr int strip_rows = 8;
constexpr int tile_rows = threads * strip_rows;
constexpr int range_blocks = 512;
constexpr int scan_threads = 512;
constexpr int small_threads = 512;
constexpr int64_t small_rows = 16384;
constexpr int pair_blocks = 1056;  // eight on each multiprocessor of a large GPU

// What the launches hand to each other. Sums are arrays of the kind that the range chooses, with room for the larger.
struct Workspace {
  CoxRange* ranges;  // [range_blocks]
  CoxScale* scale;   // [1]
  double* divisor;   // [1]
  int32_t* groups;   // [strips], of each strip's first position
  void* all;         // [rows], at the first position of each part of a group; with late entries [groups]
  void* kept;
  LossSums* losses;  // [tiles]
  // Of each strip.
  void* running;
  void* rest;
  void* open;
  void* later;
  // Of each tile; after a scan, of all tiles before it, or after it.
  void* tile_running;
  void* tile_rest;
  void* tile_open;
  void* tile_later;
  void* parts;  // [parts, groups], with late entries
};

template <class Real>
__device__ CoxRange range_of_rows(const CoxRows<Real>& rows, int64_t first, int64_t step) {
  CoxRange range;
  for (int64_t row = first; row < rows.rows; row += step) {
    const auto at = static_cast<int32_t>(row);
    range.add(static_cast<double>(rows.log_hazard[at]), rows.weight(at));
  }
  return range;
}

// What all blocks of range_kernel have found, the same in every thread.
template <class Real>
__device__ CoxScale scale_of(const CoxRows<Real>& rows, const CoxRange* ranges) {
  CoxRange range;
  for (int i = threadIdx.x; i < range_blocks; i += threads) range = CoxRange::joined(range, ranges[i]);
  return scale_for(block_total<threads>(range), rows.valid());
}

// Writes the range of a block's rows, and the group of the first position of each strip of `length` positions.
template <class Real>
__global__ void __launch_bounds__(threads) range_kernel(CoxRows<Real> rows, int32_t length, Workspace work) {
  const int64_t first = int64_t(blockIdx.x) * threads + threadIdx.x;
  const int64_t step = int64_t(gridDim.x) * threads;
  const CoxRange range = block_total<threads>(range_of_rows(rows, first, step));
  if (threadIdx.x == 0) work.ranges[blockIdx.x] = range;
  if (!rows.valid()) return;
  for (int64_t strip = first; strip * length < rows.rows; strip += step) {
    work.groups[strip] = rows.group_of(static_cast<int32_t>(strip * length));
  }
}

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

// Replaces each tile's value by that of all tiles before it (from_left) or after it.
template <bool from_left, class T>
__device__ void scan_tiles(void* memory, int32_t tiles) {
  T* values = static_cast<T*>(memory);
  T carried;
  for (int32_t first = 0; first < tiles; first += scan_threads) {
    const int32_t thread = first + static_cast<int32_t>(threadIdx.x);
    // The last tiles come first from the right: the highest thread has the last one.
    const int32_t tile =
        from_left ? thread : tiles - 1 - first - (scan_threads - 1 - static_cast<int32_t>(threadIdx.x));
    const bool inside = tile >= 0 && tile < tiles;
    T value;
    if (inside) value = values[tile];
    T total;
    const T others = block_scan<scan_threads, from_left>(value, total);
    if (inside) values[tile] = from_left ? T::joined(carried, others) : T::joined(others, carried);
    carried = from_left ? T::joined(carried, total) : T::joined(total, carried);
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

// One block: adds up `count` parts of the loss, and scans the tiles' sums for the gradients if there are any.
template <class Real>
__global__ void __launch_bounds__(scan_threads, 1)
    loss_kernel(Workspace work, int32_t count, int32_t tiles, bool mean, Real* loss) {
  const CoxScale scale = *work.scale;
  if (!scale.known) {
    if (threadIdx.x == 0) *loss = static_cast<Real>(NAN);
    return;
  }
  LossSums sums;
  for (int32_t i = threadIdx.x; i < count; i += scan_threads) sums = LossSums::joined(sums, work.losses[i]);
  sums = block_total<scan_threads>(sums);
  if (threadIdx.x == 0) {
    const double divisor = sums.divisor(mean);
    *work.divisor = divisor;
    *loss = static_cast<Real>(sums.loss / divisor);
  }
  if (scale.plain) {
    scan_tiles<true, OpenGroup<PlainSum>>(work.tile_open, tiles);
    scan_tiles<false, LaterEvents<PlainSum>>(work.tile_later, tiles);
  } else {
    scan_tiles<true, OpenGroup<PairSum>>(work.tile_open, tiles);
    scan_tiles<false, LaterEvents<PairSum>>(work.tile_later, tiles);
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

// --- late entries ----------------------------------------------------------------------------------------------------

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

// --- launches --------------------------------------------------------------------------------------------------------

constexpr int64_t ceiling(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Divides one allocation among arrays; measures it where there is none yet.
struct Arrays {
  char* memory = nullptr;
  int64_t bytes = 0;

  template <class T>
  T* take(int64_t count) {
    T* array = memory ? reinterpret_cast<T*>(memory + bytes) : nullptr;
    bytes += ceiling(count * static_cast<int64_t>(sizeof(T)), 16) * 16;
    return array;
  }
};

// Calls lay_out(arrays), which makes a Workspace, for the size and for the arrays; the tensor owns them.
template <class LayOut>
std::tuple<Tensor, Workspace> workspace_on(const Tensor& like, const LayOut& lay_out) {
  Arrays arrays;
  lay_out(arrays);
  Tensor memory = empty_on(like, {arrays.bytes}, ScalarType::Byte);
  arrays = Arrays{static_cast<char*>(memory.mutable_data_ptr()), 0};
  return {memory, lay_out(arrays)};
}

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
