// Where everything lies in a packed denoiser.
//
// A pack is a header and then, in the order in which a step reads them, the vectors and matrices of each layer. Each
// half of the heads and of the hidden units is a part: a part's matrices stand together, so that two threads can read
// one part each and one thread both, all of them in one sweep. Part p of the query-key-value matrix has the columns of
// its heads, part p of the projection the rows of these; likewise expand and contract. The contributions of the parts
// to projection, contraction and output are added up, always in this order.
//
// A matrix [depth, columns] is stored in panels of 32 columns, each [depth, 32], filled up with zeros. In bfloat16 two
// rows stand together, [depth / 2, 32, 2], and the depth is filled up to a multiple of 32 as well.
//
// The flat form, which any device can read, is the header and the weights one after the other as PyTorch holds them.
#pragma once

#include <cstdint>
#include <cstring>

namespace survcore {

enum class PackType : int64_t { float32 = 0, float64 = 1, bfloat16 = 2 };
enum class PackForm : int64_t { flat = 0, panels = 1 };

// The first 64 bytes. survcore/reference/pack_denoiser.py writes and reads the flat form.
struct DenoiserHeader {
  static constexpr int64_t expected_magic = 0x316e65646d735653;  // "SVsmden1"

  int64_t magic;
  int64_t form;
  int64_t type;
  int64_t instruction_set;  // whose kernels run a pack in panels; 0 in the flat form
  int64_t layers;
  int64_t width;
  int64_t heads;
  int64_t bytes;  // of the whole pack
};
static_assert(sizeof(DenoiserHeader) == 64);

constexpr int64_t pack_panel_columns = 32;

// Number of weights of a denoiser: per layer 12 D^2 + 13 D, then the output matrix, its bias and a norm.
inline int64_t denoiser_weight_count(int64_t layers, int64_t width) {
  return layers * (12 * width * width + 13 * width) + width * width + 3 * width;
}

class DenoiserLayout {
 public:
  static constexpr int most_parts = 2;

  // Offsets in bytes from the start of the layer.
  struct Layer {
    int64_t attention_norm_weight, attention_norm_bias, mlp_norm_weight, mlp_norm_bias;
    int64_t query_key_value_bias[most_parts], projection_bias, expand_bias[most_parts], contract_bias;
    int64_t query_key_value[most_parts], projection[most_parts], expand[most_parts], contract[most_parts];
  };
  // Offsets in bytes from the start of the pack.
  struct Last {
    int64_t norm_weight, norm_bias, output_bias, output[most_parts];
  };

  DenoiserLayout(int64_t layers, int64_t width, int64_t heads, PackType type)
      : layers(layers),
        width(width),
        heads(heads),
        parts(heads % most_parts == 0 ? most_parts : 1),
        part_width(width / parts),
        hidden(4 * width / parts),
        type(type) {
    int64_t cursor = 0;
    const auto vector = [&](int64_t entries) {
      const int64_t start = cursor;
      cursor += aligned(padded(entries) * real_bytes());
      return start;
    };
    const auto matrix = [&](int64_t depth, int64_t columns) {
      const int64_t start = cursor;
      cursor += aligned(padded(columns) * stored_depth(depth) * weight_bytes());
      return start;
    };
    layer.attention_norm_weight = vector(width);
    layer.attention_norm_bias = vector(width);
    for (int64_t part = 0; part < parts; ++part) layer.query_key_value_bias[part] = vector(3 * part_width);
    layer.projection_bias = vector(width);
    layer.mlp_norm_weight = vector(width);
    layer.mlp_norm_bias = vector(width);
    for (int64_t part = 0; part < parts; ++part) layer.expand_bias[part] = vector(hidden);
    layer.contract_bias = vector(width);
    for (int64_t part = 0; part < parts; ++part) {
      layer.query_key_value[part] = matrix(width, 3 * part_width);
      layer.projection[part] = matrix(part_width, width);
    }
    for (int64_t part = 0; part < parts; ++part) {
      layer.expand[part] = matrix(width, hidden);
      layer.contract[part] = matrix(hidden, width);
    }
    layer_bytes = cursor;
    cursor = sizeof(DenoiserHeader) + layers * layer_bytes;
    last.norm_weight = vector(width);
    last.norm_bias = vector(width);
    last.output_bias = vector(width);
    for (int64_t part = 0; part < parts; ++part) last.output[part] = matrix(part_width, width);
    bytes = cursor;
  }

  int64_t layer_start(int64_t index) const { return sizeof(DenoiserHeader) + index * layer_bytes; }
  int64_t real_bytes() const { return type == PackType::float64 ? 8 : 4; }
  int64_t weight_bytes() const { return type == PackType::float64 ? 8 : type == PackType::bfloat16 ? 2 : 4; }

  int64_t stored_depth(int64_t depth) const { return type == PackType::bfloat16 ? padded(depth) : depth; }

  static int64_t padded(int64_t columns) {
    return (columns + pack_panel_columns - 1) / pack_panel_columns * pack_panel_columns;
  }

  const int64_t layers, width, heads, parts;
  const int64_t part_width;  // columns of a part's heads
  const int64_t hidden;      // hidden units of a part
  const PackType type;
  Layer layer = {};
  Last last = {};
  int64_t layer_bytes;
  int64_t bytes;

 private:
  static int64_t aligned(int64_t size) { return (size + 63) / 64 * 64; }
};

}  // namespace survcore
