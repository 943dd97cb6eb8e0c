// The sampling loop as a sequence of phases for many blocks of threads, for GPUs.
//
// Each phase is one product over all rows, with what comes before and behind it:
//   query_key_value  LayerNorm of the rows, modulated -> queries, keys, values
//   projection       attention                         -> added to the rows
//   expand           LayerNorm, modulated              -> hidden units, GELU
//   contract         hidden units                      -> added to the rows
//   output           LayerNorm                         -> F, and the step x' = A x + B F + ...
// A block owns a range of the product's columns; what comes before the product it does for all rows of a chunk itself,
// as it is little: so a phase needs no more of the other blocks than that the phase before is complete. What a phase
// reads, no block writes in the same phase, except the elements that one and the same thread reads and writes.
//
// Condition rows go through the phases first, once, attending to each other; their queries, keys and values are kept.
//
// A phase is written over a Team: the threads of a block on the device, loops over them on the host. Both execute the
// same sums in the same order.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bfloat16.h"
#include "core/denoiser_flat.h"
#include "core/elementary.h"
#include "core/gelu.h"
#include "core/platform.h"

// A loop over registers, which have no index at run time.
#if defined(__CUDA_ARCH__)
#define SURVCORE_UNROLL _Pragma("unroll")
#define SURVCORE_UNROLL_BY(times) _Pragma(SURVCORE_TEXT(unroll times))
#define SURVCORE_TEXT(text) #text
#else
#define SURVCORE_UNROLL
#define SURVCORE_UNROLL_BY(times)
#endif

namespace survcore {

constexpr int chunk_rows = 8;  // rows that share one reading of the weights; row_sums gives four lanes to each

struct DenoiserPhase {
  enum class Kind : int32_t { start, product, finish };
  Kind kind;
  DenoiserProduct product;
  bool of_draws;  // or of condition rows
  int64_t layer, step;
};

// All phases of a call in their order; fewer than 2^31.
struct PhaseSequence {
  int64_t layers, steps;
  bool with_conditions;

  SURVCORE_SHARED int64_t condition_phases() const { return with_conditions ? 4 * (layers - 1) + 1 : 0; }
  SURVCORE_SHARED int64_t step_phases() const { return 4 * layers + 1; }
  SURVCORE_SHARED int64_t count() const { return 2 + condition_phases() + steps * step_phases(); }

  SURVCORE_SHARED DenoiserPhase at(int64_t index) const {
    using Kind = DenoiserPhase::Kind;
    if (index == 0) return {Kind::start, DenoiserProduct::output, true, 0, 0};
    if (index == count() - 1) return {Kind::finish, DenoiserProduct::output, true, 0, 0};
    --index;
    // The last layer's keys are the last thing that is made of the condition rows.
    if (index < condition_phases()) return {Kind::product, product_at(index % 4), false, index / 4, 0};
    // Divided in 32 bits, which takes a GPU a fraction of the time.
    const uint32_t beyond = static_cast<uint32_t>(index - condition_phases());
    const uint32_t together = static_cast<uint32_t>(step_phases());
    const int64_t step = beyond / together, place = beyond % together;
    if (place == 4 * layers) return {Kind::product, DenoiserProduct::output, true, 0, step};
    return {Kind::product, product_at(place % 4), true, place / 4, step};
  }

 private:
  static SURVCORE_SHARED DenoiserProduct product_at(int64_t place) { return static_cast<DenoiserProduct>(place); }
};

// What a call is given, and its workspace; contiguous arrays.
template <class Real>
struct PhaseProblem {
  FlatDenoiser layout;
  PackType type;
  const unsigned char* pack;       // flat form
  const Real* noise;               // [draws, width]
  const Real* step_noise;          // [steps, draws, width], or null
  const Real* condition;           // [patients, tokens, width]
  const int64_t* condition_index;  // [draws]
  const Real* modulation;          // [steps, layers, 6, width]
  const double* coefficients;      // [steps, 5]: weights of x, F, noise, previous F, previous x
  int64_t draws, patients, tokens, steps;
  Real* output;  // [draws, width]

  Real* state;                      // [draws, width], the latents before the step
  Real* previous_state;             // [draws, width], of the step before
  Real* previous_output;            // [draws, width], of the step before
  Real* rows;                       // [draws, width], between the layers
  Real* query_key_value;            // [draws, 3, width]
  Real* hidden;                     // [draws, 4, width]
  Real* condition_rows;             // [patients * tokens, width], between the layers
  Real* condition_query_key_value;  // [layers, patients * tokens, 3, width]
  Real* condition_hidden;           // [patients * tokens, 4, width]

