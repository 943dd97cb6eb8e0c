// How many of the inserted rows have a smaller rank than a given one, the same, or a larger.
//
// A bitmap with one bit per row, and above it a 16-ary tree of counts: a node holds, for each of its 16 children, how
// many rows were inserted into the children before it. An insertion sets a bit and adds one row of a table to one node
// per level (a vector addition); a query counts bits in one word and adds one number per level. For n = 1e5 there are
// three levels.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace survcore::metrics {

// What stands in a set on either side of a rank.
template <typename Amount>
struct Around {
  Amount smaller;
  Amount same;
  Amount larger;
};

class RankSet {
 public:
  // For `size` rows in all. A rank is the position of its first row among the sorted rows: rows of equal value share
  // the rank and own the bits from there on.
  explicit RankSet(std::size_t size) : same_(size, 0), present_(size / 64 + 1, 0) {
    std::size_t nodes = present_.size();
    do {
      nodes = (nodes + 15) / 16;
      levels_.emplace_back(nodes);
    } while (nodes > 1);
  }

  void insert(std::uint32_t rank) {
    const std::uint32_t bit = rank + same_[rank]++;
    ++inserted_;
    std::uint32_t index = bit / 64;
    present_[index] |= std::uint64_t{1} << (bit % 64);
    for (auto& level : levels_) {
      const Counts& step = steps[index % 16];
      index /= 16;
      level[index] += step;
    }
  }

  // Takes one row of this rank out again.
  void remove(std::uint32_t rank) {
    const std::uint32_t bit = rank + --same_[rank];
    --inserted_;
    std::uint32_t index = bit / 64;
    present_[index] &= ~(std::uint64_t{1} << (bit % 64));
    for (auto& level : levels_) {
      const Counts& step = steps[index % 16];
      index /= 16;
      level[index] -= step;
    }
  }

  std::uint32_t smaller(std::uint32_t rank) const {
    std::uint32_t index = rank / 64;
    const std::uint64_t below = (std::uint64_t{1} << (rank % 64)) - 1;
    auto count = static_cast<std::uint32_t>(std::popcount(present_[index] & below));
    for (const auto& level : levels_) {
      const std::uint32_t child = index % 16;
      index /= 16;
      count += level[index][child];
    }
    return count;
  }

  std::uint32_t same(std::uint32_t rank) const { return same_[rank]; }

  Around<std::int64_t> around(std::uint32_t rank) const {
    const std::int64_t below = smaller(rank), equal = same(rank);
    return {below, equal, inserted_ - below - equal};
  }

 private:
  typedef std::uint32_t Counts __attribute__((vector_size(64)));

  // Row d: 1 for the children after child d.
  static inline const std::array<Counts, 16> steps = [] {
    std::array<Counts, 16> rows{};
    for (int digit = 0; digit < 16; ++digit) {
      for (int child = digit + 1; child < 16; ++child) rows[digit][child] = 1;
    }
    return rows;
  }();

  std::int64_t inserted_ = 0;
  std::vector<std::uint32_t> same_;
  std::vector<std::uint64_t> present_;
  std::vector<std::vector<Counts>> levels_;
};

}  // namespace survcore::metrics
