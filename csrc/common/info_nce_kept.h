// Loss and gradient of a group of info_nce whose logits all fit a cache: they are made once and kept, 6 B^2 D
// operations, where forward and backward of larger groups (info_nce_pair.h) take 8.
//
// A group goes through five stages, each of them a job per chunk of entries that shares nothing with the others: its
// entries are packed; a strip of logits is made, the rows of the chunk against all columns, with the sums of its rows
// and columns in numbers of its own; the sums of all strips are joined, which gives the losses; a strip is weighed and
// gives the gradients of its rows; and, read along its columns, those of its columns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/info_nce_tile.h"

namespace survcore {

// Hands out parts of a block of memory that is not there yet on a first pass, which finds its size.
template <class T>
struct Parts {
  T* memory;
  int64_t used = 0;

  T* take(int64_t count) {
    const int64_t first = used;
    used += round_up(count, 128 / sizeof(T));
    return memory ? memory + first : nullptr;
  }
};

// Where a group's numbers per row go: [3, rows] of its statistics.
struct InfoNceStatistics {
  double* numbers;
  int64_t rows;
};

template <class Real>
struct InfoNceKept {
  struct Tile {
    int64_t begin, end;  // of its columns, all of one side
    bool diagonal;
    Real* logits;
    bool shared;  // exponentials under `high` instead
    Real high;
  };

  struct Strip {
    std::vector<Tile> tiles;
    Real* column_values;
    Real* shift;  // of all entries, as those of InfoNceGroup
    double* sum;
  };

  static constexpr int64_t widest = 2 * 64 / sizeof(Real);  // columns of a panel

  InfoNceGroup<Real> group;
  InfoNceChunks chunks;
  bool among;
  Real* gradients[2];
  InfoNceStatistics statistics;
  std::vector<Strip> strips;  // of each chunk that is compared as rows
  Real* packed;               // all entries
  Real* turned[2];            // entries of a side, in panels of entries
  std::vector<double> log_sum;
  std::vector<double> losses;  // of each chunk, summed
  std::vector<double> along;   // what finish_entries returns

  // group.own is set, as group.weighted is.
  InfoNceKept(const InfoNceGroup<Real>& group_, bool among_, Real* const gradients_[2], InfoNceStatistics statistics_)
      : group(group_),
        chunks(group.count, 96, 32),
        among(among_),
        gradients{gradients_[0], gradients_[1]},
        statistics(statistics_),
        strips(count_chunks() / (among ? 1 : 2)),
        log_sum(2 * group.count),
        losses(count_chunks()),
        along(count_chunks()) {
    const int64_t per_side = chunks.per_side;
    for (int64_t chunk = 0; chunk < static_cast<int64_t>(strips.size()); ++chunk) {
      const auto add = [&](int64_t begin, int64_t end, bool diagonal) {
        if (begin < end) strips[chunk].tiles.push_back({begin, end, diagonal, nullptr, false, Real(0)});
      };
      const int64_t begin = chunks.begin(chunk), end = chunks.end(chunk);
      if (among) {
        add(begin, end, true);
        add(end, chunk < per_side ? group.count : 2 * group.count, false);
      }
      if (chunk < per_side) add(group.count, 2 * group.count, false);
    }
    group.log_sum = log_sum.data();
  }

  int64_t count_chunks() const { return group.count ? 2 * chunks.per_side : 0; }

  // Entries from one packed panel to the next: of many, some more than there are, so that the panels of a chunk do not
  // fall into the same few sets of a cache.
  int64_t panel_entries() const {
    const int64_t entries = 2 * group.count;
    return entries < 512 ? entries : round_up(entries, 256) + 96;
  }

