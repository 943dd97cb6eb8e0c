// The sampling loop over the denoising transformer, for a block of rows.
//
// A step is a sequence of phases: attention and MLP of each layer, then the output. A phase has two parts (one for an
// odd number of heads), each of half the heads or hidden units, whose contributions are added up; everything between is
// done on whole rows, which are few and small. So two threads can share a step's weights, one part each, and meet once
// per phase; and the result is the same whoever computed which part.
//
// Condition rows run through the same phases once, before the loop, attending to each other; their keys and values are
// kept. In the loop a row attends to itself and to the kept keys of its condition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "common/companion.h"
#include "common/dispatch.h"
#include "common/few_rows.h"
#include "common/tile_rows.h"
#include "common/vector_sums.h"
#include "core/bfloat16.h"
#include "core/denoiser_layout.h"
#include "core/elementary.h"
#include "core/gelu.h"

namespace survcore {

// Of so many draws a block is made at most. Tiles are so fast that reading the weights costs more than using them, even
// for 32 draws.
template <class Weight>
constexpr int64_t most_block_draws = std::is_same_v<Weight, BFloat16Tile> ? 128 : 32;
// Up to so many draws are one block, shared with the companion.
constexpr int64_t most_shared_draws = 32;
constexpr int64_t coefficient_columns = 5;  // weights of x, F, noise, previous F, previous x

// What a call is given; contiguous arrays.
template <class Real>
struct SamplingProblem {
  DenoiserLayout layout;
  const unsigned char* pack;
  const Real* noise;               // [draws, width]
  const Real* step_noise;          // [steps, draws, width], or null
  const Real* condition;           // [patients, tokens, width]
  const int64_t* condition_index;  // [draws]
  const Real* modulation;          // [steps, layers, 6, width]
  const double* coefficients;      // [steps, coefficient_columns]
  int64_t draws, patients, tokens, steps;

  const Real* vector(int64_t offset) const { return reinterpret_cast<const Real*>(pack + offset); }
  int64_t phases_per_step() const { return 2 * layout.layers + 1; }
  int64_t phases() const { return steps * phases_per_step(); }
};

// Keys and values of the condition rows: [layers][parts][patients][tokens][2, part_width].
template <class Real>
class ConditionKeys {
 public:
  explicit ConditionKeys(const SamplingProblem<Real>& problem)
      : patient_size_(problem.tokens * 2 * problem.layout.part_width),
        part_size_(problem.patients * patient_size_),
        parts_(problem.layout.parts),
        values_(problem.layout.layers * parts_ * part_size_) {}

  Real* of(int64_t layer, int64_t part, int64_t patient) {
    return values_.data() + (layer * parts_ + part) * part_size_ + patient * patient_size_;
  }
  const Real* of(int64_t layer, int64_t part, int64_t patient) const {
    return const_cast<ConditionKeys*>(this)->of(layer, part, patient);
  }

 private:
  int64_t patient_size_, part_size_, parts_;
  std::vector<Real> values_;
};

// Zeroed memory on a cache line's boundary.
template <class Real>
class Buffer {
 public:
  explicit Buffer(int64_t entries) : data_(static_cast<Real*>(operator new(entries * sizeof(Real), alignment))) {
    std::fill(data_.get(), data_.get() + entries, Real(0));
  }
  Real* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(Real* data) const { operator delete(data, alignment); }
  };
  std::unique_ptr<Real, Free> data_;
};

// Rows on their way through the phases, and the memory that a phase needs. Behind the last column of a row, and behind
// the last row, stand zeros or what comes of them: they are read, with weights 0 or into sums that nobody reads.
template <class Real>
struct RowBlock {
  RowBlock(const SamplingProblem<Real>& problem, int64_t rows, bool of_draws)
      : of_draws(of_draws),
        rows(rows),
        stored_rows((rows + tile_rows - 1) / tile_rows * tile_rows),
        stride(stride_of(problem.layout.width)),
        local_stride(
            stride_of(std::max(std::max(3 * problem.layout.part_width, problem.layout.hidden), problem.layout.width))),
        memory(stored_rows * (6 * stride + local_stride) + 2 * stride + scores_of(problem, rows)),
        rounded(stored_rows * local_stride),
        patient(rows) {
    Real* next = memory.data();
    const auto take = [&](int64_t entries) {
      Real* start = next;
      next += entries;
      return start;
    };
    for (Real** field : {&state, &previous_state, &previous_output, &x, &normal, &mixed})
      *field = take(stored_rows * stride);
    local = take(stored_rows * local_stride);
    scale = take(stride);
    shift = take(stride);
    scores = take(scores_of(problem, rows));
  }