  SURVCORE_SHARED PhaseSequence phases() const { return {layout.layers, steps, patients * tokens > 0}; }
  SURVCORE_SHARED const Real* vector(int64_t offset) const { return reinterpret_cast<const Real*>(pack + offset); }

  // Attention heads as the pack's header says, which only the device can read; 0 if the header is that of another
  // denoiser than the other arguments belong to.
  SURVCORE_SHARED int64_t heads() const {
    const int64_t* header = reinterpret_cast<const int64_t*>(pack);
    const bool sound = header[0] == DenoiserHeader::expected_magic &&
                       header[1] == static_cast<int64_t>(PackForm::flat) && header[2] == static_cast<int64_t>(type) &&
                       header[4] == layout.layers && header[5] == layout.width && header[6] >= 1 &&
                       layout.width % header[6] == 0;
    return sound ? header[6] : 0;
  }

  SURVCORE_SHARED bool known(int64_t draw) const {
    return condition_index[draw] >= 0 && condition_index[draw] < patients;
  }
  SURVCORE_SHARED int64_t patient(int64_t row, bool of_draws) const {
    return of_draws ? (known(row) ? condition_index[row] : 0) : row / tokens;
  }
};

// Numbers of a block's own memory that a phase needs: the chunk's left rows, up to 4 * width each, or its attended rows
// with scores, most, total and correction of the softmax, up to width each, and each row's patient behind them.
SURVCORE_SHARED int64_t block_numbers(int64_t width) { return chunk_rows * (5 * width + 2); }

constexpr int64_t most_denoiser_width = 1 << 16;
constexpr int64_t most_column_groups = 1 << 13;

// Which part of a phase a block does: its share of the columns, for every row_groups-th chunk of rows.
struct BlockShare {
  int64_t column_group, column_groups, row_group, row_groups;

  SURVCORE_SHARED int64_t first_column(int64_t columns) const { return share_of(columns, column_group); }
  SURVCORE_SHARED int64_t last_column(int64_t columns) const { return share_of(columns, column_group + 1); }

 private:
  SURVCORE_SHARED int64_t share_of(int64_t columns, int64_t groups) const {
    static_assert(4 * most_denoiser_width * most_column_groups < int64_t(1) << 32, "divided in 32 bits");
    return static_cast<uint32_t>(columns * groups) / static_cast<uint32_t>(column_groups);
  }
};

// Where a block's columns of all products lie in memory of its own; every block keeps room for as many as any has.
struct ResidentWeights {
  int64_t start[denoiser_products];  // in weights, from the start of a layer's; of the output, of all
  int64_t layer_weights, weights;

  ResidentWeights(const FlatDenoiser& layout, int64_t column_groups) {
    int64_t cursor = 0;
    for (int i = 0; i < denoiser_products; ++i) {
      const DenoiserProduct product = static_cast<DenoiserProduct>(i);
      if (product == DenoiserProduct::output) {
        layer_weights = cursor;
        cursor *= layout.layers;
      }
      start[i] = cursor;
      cursor += (layout.columns(product) + column_groups - 1) / column_groups * layout.depth(product);
    }
    weights = cursor;
  }
  SURVCORE_SHARED int64_t place(DenoiserProduct product, int64_t layer) const {
    return start[static_cast<int>(product)] + (product == DenoiserProduct::output ? 0 : layer * layer_weights);
  }
};

struct BFloat16 {
  uint16_t bits;
};

template <class Real>
SURVCORE_SHARED Real widened(Real value) {
  return value;
}
SURVCORE_SHARED float widened(BFloat16 value) { return detail::bits_as<float>(uint32_t(value.bits) << 16); }

// Neighbouring numbers that are read and written together.
template <class Number, int n>
struct alignas(sizeof(Number) * n < 16 ? sizeof(Number) * n : 16) Numbers {
  Number at[n];
};

template <int n, class Number>
SURVCORE_SHARED Numbers<Number, n> load(const Number* address) {
  return *reinterpret_cast<const Numbers<Number, n>*>(address);
}
template <int n, class Number>
SURVCORE_SHARED void store(Number* address, const Numbers<Number, n>& numbers) {
  *reinterpret_cast<Numbers<Number, n>*>(address) = numbers;
}

// `keeps`: whether the block has its weights in memory of its own.
template <class Real, class Weight, bool keeps, class Team>
struct PhaseRunner {
  const PhaseProblem<Real>& problem;
  const BlockShare share;
  const int64_t heads;                  // as the header says, at least 1
  Real* const memory;                   // block_numbers()
  Weight* const resident;               // room for this block's weights; null if it keeps none
  const ResidentWeights* const places;  // in `resident`
  Team team;