  void place(Parts<Real>& numbers, Parts<double>& sums) {
    const int64_t entries = 2 * group.count;
    packed = numbers.take(panel_entries() * round_up(group.width, widest));
    for (int64_t side = 0; side < 2; ++side)
      turned[side] = among || side ? numbers.take(round_up(group.count, widest) * group.width) : nullptr;
    for (std::size_t chunk = 0; chunk < strips.size(); ++chunk) {
      Strip& strip = strips[chunk];
      strip.shift = numbers.take(entries);
      strip.sum = sums.take(entries);
      const int64_t rows = round_up(chunks.end(chunk) - chunks.begin(chunk), InfoNceTile<64, Real>::rows_together);
      int64_t most = 0;
      for (Tile& tile : strip.tiles) {
        const int64_t columns = round_up(tile.end - tile.begin, widest) + widest;
        tile.logits = numbers.take(rows * columns);
        most = std::max(most, columns);
      }
      strip.column_values = numbers.take(most);
    }
  }
};

// The tile of logits that rows [begin, end) and the columns of a kept tile make, as it lies in memory.
template <int bytes, class Real>
SURVCORE_INLINE void look_at(const InfoNceKept<Real>& kept, int64_t strip, const typename InfoNceKept<Real>::Tile& from,
                             InfoNceTile<bytes, Real>& tile) {
  using Block = ProductBlock<bytes, Real>;
  const InfoNceGroup<Real>& group = kept.group;
  const int64_t begin = kept.chunks.begin(strip);
  const int64_t side = from.begin >= group.count;
  tile.width = group.width;
  tile.left_panel = tile.right_panel = kept.panel_entries() * Block::columns;
  tile.left = kept.packed + begin * Block::columns;
  tile.right = kept.packed + from.begin * Block::columns;
  // Tiles begin at a side's first entry or at a chunk's, which is that of a panel.
  tile.turned = kept.turned[side] + (from.begin - side * group.count) * group.width;
  tile.logits = from.logits;
  tile.column_values = kept.strips[strip].column_values;
  tile.set_rows(begin, kept.chunks.end(strip));
  tile.set_columns(from.begin, from.end);
}

template <int bytes, class Real>
SURVCORE_INLINE void pack_chunk(const InfoNceKept<Real>& kept, const InfoNceOptions& options, int64_t chunk) {
  constexpr int64_t columns = ProductBlock<bytes, Real>::columns;
  const InfoNceGroup<Real>& group = kept.group;
  const int64_t begin = kept.chunks.begin(chunk), end = kept.chunks.end(chunk), panel = kept.panel_entries() * columns;
  Real* packed = kept.packed + begin * columns;
  pack_entries<bytes>(group, options.normalize, begin, end, packed, panel);
  const int64_t side = begin >= group.count;
  if (!kept.turned[side]) return;
  turn_entries<bytes>(packed, panel, end - begin, group.width, static_cast<Real>(1 / options.temperature),
                      kept.turned[side] + (begin - side * group.count) * group.width);
}

template <int bytes, class Real>
SURVCORE_INLINE void sum_strip(InfoNceKept<Real>& kept, int64_t chunk) {
  auto& strip = kept.strips[chunk];
  InfoNceGroup<Real> group = kept.group;
  group.shift = strip.shift;
  group.sum = strip.sum;
  std::fill_n(group.shift, 2 * group.count, -std::numeric_limits<Real>::infinity());
  std::fill_n(group.sum, 2 * group.count, 0.0);
  InfoNceTile<bytes, Real> tile;
  for (auto& from : strip.tiles) {
    look_at<bytes>(kept, chunk, from, tile);
    tile.make_logits();
    from.shared = tile.add_sums(group, from.diagonal, from.high);
  }
}

// Joins the sums of a chunk's entries.
template <int bytes, class Real>
SURVCORE_INLINE void join_sums(InfoNceKept<Real>& kept, int64_t chunk) {
  constexpr int64_t most = 128;
  const InfoNceGroup<Real>& group = kept.group;
  const int64_t begin = kept.chunks.begin(chunk), count = kept.chunks.end(chunk) - begin;
  Real shift[most];
  double sum[most], own[most], terms[most];
  std::fill_n(shift, count, -std::numeric_limits<Real>::infinity());
  std::fill_n(sum, count, 0.0);
  for (const auto& strip : kept.strips) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
      ShiftedSum<Real>::add(shift[i], sum[i], strip.shift[begin + i], strip.sum[begin + i]);
  }
  const int64_t side = begin >= group.count;
  for (int64_t i = 0; i < count; ++i) {
    sum[i] = std::log(sum[i]) + shift[i];
    own[i] = group.own[begin + i - side * group.count];
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) terms[i] = softplus(sum[i] - own[i]);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    total += terms[i];
    kept.log_sum[begin + i] = own[i] + terms[i];
    const int64_t row = group.row_of(begin + i);
    kept.statistics.numbers[side * kept.statistics.rows + row] = sum[i];
    kept.statistics.numbers[2 * kept.statistics.rows + row] = own[i];
  }
  kept.losses[chunk] = total;
}

