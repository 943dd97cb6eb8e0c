// Scans over the threads of a block and totals over those of a warp, in a fixed order, of any trivially copyable T with
// T() as nothing and T::joined(left, right), which need not commute.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.h"

namespace survcore {

// `value` of another lane; all lanes of the warp must call it.
template <class T>
__device__ __forceinline__ T from_lane(const T& value, int lane) {
  static_assert(sizeof(T) % sizeof(uint32_t) == 0, "shuffles take words");
  constexpr int count = sizeof(T) / sizeof(uint32_t);
  uint32_t words[count];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < count; ++i) words[i] = __shfl_sync(0xffffffffu, words[i], lane);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

// Joins the values of the lanes up to this one, from the left or from the right, this one's included.
template <bool from_left, class T>
__device__ __forceinline__ T warp_scan(T value) {
  const int lane = threadIdx.x % warp_lanes;
#pragma unroll 1
  for (int offset = 1; offset < warp_lanes; offset *= 2) {
    const int source = from_left ? lane - offset : lane + offset;
    const T other = from_lane(value, source & (warp_lanes - 1));
    if (source < 0 || source >= warp_lanes) continue;
    value = from_left ? T::joined(other, value) : T::joined(value, other);
  }
  return value;
}

// All lanes' values joined, given to all lanes.
template <class T>
__device__ __forceinline__ T warp_total(T value) {
  return from_lane(warp_scan<true>(value), warp_lanes - 1);
}

// Joins the values of the threads before this one (from_left) or after it; `total` is that of all threads. All threads
// of the block must call it.
template <int threads, bool from_left, class T>
__device__ __forceinline__ T block_scan(const T& value, T& total) {
  constexpr int warps = threads / warp_lanes;
  static_assert(threads % warp_lanes == 0 && warps <= warp_lanes, "one warp scans the sums of all");
  alignas(16) __shared__ unsigned char storage[(warps + 1) * sizeof(T)];
  T* sums = reinterpret_cast<T*>(storage);
  const int lane = threadIdx.x % warp_lanes;
  const int warp = threadIdx.x / warp_lanes;
  constexpr int last_lane = from_left ? warp_lanes - 1 : 0;
  const int neighbour = (from_left ? lane - 1 : lane + 1) & (warp_lanes - 1);
  constexpr int edge_lane = from_left ? 0 : warp_lanes - 1;

  const T inclusive = warp_scan<from_left>(value);
  __syncthreads();  // an earlier call may still read
  if (lane == last_lane) sums[warp] = inclusive;
  __syncthreads();
  if (warp == 0) {
    T scanned;
    if (lane < warps) scanned = sums[lane];
    scanned = warp_scan<from_left>(scanned);
    T before = from_lane(scanned, neighbour);
    if (lane == edge_lane) before = T();
    if (lane < warps) sums[lane] = before;
    if (lane == (from_left ? warps - 1 : 0)) sums[warps] = scanned;
  }
  __syncthreads();
  total = sums[warps];
  T own = from_lane(inclusive, neighbour);
  if (lane == edge_lane) own = T();
  return from_left ? T::joined(sums[warp], own) : T::joined(own, sums[warp]);
}

// All threads' values joined, given to all threads.
template <int threads, class T>
__device__ __forceinline__ T block_total(const T& value) {
  T total;
  block_scan<threads, true>(value, total);
  return total;
}

}  // namespace survcore
