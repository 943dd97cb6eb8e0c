// Sums over intervals of cells that only ever add, so that nothing cancels, whatever the terms.
//
// Cells lie in blocks, at the coarsest level in up to 256, each of which is divided into finer ones. An interval is
// taken at the coarsest level at which it begins and ends in different blocks: it is the rest of the one, the beginning
// of the other and the blocks between, which at the coarsest level, where most intervals are, are an entry of a table
// of all runs of blocks. Three numbers, where a tree has two a level.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/scratch.h"

namespace survcore {

class CellBlocks {
 public:
  explicit CellBlocks(int64_t cells) : cells_(cells) {
    int bits = finest_bits;
    while ((cells >> bits) >= most_at_top) ++bits;
    for (; bits > finest_bits; bits = std::max(finest_bits, bits - step_bits)) bits_.push_back(bits);
    bits_.push_back(finest_bits);
    for (const int level_bits : bits_) {
      begin_.push_back(blocks_);
      blocks_ += ((cells - 1) >> level_bits) + 1;
    }
  }

  int levels() const { return static_cast<int>(bits_.size()); }
  int64_t cells() const { return cells_; }
  int64_t blocks() const { return blocks_; }                          // of all levels
  int64_t top() const { return levels() > 1 ? begin_[1] : blocks_; }  // at the coarsest level

  // Calls body(number of the block among all, first cell, last cell) for the blocks of a level, through run(number of
  // blocks, cells in one, body(i)), which may do several of them at a time.
  template <class Run, class Body>
  void for_each_block(int level, const Run& run, const Body& body) const {
    const int64_t size = int64_t(1) << bits_[level];
    run((cells_ - 1) / size + 1, size,
        [&](int64_t i) { body(begin_[level] + i, i * size, std::min(cells_, (i + 1) * size) - 1); });
  }

  // Calls, for parts that together are [first, last]: from(level, i) for the cells from i to the end of its block,
  // upto(level, j) for those from the beginning of its block to j, run(a, b) for blocks a to b at the coarsest level,
  // block(number) for one of a finer level, within(i, j) for cells of one of the finest blocks.
  template <class From, class Upto, class Run, class Block, class Within>
  void split(int64_t first, int64_t last, const From& from, const Upto& upto, const Run& run, const Block& block,
             const Within& within) const {
    for (int level = 0; level < levels(); ++level) {
      const int64_t a = first >> bits_[level];
      const int64_t b = last >> bits_[level];
      if (a >= b) continue;
      from(level, first);
      upto(level, last);
      if (level == 0) {
        if (a + 1 < b) run(a + 1, b - 1);
      } else {
        for (int64_t number = a + 1; number < b; ++number) block(begin_[level] + number);
      }
      return;
    }
    within(first, last);
  }

 private:
  static constexpr int finest_bits = 4;
  static constexpr int step_bits = 6;
  static constexpr int64_t most_at_top = 256;

  int64_t cells_;
  int64_t blocks_ = 0;
  std::vector<int> bits_;       // log2 of the cells of a block, coarsest level first
  std::vector<int64_t> begin_;  // number of each level's first block
};

// Of each cell, the sum of the terms whose intervals contain it. Terms may be added in parts, which share no memory.
template <class Sum>
class CoveringSums {
 public:
  explicit CoveringSums(int64_t cells, int parts = 1) : blocks_(cells) {
    for (int part = 0; part < parts; ++part) parts_.emplace_back(blocks_);
  }

  // Makes all sums of a part empty.
  void begin(int part) {
    std::fill_n(parts_[part].from.data(), blocks_.levels() * blocks_.cells(), Sum());
    std::fill_n(parts_[part].upto.data(), blocks_.levels() * blocks_.cells(), Sum());
  }

  // Calls add(sum) for the sums that a term on [first, last] belongs to; an interval may be empty.
  template <class Add>
  void cover(int part, int64_t first, int64_t last, const Add& add) {
    const int64_t cells = blocks_.cells();
    const int64_t top = blocks_.top();
    Part& sums = parts_[part];
    blocks_.split(
        first, last, [&](int level, int64_t i) { add(sums.from[level * cells + i]); },
        [&](int level, int64_t j) { add(sums.upto[level * cells + j]); },
        [&](int64_t a, int64_t b) { add(sums.runs[a * top + b]); }, [&](int64_t number) { add(sums.blocks[number]); },
        [&](int64_t i, int64_t j) {
          for (; i <= j; ++i) add(sums.cells[i]);
        });
  }

  // That a term whose interval ends at `last` comes soon.
  void expect(int part, int64_t last) { __builtin_prefetch(parts_[part].upto.data() + last, 1); }

