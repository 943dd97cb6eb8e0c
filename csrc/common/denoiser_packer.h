// Brings the weights of a denoiser into the order of core/denoiser_layout.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/bfloat16.h"
#include "core/denoiser_layout.h"

namespace survcore {

// From weights one after the other, as PyTorch holds them, to a pack that is zero everywhere; the header is not
// written.
template <class Real>
class Packer {
 public:
  Packer(const DenoiserLayout& layout, const Real* weights, unsigned char* pack)
      : layout_(layout), next_(weights), pack_(pack) {}

  void pack() {
    const int64_t width = layout_.width;
    for (int64_t index = 0; index < layout_.layers; ++index) {
      const int64_t start = layout_.layer_start(index);
      const DenoiserLayout::Layer& layer = layout_.layer;
      vector(start + layer.attention_norm_weight, width);
      vector(start + layer.attention_norm_bias, width);
      const Real* query_key_value = take(3 * width * width);
      const Real* query_key_value_bias = take(3 * width);
      for (int64_t part = 0; part < layout_.parts; ++part) {
        // Column j of a part: the query, key or value number j % part_width of its heads.
        const auto row = [&](int64_t j) {
          return j / layout_.part_width * width + part * layout_.part_width + j % layout_.part_width;
        };
        matrix(start + layer.query_key_value[part], query_key_value, width, width, 3 * layout_.part_width, row);
        Real* bias = reals(start + layer.query_key_value_bias[part]);
        for (int64_t j = 0; j < 3 * layout_.part_width; ++j) bias[j] = query_key_value_bias[row(j)];
      }
      matrix_by_depth(start, layer.projection, take(width * width), width, width);
      vector(start + layer.projection_bias, width);
      vector(start + layer.mlp_norm_weight, width);
      vector(start + layer.mlp_norm_bias, width);
      const Real* expand = take(4 * width * width);
      const Real* expand_bias = take(4 * width);
      for (int64_t part = 0; part < layout_.parts; ++part) {
        const int64_t first = part * layout_.hidden;
        matrix(start + layer.expand[part], expand, width, width, layout_.hidden, [&](int64_t j) { return first + j; });
        std::copy(expand_bias + first, expand_bias + first + layout_.hidden, reals(start + layer.expand_bias[part]));
      }
      matrix_by_depth(start, layer.contract, take(4 * width * width), 4 * width, width);
      vector(start + layer.contract_bias, width);
    }
    vector(layout_.last.norm_weight, width);
    vector(layout_.last.norm_bias, width);
    matrix_by_depth(0, layout_.last.output, take(width * width), width, width);
    vector(layout_.last.output_bias, width);
  }

 private:
  const Real* take(int64_t count) {
    const Real* start = next_;
    next_ += count;
    return start;
  }
  Real* reals(int64_t offset) const { return reinterpret_cast<Real*>(pack_ + offset); }
  void vector(int64_t offset, int64_t count) {
    const Real* source = take(count);
    std::copy(source, source + count, reals(offset));
  }

  // A weight [out, in] of which each part takes its share of the inputs.
  void matrix_by_depth(int64_t start, const int64_t* offsets, const Real* weight, int64_t in, int64_t out) {
    const int64_t depth = in / layout_.parts;
    for (int64_t part = 0; part < layout_.parts; ++part)
      matrix(start + offsets[part], weight + part * depth, in, depth, out, [](int64_t j) { return j; });
  }

  // Column j of the packed matrix is row(j) of `weight`, whose rows are `stride` apart.
  template <class Row>
  void matrix(int64_t offset, const Real* weight, int64_t stride, int64_t depth, int64_t columns, const Row& row) {
    const int64_t together = layout_.type == PackType::bfloat16 ? 2 : 1;
    for (int64_t j = 0; j < columns; ++j) {
      const Real* source = weight + row(j) * stride;
      const int64_t panel = j / pack_panel_columns * layout_.stored_depth(depth) * pack_panel_columns;
      for (int64_t k = 0; k < depth; ++k) {
        const int64_t place =
            panel + (k / together * pack_panel_columns + j % pack_panel_columns) * together + k % together;
        if (layout_.type == PackType::bfloat16) {
          reinterpret_cast<uint16_t*>(pack_ + offset)[place] = to_bfloat16(static_cast<float>(source[k]));
        } else {
          reals(offset)[place] = source[k];
        }
      }
    }
  }

  const DenoiserLayout& layout_;
  const Real* next_;
  unsigned char* pack_;
};

}  // namespace survcore
