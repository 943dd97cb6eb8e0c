// What info_nce does with a pair of chunks: its tiles one after the other, those of the share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/info_nce_tile.h"
#include "common/scratch.h"

namespace survcore {

// Room for one pair of chunks: entries of the row chunk, and of as many columns as fit the second cache, packed; a
// tile.
template <int bytes, class Real>
struct InfoNcePairRoom {
  using Tile = InfoNceTile<bytes, Real>;

  int64_t padded;  // width of an entry in whole panels
  int64_t most_columns;
  Scratch<Real> room;
  Real* left;
  Real* right;
  Real* turned;
  Tile tile;

  InfoNcePairRoom(int64_t width, int64_t chunk_rows, int64_t chunk_columns)
      : padded(Tile::whole(width)),
        most_columns(columns_of(padded, chunk_columns)),
        room((chunk_rows + 2 * most_columns) * padded + (Tile::most_rows + 1) * Tile::stride_of(most_columns)),
        left(room.data()),
        right(left + chunk_rows * padded),
        turned(right + most_columns * padded) {
    tile.width = width;
    tile.right = right;
    tile.turned = turned;
    tile.logits = turned + most_columns * padded;
    tile.column_values = tile.logits + Tile::most_rows * Tile::stride_of(most_columns);
  }

  static int64_t columns_of(int64_t padded, int64_t chunk_columns) {
    constexpr int64_t usual_entries = 128 << 10, least = 64, most = 512;  // bytes of a tile's column entries
    const int64_t fitting = std::clamp<int64_t>(usual_entries / (padded * sizeof(Real)), least, most);
    return round_up(std::min(fitting, chunk_columns), std::max<int64_t>(Tile::Block::columns, 16));
  }

  SURVCORE_INLINE void pack_rows(const InfoNceGroup<Real>& group, bool normalize, int64_t begin, int64_t end) {
    tile.left_panel = (end - begin) * Tile::Block::columns;
    pack_entries<bytes>(group, normalize, begin, end, left, tile.left_panel);
  }

  SURVCORE_INLINE void pack_columns(const InfoNceGroup<Real>& group, const InfoNceOptions& options, int64_t begin,
                                    int64_t end) {
    tile.set_columns(begin, end);
    tile.right_panel = tile.columns * Tile::Block::columns;
    pack_entries<bytes>(group, options.normalize, begin, end, right, tile.right_panel);
    turn_entries<bytes>(right, tile.right_panel, tile.columns, tile.width, static_cast<Real>(1 / options.temperature),
                        turned);
  }
};

// Calls body(tile) for each tile of a pair of chunks that is this share's, its logits made.
template <int bytes, class Real, class Body>
SURVCORE_INLINE void for_each_tile(const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                                   const InfoNceChunks& chunks, ChunkPair pair, const Body& body) {
  using Tile = InfoNceTile<bytes, Real>;
  InfoNcePairRoom<bytes, Real> room(group.width, chunks.chunk_rows, chunks.chunk_rows);
  Tile& tile = room.tile;
  const int64_t first = chunks.begin(pair.rows), last = chunks.end(pair.rows), end = chunks.end(pair.columns);
  bool packed = false;
  int64_t number = pair.rows + pair.columns;
  for (int64_t begin = chunks.begin(pair.columns); begin < end; begin += room.most_columns, ++number) {
    if (number % options.share.ranks != options.share.rank) continue;
    if (!packed) room.pack_rows(group, options.normalize, first, last);
    packed = true;
    room.pack_columns(group, options, begin, std::min(end, begin + room.most_columns));
    for (int64_t row = first; row < last; row += Tile::most_rows) {
      tile.set_rows(row, std::min(last, row + Tile::most_rows));
      tile.left = room.left + (row - first) * Tile::Block::columns;
      tile.make_logits();
      body(tile);
    }
  }
}

template <int bytes, class Real>
SURVCORE_INLINE void forward_pair(const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                                  const InfoNceChunks& chunks, ChunkPair pair) {
  for_each_tile<bytes>(group, options, chunks, pair, [&](InfoNceTile<bytes, Real>& tile) SURVCORE_INLINE_LAMBDA {
    Real high;
    tile.add_sums(group, pair.rows == pair.columns, high);
  });
}

template <int bytes, class Real>
SURVCORE_INLINE void backward_pair(const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                                   const InfoNceChunks& chunks, ChunkPair pair) {
  const bool diagonal = pair.rows == pair.columns;
  const int64_t stride = group.weighted_stride;
  for_each_tile<bytes>(group, options, chunks, pair, [&](InfoNceTile<bytes, Real>& tile) SURVCORE_INLINE_LAMBDA {
    tile.weigh(group, diagonal);
    tile.template weigh_columns<true>(group.weighted_at(tile.row), stride);
    if (!diagonal) tile.template weigh_rows<true>(0, tile.columns, group.weighted_at(tile.column), stride);
  });
}

}  // namespace survcore