  // A stride that is a power of two would put a column of all rows in the same few places of the cache.
  static int64_t stride_of(int64_t columns) { return DenoiserLayout::padded(columns) + 16; }
  static int64_t scores_of(const SamplingProblem<Real>& problem, int64_t rows) {
    return (problem.tokens + 1) * rows * problem.layout.heads;
  }
  int64_t size() const { return stored_rows * stride; }  // of a part's contribution

  const bool of_draws;  // or of conditions, which are not modulated and take no steps
  const int64_t rows;
  const int64_t stored_rows;  // filled up to whole tiles
  const int64_t stride, local_stride;
  Buffer<Real> memory;
  Buffer<uint16_t> rounded;  // left rows of a product on tiles
  Real* state;               // [rows, width], the latents before the step
  Real* previous_state;      // of the step before
  Real* previous_output;     // of the step before
  Real* x;                   // the rows between the layers
  Real* normal;              // normalised rows, which a phase reads
  Real* mixed;               // a part's attended values
  Real* local;               // a part's queries, keys and values, or its hidden units
  Real* scale;               // of the next normalisation, [width]
  Real* shift;
  Real* scores;  // [keys, rows * heads of a part]
  std::vector<int64_t> patient;
  const int64_t* draws = nullptr;  // [rows], positions in the problem's arrays
};

template <int bytes, class Weight, class Real>
struct Denoising {
  using Problem = SamplingProblem<Real>;
  using Block = RowBlock<Real>;

  static constexpr bool on_tiles = std::is_same_v<Weight, BFloat16Tile>;

  // output = bias + left matrix, where the columns are filled up to whole panels.
  static SURVCORE_INLINE void multiply(const Problem& problem, Block& block, LeftRows<Real> left, int64_t matrix,
                                       int64_t depth, int64_t columns, const Real* bias, Real* output,
                                       int64_t output_stride) {
    const Weight* weights = reinterpret_cast<const Weight*>(problem.pack + matrix);
    if constexpr (on_tiles) {
      const int64_t stored = problem.layout.stored_depth(depth);
      for (int64_t row = 0; row < block.rows; ++row) {
        const Real* source = left.data + row * left.stride;
        uint16_t* rounded = block.rounded.data() + row * block.local_stride;
#pragma omp simd
        for (int64_t i = 0; i < depth; ++i) rounded[i] = to_bfloat16(source[i]);
        std::fill(rounded + depth, rounded + stored, uint16_t(0));
      }
      multiply_tiles(block.rounded.data(), block.local_stride, block.stored_rows, weights, stored, columns, bias,
                     output, output_stride);
    } else {
      multiply_rows<bytes, Weight, Real>(left, block.rows, weights, depth, problem.layout.stored_depth(depth), columns,
                                         bias, output, output_stride);
    }
  }

