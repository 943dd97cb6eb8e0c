// What leaves gather from amounts that are added to ranges of them, each leaf from when it is opened to when it is
// collected.
//
// A binary tree of amounts still to be handed down. Opening a leaf clears its path first, so that nothing added before
// reaches it and nothing has to be subtracted: small gains keep their digits after large ones that came too early.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace survcore::metrics {

// Amount: has += and is 0 by default.
template <typename Amount>
class RangeGains {
 public:
  explicit RangeGains(std::size_t leaves) : leaves_(std::bit_ceil(leaves)), nodes_(2 * leaves_) {}

  void open(std::size_t leaf) {
    hand_down(leaf);
    nodes_[leaves_ + leaf] = Amount{};
  }

  // To the leaves [first, last).
  void add(std::size_t first, std::size_t last, const Amount& amount) {
    for (first += leaves_, last += leaves_; first < last; first /= 2, last /= 2) {
      if (first % 2) nodes_[first++] += amount;
      if (last % 2) nodes_[--last] += amount;
    }
  }

  const Amount& collect(std::size_t leaf) {
    hand_down(leaf);
    return nodes_[leaves_ + leaf];
  }

 private:
  void hand_down(std::size_t leaf) {
    for (int height = std::bit_width(leaves_) - 1; height > 0; --height) {
      const std::size_t node = (leaves_ + leaf) >> height;
      nodes_[2 * node] += nodes_[node];
      nodes_[2 * node + 1] += nodes_[node];
      nodes_[node] = Amount{};
    }
  }

  std::size_t leaves_;
  std::vector<Amount> nodes_;  // the children of i: 2 i and 2 i + 1; the leaves last
};

}  // namespace survcore::metrics
