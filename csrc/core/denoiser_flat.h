// Where everything lies in the flat form of a packed denoiser, which a GPU reads as it is.
//
// Behind the header stand the weights as PyTorch holds them, a matrix as [out, in]: the weights of one output column
// lie side by side, and those of a range of columns are one piece of memory. In float32 and float64 the arrays follow
// each other without gaps; where matrices are in bfloat16, each array begins at a multiple of 16 bytes, vectors are in
// float32, and two bytes stand behind all: so the size of a pack tells its type without a look into its header, which
// the host of a GPU would have to wait for. survcore/reference/pack_denoiser.py writes and reads the same.
#pragma once

#include <cstdint>

#include "core/denoiser_layout.h"
#include "core/platform.h"

namespace survcore {

// The products of a layer, and that behind the last layer.
enum class DenoiserProduct : int32_t { query_key_value = 0, projection = 1, expand = 2, contract = 3, output = 4 };
constexpr int denoiser_products = 5;

struct FlatDenoiser {
  struct Affine {
    int64_t matrix, bias;  // offsets in bytes, of a layer's product from the start of the layer
  };
  struct Norm {
    int64_t weight, bias;
  };

  int64_t layers, width, layer_bytes, bytes;
  Affine affine[denoiser_products];  // the last from the start of the pack
  Norm attention_norm, mlp_norm;     // from the start of the layer
  Norm last_norm;                    // from the start of the pack

  FlatDenoiser(int64_t layers, int64_t width, PackType type) : layers(layers), width(width) {
    const int64_t real_bytes = type == PackType::float64 ? 8 : 4;
    const int64_t weight_bytes = type == PackType::float64 ? 8 : type == PackType::bfloat16 ? 2 : 4;
    int64_t cursor = 0;
    const auto take = [&](int64_t size) {
      const int64_t start = cursor;
      cursor += type == PackType::bfloat16 ? (size + 15) / 16 * 16 : size;
      return start;
    };
    const auto norm = [&] {
      const int64_t weight = take(width * real_bytes);
      return Norm{weight, take(width * real_bytes)};
    };
    const auto product = [&](DenoiserProduct name) {
      const int64_t matrix = take(columns(name) * depth(name) * weight_bytes);
      affine[static_cast<int>(name)] = {matrix, take(columns(name) * real_bytes)};
    };
    attention_norm = norm();
    product(DenoiserProduct::query_key_value);
    product(DenoiserProduct::projection);
    mlp_norm = norm();
    product(DenoiserProduct::expand);
    product(DenoiserProduct::contract);
    layer_bytes = cursor;
    cursor = static_cast<int64_t>(sizeof(DenoiserHeader)) + layers * layer_bytes;
    last_norm = norm();
    product(DenoiserProduct::output);
    bytes = cursor + (type == PackType::bfloat16 ? 2 : 0);
  }

  SURVCORE_SHARED int64_t layer_start(int64_t layer) const {
    return static_cast<int64_t>(sizeof(DenoiserHeader)) + layer * layer_bytes;
  }
  SURVCORE_SHARED int64_t columns(DenoiserProduct product) const {
    return product == DenoiserProduct::query_key_value ? 3 * width
           : product == DenoiserProduct::expand        ? 4 * width
                                                       : width;
  }
  SURVCORE_SHARED int64_t depth(DenoiserProduct product) const {
    return product == DenoiserProduct::contract ? 4 * width : width;
  }
  // Of a product in a layer, or of the output.
  SURVCORE_SHARED Affine place(DenoiserProduct product, int64_t layer) const {
    const Affine offsets = affine[static_cast<int>(product)];
    const int64_t start = product == DenoiserProduct::output ? 0 : layer_start(layer);
    return {start + offsets.matrix, start + offsets.bias};
  }
};

}  // namespace survcore