  // normal = (x - mean) / deviation * scale + shift, each row with its own mean and deviation.
  static SURVCORE_INLINE void normalise(const Problem& problem, Block& block) {
    const int64_t width = problem.layout.width;
    for (int64_t row = 0; row < block.rows; ++row) {
      const Real* x = block.x + row * block.stride;
      Real* normal = block.normal + row * block.stride;
      const Real mean = vector_sum<bytes, Real>(width,
                                                [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
                                                  std::remove_reference_t<decltype(sum)> entries;
                                                  load_entries(x, i, entries);
                                                  sum += entries;
                                                }) /
                        static_cast<Real>(width);
      const Real squares = vector_sum<bytes, Real>(width, [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
        std::remove_reference_t<decltype(sum)> distance;
        load_entries(x, i, distance);
        distance -= mean;
        sum += distance * distance;
      });
      const Real factor = Real(1) / std::sqrt(squares / static_cast<Real>(width) + Real(1e-5));
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) normal[i] = (x[i] - mean) * factor * block.scale[i] + block.shift[i];
    }
  }

  // Scale and shift of a normalisation: its own weight and bias, modulated by (1 + scale) and shift of the time.
  static SURVCORE_INLINE void modulate(const Problem& problem, Block& block, int64_t weight, int64_t bias,
                                       const Real* modulation) {
    const int64_t width = problem.layout.width;
    const Real* own_scale = problem.vector(weight);
    const Real* own_shift = problem.vector(bias);
    if (modulation == nullptr) {
      std::copy(own_scale, own_scale + width, block.scale);
      std::copy(own_shift, own_shift + width, block.shift);
      return;
    }
    const Real* shift = modulation;
    const Real* scale = modulation + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      block.scale[i] = own_scale[i] * (Real(1) + scale[i]);
      block.shift[i] = own_shift[i] * (Real(1) + scale[i]) + shift[i];
    }
  }

  // mixed[row] = sum over keys of softmax(query key / sqrt(head width)) value, per head of the part. `key(row, j)`
  // points to the j-th key of a row, followed part_width behind by its value.
  template <class Key>
  static SURVCORE_INLINE void attend(const Problem& problem, Block& block, int64_t keys, const Key& key) {
    const int64_t part_width = problem.layout.part_width;
    const int64_t head_width = problem.layout.width / problem.layout.heads;
    const int64_t heads = part_width / head_width, problems = block.rows * heads;
    const Real factor = Real(1) / std::sqrt(static_cast<Real>(head_width));
    // scores[j][row, head]: the softmax runs over vectors of rows and heads.
    Real* scores = block.scores;
    for (int64_t row = 0; row < block.rows; ++row) {
      for (int64_t j = 0; j < keys; ++j) {
        for (int64_t head = 0; head < heads; ++head) {
          const Real* query = block.local + row * block.local_stride + head * head_width;
          const Real* other = key(row, j) + head * head_width;
          scores[j * problems + row * heads + head] =
              factor * vector_sum<bytes, Real>(head_width, [&](int64_t i, auto& sum) SURVCORE_INLINE_LAMBDA {
                std::remove_reference_t<decltype(sum)> a, b;
                load_entries(query, i, a);
                load_entries(other, i, b);
                sum += a * b;
              });
        }
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < problems; ++i) {
      Real most = scores[i];
      for (int64_t j = 1; j < keys; ++j) most = scores[j * problems + i] > most ? scores[j * problems + i] : most;
      Real total = 0;
      for (int64_t j = 0; j < keys; ++j) {
        const Real share = exp_nonpositive(scores[j * problems + i] - most);
        scores[j * problems + i] = share;
        total += share;
      }
      const Real scale = Real(1) / total;
      for (int64_t j = 0; j < keys; ++j) scores[j * problems + i] *= scale;
    }
    for (int64_t row = 0; row < block.rows; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        Real* mixed = block.mixed + row * block.stride + head * head_width;
        const Real* share = scores + row * heads + head;
        for (int64_t j = 0; j < keys; ++j) {
          const Real weight = share[j * problems];
          const Real* value = key(row, j) + part_width + head * head_width;
          if (j == 0) {
#pragma omp simd
            for (int64_t i = 0; i < head_width; ++i) mixed[i] = weight * value[i];
          } else {
#pragma omp simd
            for (int64_t i = 0; i < head_width; ++i) mixed[i] += weight * value[i];
          }
        }
      }
    }
  }

  static SURVCORE_INLINE void attention_part(const Problem& problem, ConditionKeys<Real>& kept, Block& block,
                                             int64_t layer, int64_t part, Real* contribution) {
    const DenoiserLayout& layout = problem.layout;
    const int64_t start = layout.layer_start(layer), part_width = layout.part_width;
    multiply(problem, block, {block.normal, block.stride}, start + layout.layer.query_key_value[part], layout.width,
             3 * part_width, problem.vector(start + layout.layer.query_key_value_bias[part]), block.local,
             block.local_stride);
    if (!block.of_draws) {  // whole patients
      for (int64_t row = 0; row < block.rows; ++row) {
        const Real* own = block.local + row * block.local_stride + part_width;
        Real* place = kept.of(layer, part, block.patient[row]) + row % problem.tokens * 2 * part_width;
        std::copy(own, own + 2 * part_width, place);
      }
      attend(problem, block, problem.tokens, [&](int64_t row, int64_t j) SURVCORE_INLINE_LAMBDA {
        return kept.of(layer, part, block.patient[row]) + j * 2 * part_width;
      });
    } else {
      attend(problem, block, 1 + problem.tokens, [&](int64_t row, int64_t j) SURVCORE_INLINE_LAMBDA -> const Real* {
        if (j == 0) return block.local + row * block.local_stride + part_width;
        return kept.of(layer, part, block.patient[row]) + (j - 1) * 2 * part_width;
      });
    }
    multiply(problem, block, {block.mixed, block.stride}, start + layout.layer.projection[part], part_width,
             layout.width, nullptr, contribution, block.stride);
  }

  static SURVCORE_INLINE void mlp_part(const Problem& problem, Block& block, int64_t layer, int64_t part,
                                       Real* contribution) {
    const DenoiserLayout& layout = problem.layout;
    const int64_t start = layout.layer_start(layer);
    multiply(problem, block, {block.normal, block.stride}, start + layout.layer.expand[part], layout.width,
             layout.hidden, problem.vector(start + layout.layer.expand_bias[part]), block.local, block.local_stride);
    for (int64_t row = 0; row < block.rows; ++row) {
      Real* hidden = block.local + row * block.local_stride;
#pragma omp simd
      for (int64_t i = 0; i < layout.hidden; ++i) hidden[i] = gelu(hidden[i]);
    }
    multiply(problem, block, {block.local, block.local_stride}, start + layout.layer.contract[part], layout.hidden,
             layout.width, nullptr, contribution, block.stride);
  }

  // The contribution of one part to a phase: 2 l is layer l's attention, 2 l + 1 its MLP, the last one the output.
  static SURVCORE_INLINE void compute(const Problem& problem, ConditionKeys<Real>& kept, Block& block, int64_t phase,
                                      int64_t part, Real* contribution) {
    const DenoiserLayout& layout = problem.layout;
    const int64_t place = phase % problem.phases_per_step();
    if constexpr (on_tiles) configure_tiles(block.rows);
    if (place == 2 * layout.layers) {
      multiply(problem, block, {block.normal + part * layout.part_width, block.stride}, layout.last.output[part],
               layout.part_width, layout.width, nullptr, contribution, block.stride);
    } else if (place % 2 == 0) {
      attention_part(problem, kept, block, place / 2, part, contribution);
    } else {
      mlp_part(problem, block, place / 2, part, contribution);
    }
    if constexpr (on_tiles) release_tiles();
  }

  // Modulation of a layer's attention or MLP at a step; null for condition rows.
  static SURVCORE_INLINE const Real* modulation_of(const Problem& problem, const Block& block, int64_t phase) {
    if (!block.of_draws) return nullptr;
    const int64_t step = phase / problem.phases_per_step(), place = phase % problem.phases_per_step();
    const int64_t entry = (step * problem.layout.layers + place / 2) * 6 + (place % 2) * 3;
    return problem.modulation + entry * problem.layout.width;
  }

  // Makes `normal` ready for a phase.
  static SURVCORE_INLINE void prepare(const Problem& problem, Block& block, int64_t phase) {
    const DenoiserLayout& layout = problem.layout;
    const int64_t place = phase % problem.phases_per_step();
    if (place == 2 * layout.layers) {
      modulate(problem, block, layout.last.norm_weight, layout.last.norm_bias, nullptr);
    } else {
      const int64_t start = layout.layer_start(place / 2);
      const bool mlp = place % 2 != 0;
      modulate(problem, block, start + (mlp ? layout.layer.mlp_norm_weight : layout.layer.attention_norm_weight),
               start + (mlp ? layout.layer.mlp_norm_bias : layout.layer.attention_norm_bias),
               modulation_of(problem, block, phase));
    }
    normalise(problem, block);
  }

  // x' = A x + B F + S noise + W previous F + V previous x, for one row.
  static SURVCORE_INLINE void take_step(const Problem& problem, Block& block, int64_t step, int64_t row,
                                        const Real* output) {
    const int64_t width = problem.layout.width;
    const double* table = problem.coefficients + step * coefficient_columns;
    const Real signal = static_cast<Real>(table[0]), direction = static_cast<Real>(table[1]);
    const Real spread = static_cast<Real>(table[2]);
    const Real momentum = static_cast<Real>(table[3]), memory = static_cast<Real>(table[4]);
    Real* state = block.state + row * block.stride;
    Real* previous_state = block.previous_state + row * block.stride;
    Real* previous_output = block.previous_output + row * block.stride;
    Real* x = block.x + row * block.stride;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      x[i] = signal * state[i] + direction * output[i] + momentum * previous_output[i] + memory * previous_state[i];
      previous_state[i] = state[i];
      previous_output[i] = output[i];
    }
    if (problem.step_noise) {
      const Real* noise = problem.step_noise + (step * problem.draws + block.draws[row]) * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) x[i] += spread * noise[i];
    }
    std::copy(x, x + width, state);
  }

  // Adds up the parts of a phase and the bias and gives them to the rows.
  static SURVCORE_INLINE void finish(const Problem& problem, Block& block, int64_t phase, const Real* first,
                                     const Real* second) {
    const DenoiserLayout& layout = problem.layout;
    const int64_t width = layout.width, place = phase % problem.phases_per_step();
    const bool output = place == 2 * layout.layers;
    const int64_t start = layout.layer_start(place / 2);
    const Real* bias = problem.vector(output           ? layout.last.output_bias
                                      : place % 2 == 0 ? start + layout.layer.projection_bias
                                                       : start + layout.layer.contract_bias);
    const Real* modulation = output ? nullptr : modulation_of(problem, block, phase);
    const Real* gate = modulation ? modulation + 2 * width : nullptr;
    for (int64_t row = 0; row < block.rows; ++row) {
      const Real* a = first + row * block.stride;
      const Real* b = second ? second + row * block.stride : nullptr;
      Real* sum = block.normal + row * block.stride;  // the normalised row has been used
      if (b) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) sum[i] = a[i] + b[i] + bias[i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) sum[i] = a[i] + bias[i];
      }
      Real* x = block.x + row * block.stride;
      if (output) {
        take_step(problem, block, phase / problem.phases_per_step(), row, sum);
      } else if (gate) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) x[i] += gate[i] * sum[i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) x[i] += sum[i];
      }
    }
  }
};