  SURVCORE_SHARED void run(const DenoiserPhase& phase) {
    if (phase.kind == DenoiserPhase::Kind::start) return start();
    if (phase.kind == DenoiserPhase::Kind::finish) return finish();
    if (problem.layout.width % 4 == 0) {
      take_chunks<4>(phase);
    } else {
      take_chunks<1>(phase);
    }
  }

  // `n` numbers are read together, where rows and columns begin at multiples of n.
  template <int n>
  SURVCORE_SHARED void take_chunks(const DenoiserPhase& phase) {
    const int64_t rows = phase.of_draws ? problem.draws : problem.patients * problem.tokens;
    for (int64_t chunk = share.row_group; chunk * chunk_rows < rows; chunk += share.row_groups) {
      const int64_t first = chunk * chunk_rows;
      const int count = static_cast<int>(rows - first < chunk_rows ? rows - first : chunk_rows);
      if (phase.product == DenoiserProduct::projection) {
        if (problem.layout.width / heads % n == 0) {
          attend<n>(phase, first, count);
        } else {
          attend<1>(phase, first, count);
        }
      } else if (phase.product == DenoiserProduct::contract) {
        copy_hidden<n>(phase, first, count);
      } else {
        normalise<n>(phase, first, count);
      }
      team.sync();
      multiply<n>(phase, first, count);
      team.sync();  // before the memory is used again
    }
  }

  // Copies this block's weights to where it keeps them; before the first phase.
  SURVCORE_SHARED void keep_weights() {
    const FlatDenoiser& layout = problem.layout;
    for (int64_t i = 0; i < 4 * layout.layers + 1; ++i) {
      const int64_t layer = i / 4;
      const DenoiserProduct product =
          layer == layout.layers ? DenoiserProduct::output : static_cast<DenoiserProduct>(i % 4);
      const int64_t columns = layout.columns(product), depth = layout.depth(product);
      const int64_t first = share.first_column(columns), count = (share.last_column(columns) - first) * depth;
      const Weight* source = matrix_of(product, layer) + first * depth;
      Weight* place = resident + places->place(product, layer);
      team.for_each_thread([&](int thread, int threads) {
        if (layout.width % 4 == 0) {
          for (int64_t j = 4 * thread; j < count; j += 4 * threads) store(place + j, load<4>(source + j));
        } else {
          for (int64_t j = thread; j < count; j += threads) place[j] = source[j];
        }
      });
    }
    team.sync();
  }

 private:
  SURVCORE_SHARED void start() {
    for_each_element([&](int64_t i) {
      problem.state[i] = problem.noise[i];
      problem.previous_state[i] = Real(0);
      problem.previous_output[i] = Real(0);
    });
  }

  SURVCORE_SHARED void finish() {
    const bool sound = problem.heads() > 0;
    for_each_element([&](int64_t i) {
      const bool written = sound && problem.known(i / problem.layout.width);
      problem.output[i] = written ? problem.state[i] : Real(NAN);
    });
  }

  // Elements [draws, width], each by one thread of all blocks.
  template <class Body>
  SURVCORE_SHARED void for_each_element(const Body& body) {
    const int64_t block = share.row_group * share.column_groups + share.column_group;
    const int64_t blocks = share.row_groups * share.column_groups;
    team.for_each_thread([&](int thread, int threads) {
      const int64_t stride = blocks * threads;
      for (int64_t i = block * threads + thread; i < problem.draws * problem.layout.width; i += stride) body(i);
    });
  }

