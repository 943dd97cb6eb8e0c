// What the kernels of cox_ph_loss share, with late entries or without: memory between launches, the first launch and
// the one that ends the loss.
#pragma once

#include <cstdint>
#include <tuple>

#include "common/cox_strips.h"
#include "common/cuda_launch.h"
#include "common/cuda_scan.h"
#include "common/tensors.h"
#include "core/cox.h"

namespace survcore {
namespace {

constexpr int threads = 256;
constexpr int range_blocks = 512;
constexpr int scan_threads = 512;

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

}  // namespace
}  // namespace survcore
