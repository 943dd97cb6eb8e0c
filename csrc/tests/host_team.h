// The Team of common/denoiser_phases.h as loops over the threads of a block, with the sums of the device in their
// order.
#pragma once

#include <array>

#include "common/denoiser_phases.h"

namespace survcore {

struct HostWarp {
  template <class Part>
  auto sum(const Part& part) const {
    std::array<decltype(part(0)), warp_lanes> values;
    for (int lane = 0; lane < warp_lanes; ++lane) values[lane] = part(lane);
    for (int offset = warp_lanes / 2; offset > 0; offset /= 2) values = exchanged(values, offset);
    return values[0];
  }

  template <class Body>
  void for_each_lane(const Body& body) const {
    for (int lane = 0; lane < warp_lanes; ++lane) body(lane);
  }

  template <class Real, class Ahead, class Part, class Use>
  void row_sums(const Ahead& ahead, const Part& part, const Use& use) const {
    Real sums[warp_lanes][chunk_rows] = {};
    for (int lane = 0; lane < warp_lanes; ++lane) part(lane, sums[lane]);
    for (int half = chunk_rows / 2, offset = warp_lanes / 2; half > 0; half /= 2, offset /= 2) {
      Real given[warp_lanes][chunk_rows];
      for (int lane = 0; lane < warp_lanes; ++lane) {
        for (int i = 0; i < half; ++i) {
          const bool upper = (lane & offset) != 0;
          given[lane][i] = upper ? sums[lane][i] : sums[lane][i + half];
          sums[lane][i] = upper ? sums[lane][i + half] : sums[lane][i];
        }
      }
      for (int lane = 0; lane < warp_lanes; ++lane) {
        for (int i = 0; i < half; ++i) sums[lane][i] += given[lane ^ offset][i];
      }
    }
    std::array<Real, warp_lanes> left;
    for (int lane = 0; lane < warp_lanes; ++lane) left[lane] = sums[lane][0];
    left = exchanged(exchanged(left, 2), 1);
    for (int lane = 0; lane < warp_lanes; lane += 4) use(lane / 4, left[lane], ahead(lane / 4));
  }

 private:
  template <class Real>
  static std::array<Real, warp_lanes> exchanged(const std::array<Real, warp_lanes>& values, int offset) {
    std::array<Real, warp_lanes> result;
    for (int lane = 0; lane < warp_lanes; ++lane) result[lane] = values[lane] + values[lane ^ offset];
    return result;
  }
};

// `backwards`: threads and warps in the opposite order, which must not matter between two synchronisations.
struct HostTeam {
  int threads;
  bool backwards;

  template <class Body>
  void for_each_thread(const Body& body) const {
    for (int i = 0; i < threads; ++i) body(backwards ? threads - 1 - i : i, threads);
  }
  template <class Body>
  void for_each_warp(const Body& body) const {
    const int warps = threads / warp_lanes;
    for (int i = 0; i < warps; ++i) body(HostWarp{}, backwards ? warps - 1 - i : i, warps);
  }
  void sync() const {}
};

}  // namespace survcore