template <int bytes, class Real>
SURVCORE_INLINE void finish_chunk(InfoNceKept<Real>& kept, const InfoNceOptions& options, int64_t chunk) {
  const auto factor = static_cast<Real>(1.0 / (2.0 * static_cast<double>(kept.group.count) * options.temperature));
  kept.along[chunk] = finish_entries<bytes>(kept.group, options.normalize, kept.chunks.begin(chunk),
                                            kept.chunks.end(chunk), factor, kept.gradients);
}

// Turns a strip into weights, and those of its rows into their gradients, where no strip has these as columns.
template <int bytes, class Real>
SURVCORE_INLINE void row_gradients(InfoNceKept<Real>& kept, const InfoNceOptions& options, int64_t chunk) {
  const InfoNceGroup<Real>& group = kept.group;
  Real* output = group.weighted_at(kept.chunks.begin(chunk));
  InfoNceTile<bytes, Real> tile;
  bool first = true;
  for (const auto& from : kept.strips[chunk].tiles) {
    look_at<bytes>(kept, chunk, from, tile);
    tile.weigh_sums(group, from.diagonal, from.shared, from.high);
    if (first) {
      tile.template weigh_columns<false>(output, group.weighted_stride);
    } else {
      tile.template weigh_columns<true>(output, group.weighted_stride);
    }
    first = false;
  }
  if (!kept.among) finish_chunk<bytes>(kept, options, chunk);
}

// Gradients of a chunk's entries, from all strips that have them as columns.
template <int bytes, class Real>
SURVCORE_INLINE void column_gradients(InfoNceKept<Real>& kept, const InfoNceOptions& options, int64_t chunk) {
  const InfoNceGroup<Real>& group = kept.group;
  const int64_t begin = kept.chunks.begin(chunk), count = kept.chunks.end(chunk) - begin;
  Real* output = group.weighted_at(begin);
  InfoNceTile<bytes, Real> tile;
  bool first = !kept.among;  // else there are gradients as rows
  for (std::size_t strip = 0; strip < kept.strips.size(); ++strip) {
    for (const auto& from : kept.strips[strip].tiles) {
      if (from.diagonal || begin < from.begin || begin >= from.end) continue;
      look_at<bytes>(kept, strip, from, tile);
      if (first) {
        tile.template weigh_rows<false>(begin - from.begin, count, output, group.weighted_stride);
      } else {
        tile.template weigh_rows<true>(begin - from.begin, count, output, group.weighted_stride);
      }
      first = false;
    }
  }
  finish_chunk<bytes>(kept, options, chunk);
}

enum class InfoNceStage { pack, sums, join, row_gradients, column_gradients };

constexpr InfoNceStage info_nce_stages[] = {InfoNceStage::pack, InfoNceStage::sums, InfoNceStage::join,
                                            InfoNceStage::row_gradients, InfoNceStage::column_gradients};

// Whether a stage has a job for a chunk.
template <class Real>
bool has_job(const InfoNceKept<Real>& kept, InfoNceStage stage, int64_t chunk) {
  const bool rows = chunk < static_cast<int64_t>(kept.strips.size());
  if (stage == InfoNceStage::sums || stage == InfoNceStage::row_gradients) return rows;
  return stage != InfoNceStage::column_gradients || kept.among || !rows;
}

template <int bytes, class Real>
SURVCORE_INLINE void do_job(InfoNceKept<Real>& kept, const InfoNceOptions& options, InfoNceStage stage, int64_t chunk) {
  switch (stage) {
    case InfoNceStage::pack:
      return pack_chunk<bytes>(kept, options, chunk);
    case InfoNceStage::sums:
      return sum_strip<bytes>(kept, chunk);
    case InfoNceStage::join:
      return join_sums<bytes>(kept, chunk);
    case InfoNceStage::row_gradients:
      return row_gradients<bytes>(kept, options, chunk);
    case InfoNceStage::column_gradients:
      return column_gradients<bytes>(kept, options, chunk);
  }
}

}  // namespace survcore