#define SURVCORE_DENOISING(bytes)                                                                            \
  template <class Weight, class Real>                                                                        \
  SURVCORE_TARGET_##bytes void compute_part(VectorWidth<bytes>, const SamplingProblem<Real>& problem,        \
                                            ConditionKeys<Real>& kept, RowBlock<Real>& block, int64_t phase, \
                                            int64_t part, Real* contribution) {                              \
    Denoising<bytes, Weight, Real>::compute(problem, kept, block, phase, part, contribution);                \
  }                                                                                                          \
  template <class Weight, class Real>                                                                        \
  SURVCORE_TARGET_##bytes void prepare_phase(VectorWidth<bytes>, const SamplingProblem<Real>& problem,       \
                                             RowBlock<Real>& block, int64_t phase) {                         \
    Denoising<bytes, Weight, Real>::prepare(problem, block, phase);                                          \
  }                                                                                                          \
  template <class Weight, class Real>                                                                        \
  SURVCORE_TARGET_##bytes void finish_phase(VectorWidth<bytes>, const SamplingProblem<Real>& problem,        \
                                            RowBlock<Real>& block, int64_t phase, const Real* first,         \
                                            const Real* second) {                                            \
    Denoising<bytes, Weight, Real>::finish(problem, block, phase, first, second);                            \
  }