  SURVCORE_SHARED const Weight* matrix_of(DenoiserProduct product, int64_t layer) const {
    return reinterpret_cast<const Weight*>(problem.pack + problem.layout.place(product, layer).matrix);
  }
  // Rows before a layer's attention, which the first layer takes from where they come from.
  SURVCORE_SHARED const Real* rows_before(const DenoiserPhase& phase) const {
    if (phase.layer > 0) return rows_of(phase);
    return phase.of_draws ? problem.state : problem.condition;
  }
  SURVCORE_SHARED Real* rows_of(const DenoiserPhase& phase) const {
    return phase.of_draws ? problem.rows : problem.condition_rows;
  }
  SURVCORE_SHARED Real* hidden_of(const DenoiserPhase& phase) const {
    return phase.of_draws ? problem.hidden : problem.condition_hidden;
  }
  SURVCORE_SHARED Real* condition_keys(int64_t layer) const {
    return problem.condition_query_key_value + layer * problem.patients * problem.tokens * 3 * problem.layout.width;
  }
  SURVCORE_SHARED Real* keys_of(const DenoiserPhase& phase) const {
    return phase.of_draws ? problem.query_key_value : condition_keys(phase.layer);
  }
  // Shift, scale, gate [3, width] of a layer's attention or MLP; null for condition rows.
  SURVCORE_SHARED const Real* modulation_of(const DenoiserPhase& phase) const {
    if (!phase.of_draws || phase.product == DenoiserProduct::output) return nullptr;
    const bool mlp = phase.product == DenoiserProduct::expand || phase.product == DenoiserProduct::contract;
    const int64_t entry = (phase.step * problem.layout.layers + phase.layer) * 6 + (mlp ? 3 : 0);
    return problem.modulation + entry * problem.layout.width;
  }

  // Normalised and modulated rows, to memory [chunk_rows, width]; a warp for each row.
  template <int n>
  SURVCORE_SHARED void normalise(const DenoiserPhase& phase, int64_t first, int count) {
    const FlatDenoiser& layout = problem.layout;
    const int64_t width = layout.width, start = layout.layer_start(phase.layer);
    const bool last = phase.product == DenoiserProduct::output;
    const bool attention = phase.product == DenoiserProduct::query_key_value;
    const FlatDenoiser::Norm norm = last ? layout.last_norm : attention ? layout.attention_norm : layout.mlp_norm;
    const Real* own_scale = problem.vector((last ? 0 : start) + norm.weight);
    const Real* own_shift = problem.vector((last ? 0 : start) + norm.bias);
    const Real* shift = modulation_of(phase);
    const Real* source = (attention ? rows_before(phase) : rows_of(phase)) + first * width;
    team.for_each_warp([&](const auto& warp, int index, int warps) {
      for (int row = index; row < chunk_rows; row += warps) {
        Real* left = memory + row * width;
        const Real* x = source + row * width;
        if (row >= count) {
          warp.for_each_lane([&](int lane) {
            for (int64_t k = lane; k < width; k += warp_lanes) left[k] = Real(0);
          });
          continue;
        }
        const Real mean = warp.sum([&](int lane) {
          Real total = 0;
          for (int64_t k = n * lane; k < width; k += n * warp_lanes) {
            const auto given = load<n>(x + k);
            store(left + k, given);
            SURVCORE_UNROLL
            for (int i = 0; i < n; ++i) total += given.at[i];
          }
          return total;
        }) / static_cast<Real>(width);
        const Real squares = warp.sum([&](int lane) {
          Real total = 0;
          for (int64_t k = n * lane; k < width; k += n * warp_lanes) {
            const auto given = load<n>(left + k);
            SURVCORE_UNROLL
            for (int i = 0; i < n; ++i) total += (given.at[i] - mean) * (given.at[i] - mean);
          }
          return total;
        });
        const Real factor = Real(1) / std::sqrt(squares / static_cast<Real>(width) + Real(1e-5));
        warp.for_each_lane([&](int lane) {
          for (int64_t k = n * lane; k < width; k += n * warp_lanes) {
            auto normal = load<n>(left + k);
            const auto own = load<n>(own_scale + k), beside = load<n>(own_shift + k);
            Numbers<Real, n> scaled = {}, shifted = {};
            if (shift) {
              scaled = load<n>(shift + width + k);
              shifted = load<n>(shift + k);
            }
            SURVCORE_UNROLL
            for (int i = 0; i < n; ++i) {
              const Real value = (normal.at[i] - mean) * factor * own.at[i] + beside.at[i];
              normal.at[i] = value * (Real(1) + scaled.at[i]) + shifted.at[i];
            }
            store(left + k, normal);
          }
        });
      }
    });
  }

