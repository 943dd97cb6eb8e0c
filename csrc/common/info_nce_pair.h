// What info_nce does with a pair of chunks: its tiles one after the other, those of the share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/info_nce_tile.h"

namespace survcore {

// Calls body(begin, end) for the parts of the columns of a pair of chunks that are this share's.
template <int bytes, class Real, class Body>
SURVCORE_INLINE void for_each_part(const InfoNceTile<bytes, Real>& tile, const InfoNceChunks& chunks, ChunkPair pair,
                                   InfoNceShare share, const Body& body) {
  int64_t number = pair.rows + pair.columns;
  const int64_t end = chunks.end(pair.columns);
  for (int64_t begin = chunks.begin(pair.columns); begin < end; begin += tile.most_columns, ++number) {
    if (number % share.ranks == share.rank) body(begin, std::min(end, begin + tile.most_columns));
  }
}

// Calls body() for each tile of a pair of chunks, its logits made.
template <int bytes, class Real, class Body>
SURVCORE_INLINE void for_each_tile(InfoNceTile<bytes, Real>& tile, const InfoNceGroup<Real>& group,
                                   const InfoNceOptions& options, const InfoNceChunks& chunks, ChunkPair pair,
                                   const Body& body) {
  const int64_t first = chunks.begin(pair.rows), last = chunks.end(pair.rows);
  bool packed = false;
  for_each_part(tile, chunks, pair, options.share, [&](int64_t begin, int64_t end) SURVCORE_INLINE_LAMBDA {
    if (!packed) pack_entries<bytes>(group, options.normalize, first, last, tile.left);
    packed = true;
    tile.pack_columns(group, options, begin, end);
    for (int64_t row = first; row < last; row += tile.most_rows) {
      tile.multiply_rows(row, std::min(last, row + tile.most_rows), first, last - first);
      body();
    }
  });
}

template <int bytes, class Real>
SURVCORE_INLINE void forward_pair(const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                                  const InfoNceChunks& chunks, ChunkPair pair) {
  InfoNceTile<bytes, Real> tile(group.width, chunks.chunk_rows, chunks.chunk_rows);
  for_each_tile(tile, group, options, chunks, pair,
                [&]() SURVCORE_INLINE_LAMBDA { tile.add_sums(group, pair.rows == pair.columns); });
}

template <int bytes, class Real>
SURVCORE_INLINE void backward_pair(const InfoNceGroup<Real>& group, const InfoNceOptions& options,
                                   const InfoNceChunks& chunks, ChunkPair pair) {
  InfoNceTile<bytes, Real> tile(group.width, chunks.chunk_rows, chunks.chunk_rows);
  const bool diagonal = pair.rows == pair.columns;
  const int64_t first = chunks.begin(pair.rows), rows = chunks.end(pair.rows) - first;
  for_each_tile(tile, group, options, chunks, pair, [&]() SURVCORE_INLINE_LAMBDA {
    tile.weigh(group, diagonal);
    tile.add_weighted(group, diagonal, first, rows);
  });
}

}  // namespace survcore