SURVCORE_DENOISING(64)
SURVCORE_DENOISING(32)
SURVCORE_DENOISING(16)
#undef SURVCORE_DENOISING

// Keys and values of patients [first, last) in every layer.
template <class Weight, class Real, class Width>
void keep_condition_keys(Width width, const SamplingProblem<Real>& problem, int64_t first, int64_t last,
                         ConditionKeys<Real>& kept) {
  const int64_t tokens = problem.tokens, columns = problem.layout.width;
  RowBlock<Real> block(problem, (last - first) * tokens, false);
  Buffer<Real> parts(DenoiserLayout::most_parts * block.size());
  for (int64_t row = 0; row < block.rows; ++row) {
    block.patient[row] = first + row / tokens;
    const Real* source = problem.condition + (first * tokens + row) * columns;
    std::copy(source, source + columns, block.x + row * block.stride);
  }
  // The last layer's attention is the last to make keys.
  for (int64_t phase = 0; phase + 1 < 2 * problem.layout.layers; ++phase) {
    prepare_phase<Weight>(width, problem, block, phase);
    for (int64_t part = 0; part < problem.layout.parts; ++part)
      compute_part<Weight>(width, problem, kept, block, phase, part, parts.data() + part * block.size());
    finish_phase<Weight>(width, problem, block, phase, parts.data(),
                         problem.layout.parts == 2 ? parts.data() + block.size() : nullptr);
  }
}

