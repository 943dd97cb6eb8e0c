// The Team of common/denoiser_phases.h on the device: the threads of a block.
#pragma once

#include "common/denoiser_phases.h"

namespace survcore {

struct DeviceWarp {
  int lane;

  // Sum of part(lane) over the lanes, for all of them.
  template <class Part>
  __device__ __forceinline__ auto sum(const Part& part) const {
    auto value = part(lane);
#pragma unroll
    for (int offset = warp_lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
  }

  template <class Body>
  __device__ __forceinline__ void for_each_lane(const Body& body) const {
    body(lane);
  }

  // use(row, sum over the lanes of part(lane)[row], ahead(row)) for each row; ahead is asked before the sum. Lanes that
  // are half a group apart exchange half of their rows each, until a lane has one row left: nine shuffles for eight
  // rows.
  template <class Real, class Ahead, class Part, class Use>
  __device__ __forceinline__ void row_sums(const Ahead& ahead, const Part& part, const Use& use) const {
    static_assert(chunk_rows == 8, "four lanes to a row");
    const auto given = ahead(lane / 4);
    Real sums[chunk_rows] = {};
    part(lane, sums);
#pragma unroll
    for (int half = chunk_rows / 2, offset = warp_lanes / 2; half > 0; half /= 2, offset /= 2) {
      const bool upper = (lane & offset) != 0;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const Real sent = upper ? sums[i] : sums[i + half];
        const Real kept = upper ? sums[i + half] : sums[i];
        sums[i] = kept + __shfl_xor_sync(0xffffffffu, sent, offset);
      }
    }
    Real sum = sums[0];
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (lane % 4 == 0) use(lane / 4, sum, given);
  }
};

struct DeviceTeam {
  template <class Body>
  __device__ __forceinline__ void for_each_thread(const Body& body) const {
    body(static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  }
  template <class Body>
  __device__ __forceinline__ void for_each_warp(const Body& body) const {
    const int thread = threadIdx.x;
    body(DeviceWarp{thread % warp_lanes}, thread / warp_lanes, static_cast<int>(blockDim.x) / warp_lanes);
  }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};

}  // namespace survcore