  // Hidden units to memory [chunk_rows, 4 * width].
  template <int n>
  SURVCORE_SHARED void copy_hidden(const DenoiserPhase& phase, int64_t first, int count) {
    const int64_t depth = 4 * problem.layout.width, there = count * depth;
    const Real* source = hidden_of(phase) + first * depth;
    team.for_each_thread([&](int thread, int threads) {
      for (int64_t k = n * thread; k < chunk_rows * depth; k += n * threads) {
        store(memory + k, k < there ? load<n>(source + k) : Numbers<Real, n>{});
      }
    });
  }

  // Attended values to memory [chunk_rows, width]: softmax(query key / sqrt(head width)) value, per head. A row attends
  // to the condition rows of its patient, and one of a draw to itself as well. Keys are taken in tiles of a head's
  // width, with the most and the sum of the shares so far: scores of any number of keys have their place.
  template <int n>
  SURVCORE_SHARED void attend(const DenoiserPhase& phase, int64_t first, int count) {
    // Within a chunk numbers are small, and divisions of int are fast.
    const int width = static_cast<int>(problem.layout.width), head_count = static_cast<int>(heads);
    const int head_width = width / head_count, tile = head_width;
    const int64_t own = phase.of_draws ? 1 : 0, keys = own + problem.tokens;
    const Real factor = Real(1) / std::sqrt(static_cast<Real>(head_width));
    Real* mixed = memory;
    Real* scores = memory + chunk_rows * width;  // [rows, heads, tile]
    Real* most = scores + chunk_rows * width;    // [rows, heads]
    Real* total = most + chunk_rows * width;
    Real* correction = total + chunk_rows * width;
    int64_t* patients = reinterpret_cast<int64_t*>(correction + chunk_rows * width);
    const Real* queries = keys_of(phase) + first * 3 * width;
    const Real* conditions = condition_keys(phase.layer);
    const auto key = [&](int row, int64_t j) {  // its value stands `width` behind
      if (j < own) return queries + (row * 3 + 1) * int64_t(width);
      return conditions + ((patients[row] * problem.tokens + j - own) * 3 + 1) * width;
    };
    team.for_each_thread([&](int thread, int threads) {
      for (int i = thread; i < chunk_rows * width; i += threads) mixed[i] = Real(0);
      for (int i = thread; i < count * head_count; i += threads) {
        most[i] = Real(-INFINITY);
        total[i] = Real(0);
      }
      for (int row = thread; row < count; row += threads) {
        patients[row] = problem.patient(first + row, phase.of_draws);
      }
    });
    team.sync();
    for (int64_t begin = 0; begin < keys; begin += tile) {
      const int together = static_cast<int>(keys - begin < tile ? keys - begin : tile);
      team.for_each_thread([&](int thread, int threads) {
        for (int i = thread; i < count * head_count * together; i += threads) {
          const int j = i % together, head = i / together % head_count, row = i / together / head_count;
          const Real* query = queries + row * 3 * int64_t(width) + head * head_width;
          const Real* other = key(row, begin + j) + head * head_width;
          Real sum = 0;
          SURVCORE_UNROLL_BY(8)
          for (int k = 0; k < head_width; k += n) {
            const auto a = load<n>(query + k), b = load<n>(other + k);
            SURVCORE_UNROLL
            for (int l = 0; l < n; ++l) sum += a.at[l] * b.at[l];
          }
          scores[(row * head_count + head) * tile + j] = factor * sum;
        }
      });
      team.sync();
      team.for_each_thread([&](int thread, int threads) {
        for (int i = thread; i < count * head_count; i += threads) {
          Real* score = scores + i * tile;
          const Real before = most[i];
          Real now = before;
          for (int j = 0; j < together; ++j) now = score[j] > now ? score[j] : now;
          const Real kept = begin == 0 ? Real(0) : exp_nonpositive(before - now);
          Real sum = kept * total[i];
          for (int j = 0; j < together; ++j) {
            score[j] = exp_nonpositive(score[j] - now);
            sum += score[j];
          }
          most[i] = now;
          total[i] = sum;
          correction[i] = kept;
        }
      });
      team.sync();
      const bool last = begin + together == keys;
      team.for_each_thread([&](int thread, int threads) {
        for (int i = n * thread; i < count * width; i += n * threads) {
          const int row = i / width, column = i % width, place = row * head_count + column / head_width;
          const Real* shares = scores + place * tile;
          auto sums = load<n>(mixed + i);
          SURVCORE_UNROLL
          for (int l = 0; l < n; ++l) sums.at[l] *= correction[place];
          SURVCORE_UNROLL_BY(4)
          for (int j = 0; j < together; ++j) {
            const auto value = load<n>(key(row, begin + j) + width + column);
            SURVCORE_UNROLL
            for (int l = 0; l < n; ++l) sums.at[l] += shares[j] * value.at[l];
          }
          if (last) {
            SURVCORE_UNROLL
            for (int l = 0; l < n; ++l) sums.at[l] /= total[place];
          }
          store(mixed + i, sums);
        }
      });
      team.sync();
    }
  }