// The loop over all steps for a block of draws; the companion, if it comes, computes the second part of each phase.
template <class Weight, class Real, class Width>
class Sampling : public CompanionTask {
 public:
  // `draws` are positions in the problem's arrays; `owner` keeps alive what the problem points to. `shared`: may be
  // offered to the companion.
  Sampling(const SamplingProblem<Real>& problem, std::shared_ptr<ConditionKeys<Real>> kept, const int64_t* draws,
           int64_t rows, std::shared_ptr<void> owner, bool shared)
      : owner_(std::move(owner)),
        kept_(std::move(kept)),
        problem_(problem),
        block_(block_of(draws, rows)),
        companion_block_(block_of(draws, shared ? rows : 0)),
        parts_((shared ? 6 : 2) * block_.size()),
        handover_(shared ? 3 * block_.size() : 0) {
    for (int64_t row = 0; row < rows; ++row) {
      const Real* start = problem_.noise + draws[row] * problem_.layout.width;
      std::copy(start, start + problem_.layout.width, block_.state + row * block_.stride);
    }
  }

  // Runs all steps and writes the latents to their places in output [draws, width].
  void run(Real* output) {
    const bool halves = problem_.layout.parts == 2;
    bool together = false;
    if (problem_.phases() > 0) start(block_, 0);
    for (int64_t phase = 0; phase < problem_.phases(); ++phase) {
      if (!together && halves && phase % problem_.phases_per_step() == 0 && pairing_.companion_is_ready()) {
        std::copy(block_.state, block_.state + 3 * block_.size(), handover_.data());
        pairing_.let_in(phase);
        together = true;
      }
      Real* first = part(together ? caller + phase % 2 : alone);
      Real* second = halves ? part(alone + 1) : nullptr;
      compute(block_, phase, 0, first);
      if (together) together = pairing_.caller_meets(phase);
      if (together) {
        second = part(companion + phase % 2);
      } else if (halves) {
        compute(block_, phase, 1, second);
      }
      advance(block_, phase, first, second);
    }
    for (int64_t row = 0; row < block_.rows; ++row) {
      const Real* state = block_.state + row * block_.stride;
      std::copy(state, state + problem_.layout.width, output + block_.draws[row] * problem_.layout.width);
    }
  }

  // To be called once, however run() ends, if the companion was offered this: it goes when it notices.
  void let_companion_go() { pairing_.finish(); }

  void help() override {
    mode_.apply();
    for (;;) {
      int64_t phase = pairing_.companion_waits();
      if (phase < 0) return;
      std::copy(handover_.data(), handover_.data() + 3 * block_.size(), companion_block_.state);
      start(companion_block_, phase);
      for (;; ++phase) {
        if (phase == problem_.phases()) return;
        Real* second = part(companion + phase % 2);
        compute(companion_block_, phase, 1, second);
        if (!pairing_.companion_meets(phase)) break;
        advance(companion_block_, phase, part(caller + phase % 2), second);
      }
    }
  }

 private:
  // Places of contributions: two for one alone, and two each, by parity of the phase, for caller and companion
  // together.
  static constexpr int64_t alone = 0, caller = 2, companion = 4;

  Real* part(int64_t place) const { return parts_.data() + place * block_.size(); }

  RowBlock<Real> block_of(const int64_t* draws, int64_t rows) const {
    RowBlock<Real> block(problem_, rows, true);
    block.draws = draws;
    for (int64_t row = 0; row < rows; ++row) block.patient[row] = problem_.condition_index[draws[row]];
    return block;
  }
  void start(RowBlock<Real>& block, int64_t phase) {
    std::copy(block.state, block.state + block.size(), block.x);
    prepare_phase<Weight>(Width(), problem_, block, phase);
  }
  void compute(RowBlock<Real>& block, int64_t phase, int64_t part, Real* contribution) {
    compute_part<Weight>(Width(), problem_, *kept_, block, phase, part, contribution);
  }
  void advance(RowBlock<Real>& block, int64_t phase, const Real* first, const Real* second) {
    finish_phase<Weight>(Width(), problem_, block, phase, first, second);
    if (phase + 1 < problem_.phases()) prepare_phase<Weight>(Width(), problem_, block, phase + 1);
  }

  std::shared_ptr<void> owner_;
  std::shared_ptr<ConditionKeys<Real>> kept_;
  const SamplingProblem<Real> problem_;
  RowBlock<Real> block_, companion_block_;
  Buffer<Real> parts_, handover_;
  FloatingPointMode mode_;
  Pairing pairing_;
};

}  // namespace survcore