  // The sum of each cell, after all terms; `run` as in CellBlocks.
  template <class Run>
  std::vector<Sum> totals(const Run& run) && {
    const int64_t top = blocks_.top();
    std::vector<Sum>& totals = parts_[0].cells;
    std::vector<Sum>& block_sums = parts_[0].blocks;
    for (const Part& part : parts_) {
      for (int64_t number = 0; &part != &parts_[0] && number < blocks_.blocks(); ++number) {
        block_sums[number].add(part.blocks[number]);
      }
      for (int64_t a = 0; a < top; ++a) {
        Sum sum;
        for (int64_t b = top - 1; b >= a; --b) {
          sum.add(part.runs[a * top + b]);
          block_sums[b].add(sum);
        }
      }
    }
    for (int level = 0; level < blocks_.levels(); ++level) {
      const int64_t offset = level * blocks_.cells();
      blocks_.for_each_block(level, run, [&](int64_t number, int64_t first, int64_t last) {
        for (const Part& part : parts_) {
          const Sum* from = part.from.data() + offset;
          const Sum* upto = part.upto.data() + offset;
          Sum sum = &part == &parts_[0] ? block_sums[number] : Sum();
          for (int64_t i = first; i <= last; ++i) {
            sum.add(from[i]);
            totals[i].add(sum);
          }
          sum = Sum();
          for (int64_t i = last; i >= first; --i) {
            sum.add(upto[i]);
            totals[i].add(sum);
          }
          if (level > 0 || &part == &parts_[0]) continue;
          for (int64_t i = first; i <= last; ++i) totals[i].add(part.cells[i]);
        }
      });
    }
    return std::move(totals);
  }

 private:
  struct Part {
    explicit Part(const CellBlocks& of)
        : cells(of.cells()),
          from(of.levels() * of.cells()),
          upto(of.levels() * of.cells()),
          blocks(of.blocks()),
          runs(of.top() * of.top()) {}

    std::vector<Sum> cells;
    Scratch<Sum> from;  // [levels, cells]
    Scratch<Sum> upto;
    std::vector<Sum> blocks;
    std::vector<Sum> runs;  // [first, last] of the blocks at the coarsest level
  };

  CellBlocks blocks_;
  std::vector<Part> parts_;
};

// Sums of the values of the cells in any interval.
template <class Sum>
class IntervalSums {
 public:
  template <class Run>
  IntervalSums(std::vector<Sum> values, const Run& run)
      : blocks_(values.size()),
        cells_(std::move(values)),
        from_(blocks_.levels() * blocks_.cells()),
        upto_(blocks_.levels() * blocks_.cells()),
        block_sums_(blocks_.blocks()),
        runs_(blocks_.top() * blocks_.top()) {
    for (int level = 0; level < blocks_.levels(); ++level) {
      Sum* from = from_.data() + level * blocks_.cells();
      Sum* upto = upto_.data() + level * blocks_.cells();
      blocks_.for_each_block(level, run, [&](int64_t number, int64_t first, int64_t last) {
        Sum sum;
        for (int64_t i = first; i <= last; ++i) {
          sum.add(cells_[i]);
          upto[i] = sum;
        }
        block_sums_[number] = sum;
        sum = Sum();
        for (int64_t i = last; i >= first; --i) {
          sum.add(cells_[i]);
          from[i] = sum;
        }
      });
    }
    const int64_t top = blocks_.top();
    for (int64_t a = 0; a < top; ++a) {
      Sum sum;
      for (int64_t b = a; b < top; ++b) {
        sum.add(block_sums_[b]);
        runs_[a * top + b] = sum;
      }
    }
  }

  // Calls visit(sum) for sums that together are that over [first, last]; an interval may be empty.
  template <class Visit>
  void visit(int64_t first, int64_t last, const Visit& visit) const {
    const int64_t cells = blocks_.cells();
    const int64_t top = blocks_.top();
    blocks_.split(
        first, last, [&](int level, int64_t i) { visit(from_[level * cells + i]); },
        [&](int level, int64_t j) { visit(upto_[level * cells + j]); },
        [&](int64_t a, int64_t b) { visit(runs_[a * top + b]); }, [&](int64_t number) { visit(block_sums_[number]); },
        [&](int64_t i, int64_t j) {
          for (; i <= j; ++i) visit(cells_[i]);
        });
  }

 private:
  CellBlocks blocks_;
  std::vector<Sum> cells_;
  Scratch<Sum> from_;  // [levels, cells]
  Scratch<Sum> upto_;
  std::vector<Sum> block_sums_;
  std::vector<Sum> runs_;
};

}  // namespace survcore
