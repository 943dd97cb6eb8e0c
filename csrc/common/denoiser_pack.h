// Reading the header of a packed denoiser, and packing one for this CPU.
#pragma once

#include <cstring>
#include <string>

#include "common/dispatch.h"
#include "common/tensors.h"
#include "common/tile_rows.h"
#include "core/denoiser_layout.h"

namespace survcore {

// Header of a pack, uint8 and contiguous; throws unless it is whole.
inline DenoiserHeader denoiser_header(const Tensor& pack) {
  // Wide enough for any model, and no count of bytes overflows.
  constexpr int64_t most_layers = 1 << 12, most_width = 1 << 16;
  DenoiserHeader header = {};
  const bool long_enough = pack.numel() >= static_cast<int64_t>(sizeof(header));
  if (long_enough) std::memcpy(&header, pack.const_data_ptr<uint8_t>(), sizeof(header));
  STD_TORCH_CHECK(long_enough && header.magic == DenoiserHeader::expected_magic,
                  "packed_weights is not a packed denoiser of this version of survcore: pack it with pack_denoiser");
  const bool sound = header.layers >= 1 && header.layers <= most_layers && header.width >= 1 &&
                     header.width <= most_width && header.heads >= 1 && header.width % header.heads == 0 &&
                     header.type >= 0 && header.type <= (header.form == 0 ? 1 : 2) && header.form >= 0 &&
                     header.form <= 1 && header.instruction_set >= 0 && header.instruction_set <= 3;
  STD_TORCH_CHECK(sound, "the header of packed_weights is damaged: ", header.layers, " layers, width ", header.width,
                  ", ", header.heads, " heads, type ", header.type, ", form ", header.form);
  STD_TORCH_CHECK(header.bytes == pack.numel(), "packed_weights has ", pack.numel(), " bytes, its header says ",
                  header.bytes);
  const PackType type = static_cast<PackType>(header.type);
  const DenoiserLayout layout(header.layers, header.width, header.heads, type);
  const int64_t flat = sizeof(header) + denoiser_weight_count(header.layers, header.width) * layout.real_bytes();
  const int64_t expected = header.form == static_cast<int64_t>(PackForm::flat) ? flat : layout.bytes;
  STD_TORCH_CHECK(header.bytes == expected, "packed_weights has ", header.bytes, " bytes, a denoiser of ",
                  header.layers, " layers and width ", header.width, " has ", expected);
  return header;
}

// The best instruction set that this CPU has for a pack of a type.
inline InstructionSet best_instruction_set(PackType type) {
  const InstructionSet vectors = best_instruction_set();
  const bool tiles = type == PackType::bfloat16 && vectors == InstructionSet::avx512 && have_tiles();
  return tiles ? InstructionSet::amx : vectors;
}

// The op pack_denoiser: a flat pack in panels, for an instruction set of this CPU (empty: its best).
Tensor pack_denoiser(const Tensor& flat, std::string dtype, std::string instruction_set);

}  // namespace survcore