  // This block's columns of the product of the chunk's left rows; a warp for each column.
  template <int n>
  SURVCORE_SHARED void multiply(const DenoiserPhase& phase, int64_t first, int count) {
    const FlatDenoiser& layout = problem.layout;
    const int64_t columns = layout.columns(phase.product), depth = layout.depth(phase.product);
    const int64_t first_column = share.first_column(columns), last_column = share.last_column(columns);
    const Weight* matrix;
    if constexpr (keeps) {
      matrix = resident + places->place(phase.product, phase.layer);
    } else {
      matrix = matrix_of(phase.product, phase.layer) + first_column * depth;
    }
    const Real* left = memory;
    team.for_each_warp([&](const auto& warp, int index, int warps) {
      for (int64_t column = first_column + index; column < last_column; column += warps) {
        const Weight* weights = matrix + (column - first_column) * depth;
        warp.template row_sums<Real>(
            [&](int row) { return row < count ? beside(phase, first + row, column) : Beside{}; },
            [&](int lane, Real(&sums)[chunk_rows]) {
              for (int64_t k = n * lane; k < depth; k += n * warp_lanes) {
                const auto weight = load<n>(weights + k);
                SURVCORE_UNROLL
                for (int row = 0; row < chunk_rows; ++row) {
                  const auto x = load<n>(left + row * depth + k);
                  SURVCORE_UNROLL
                  for (int i = 0; i < n; ++i) sums[row] += x.at[i] * widened(weight.at[i]);
                }
              }
            },
            [&](int row, Real sum, const Beside& given) {
              if (row < count) use(phase, first + row, column, given, sum);
            });
      }
    });
  }

  // What an element of the product is added to, read before the product so that nobody waits for it.
  struct Beside {
    Real bias, gate, row;
  };
  SURVCORE_SHARED Beside beside(const DenoiserPhase& phase, int64_t row, int64_t column) const {
    const int64_t width = problem.layout.width;
    Beside result = {problem.vector(problem.layout.place(phase.product, phase.layer).bias)[column], Real(1), Real(0)};
    const bool attention = phase.product == DenoiserProduct::projection;
    if (attention || phase.product == DenoiserProduct::contract) {
      const Real* modulation = modulation_of(phase);
      if (modulation) result.gate = modulation[2 * width + column];
      result.row = (attention ? rows_before(phase) : rows_of(phase))[row * width + column];
    }
    return result;
  }

  // What becomes of an element of the product.
  SURVCORE_SHARED void use(const DenoiserPhase& phase, int64_t row, int64_t column, const Beside& given, Real sum) {
    const int64_t width = problem.layout.width;
    const Real value = sum + given.bias;
    switch (phase.product) {
      case DenoiserProduct::query_key_value:
        keys_of(phase)[row * 3 * width + column] = value;
        break;
      case DenoiserProduct::projection:
      case DenoiserProduct::contract:
        rows_of(phase)[row * width + column] = given.row + given.gate * value;
        break;
      case DenoiserProduct::expand:
        hidden_of(phase)[row * 4 * width + column] = gelu(value);
        break;
      case DenoiserProduct::output:
        take_step(phase.step, row * width + column, value);
        break;
    }
  }

  SURVCORE_SHARED void take_step(int64_t step, int64_t i, Real output) {
    const double* table = problem.coefficients + step * 5;
    const Real state = problem.state[i];
    Real next = static_cast<Real>(table[0]) * state + static_cast<Real>(table[1]) * output +
                static_cast<Real>(table[3]) * problem.previous_output[i] +
                static_cast<Real>(table[4]) * problem.previous_state[i];
    if (problem.step_noise) {
      const int64_t entry = step * problem.draws * problem.layout.width + i;
      next += static_cast<Real>(table[2]) * problem.step_noise[entry];
    }
    problem.previous_state[i] = state;
    problem.previous_output[i] = output;
    problem.state[i] = next;
  }
};

}  // namespace survcore
