// CPU kernels of masked_bce_with_logits: one pass over the marks to count (common/masked_groups.h), one over the logits
// for loss and gradient, whose scale is then known, with one exponential per entry (core/binary_cross_entropy.h).
//
// A row goes through in blocks of columns, in loops of one kind of number each, which compilers vectorise: marks become
// masks as wide as the logits, entries become losses and gradients, losses are added to the sum of their modality. With
// targets of 0 and 1 and no weights the logarithms are gathered in products (core/hazard.h), one for up to 64 entries.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/masked_groups.h"
#include "common/parallel.h"
#include "common/tensors.h"
#include "core/binary_cross_entropy.h"
#include "core/hazard.h"

namespace survcore {
namespace {

constexpr int64_t block_columns = 512;
constexpr int64_t step = 16;  // entries are computed in multiples of it

// Sum of the losses of one modality in a chunk, in `lanes` sums beside each other.
template <int bytes, class Real>
struct alignas(64) LossSum {
  typedef Real Vector __attribute__((vector_size(bytes)));
  static constexpr int parts = 128 / bytes;
  static constexpr int64_t lanes = 128 / sizeof(Real);

  Vector linear[parts] = {};
  Vector product[parts] = {};
  int64_t terms = 0;  // per lane
  double total = 0;

  // Adds the losses that `count` values of `linear`, and if they are gathered of `small`, stand for: those of a block.
  template <bool gathered>
  SURVCORE_INLINE void add(const Real* linear_values, const Real* small_values, int64_t count) {
    if (terms + block_columns / lanes + 1 > SoftplusSum<Real>::capacity) fold();
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) add_lanes<gathered>(linear_values + i, small_values + i);
    if (i == count) return;
    Real last_linear[lanes] = {}, last_small[lanes] = {};
    std::copy(linear_values + i, linear_values + count, last_linear);
    if (gathered) std::copy(small_values + i, small_values + count, last_small);
    add_lanes<gathered>(last_linear, last_small);
  }

  SURVCORE_INLINE void fold() {
    alignas(64) Real sums[lanes], products[lanes];
    std::memcpy(sums, linear, sizeof(sums));
    std::memcpy(products, product, sizeof(products));
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t lane = 0; lane < lanes; ++lane) sum += SoftplusSum<Real>{sums[lane], products[lane]}.value();
    total += static_cast<double>(sum);
    terms = 0;
    for (int part = 0; part < parts; ++part) linear[part] = product[part] = Vector{};
  }

 private:
  template <bool gathered>
  SURVCORE_INLINE void add_lanes(const Real* linear_values, const Real* small_values) {
    for (int part = 0; part < parts; ++part) {
      Vector value;
      std::memcpy(&value, linear_values + part * (lanes / parts), sizeof(value));
      linear[part] += value;
      if constexpr (gathered) {
        std::memcpy(&value, small_values + part * (lanes / parts), sizeof(value));
        product[part] = product[part] * value + (product[part] + value);
      }
    }
    ++terms;
  }
};

template <class Real>
using BitsOf = typename detail::Format<Real>::Bits;

// A block of a row while it is computed.
template <class Real>
struct Block {
  alignas(64) BitsOf<Real> active[block_columns];    // all bits where an entry counts
  alignas(64) BitsOf<Real> positive[block_columns];  // the sign bit where its target is 1
  alignas(64) Real linear[block_columns];            // its loss, or the part that is not a logarithm
  alignas(64) Real small[block_columns];             // the logarithm is that of 1 plus this one
};

template <class Real>
SURVCORE_INLINE Real masked(Real value, BitsOf<Real> mask) {
  using detail::bits_as;
  return bits_as<Real>(BitsOf<Real>(bits_as<BitsOf<Real>>(value) & mask));
}

template <class Real>
SURVCORE_INLINE Real flipped(Real value, BitsOf<Real> sign) {
  using detail::bits_as;
  return bits_as<Real>(BitsOf<Real>(bits_as<BitsOf<Real>>(value) ^ sign));
}

// Entries [first, first + count) of a block, count a multiple of `step`; the pointers are to the first of them.
template <bool with_gradient, bool gathered, class Real>
SURVCORE_INLINE void compute_entries(Block<Real>& block, int64_t first, int64_t count, const Real* logits,
                                     const Real* probabilities, const Real* weights, const Real* scale,
                                     Real* gradient) {
  const BitsOf<Real>* active = block.active + first;
  const BitsOf<Real>* positive = block.positive + first;
  Real* linear = block.linear + first;
  Real* small = block.small + first;
  if constexpr (gathered) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const LogitParts<Real> parts = logit_parts(flipped(logits[i], positive[i]));
      linear[i] = masked(parts.positive, active[i]);
      small[i] = masked(parts.small, active[i]);
      if constexpr (with_gradient) {
        gradient[i] = masked(flipped(scale[i] * parts.sigmoid(), positive[i]), active[i]);
      }
    }
  } else if (probabilities) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const CrossEntropy<Real> entropy = cross_entropy(logits[i], probabilities[i], weights[i]);
      linear[i] = masked(entropy.loss, active[i]);
      if constexpr (with_gradient) gradient[i] = masked(scale[i] * entropy.gradient, active[i]);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const CrossEntropy<Real> entropy = cross_entropy(logits[i], positive[i] != 0, weights[i]);
      linear[i] = masked(entropy.loss, active[i]);
      if constexpr (with_gradient) gradient[i] = masked(scale[i] * entropy.gradient, active[i]);
    }
  }
}

// One call's data.
template <class Real>
struct Problem {
  const MaskedGroups& groups;
  const Real* logits;         // [views, rows, columns]
  const Marks* marks;         // targets of 0 and 1
  const Real* probabilities;  // targets between 0 and 1, [rows, columns] or [views, rows, columns], or null
  int64_t probability_view;   // from one view's to the next one's
  const Real* weights;        // of positive targets, [columns], or null: all 1
  Real* gradient;             // as logits, or null
  const Real* scale;          // of the gradient, [views, columns]
};

// Rows [first, last) of a view: the sum of the losses of each modality to sums[m].
template <int bytes, bool with_gradient, bool gathered, class Real>
SURVCORE_INLINE void loss_of_rows(const Problem<Real>& problem, int64_t view, int64_t first, int64_t last,
                                  double* sums) {
  using Bits = BitsOf<Real>;
  constexpr Bits sign = Bits(1) << (8 * sizeof(Real) - 1);
  const MaskedGroups& groups = problem.groups;
  const int64_t columns = groups.columns, modalities = groups.modalities();
  MarkBuffers buffers(columns);
  Block<Real> block;
  std::vector<LossSum<bytes, Real>> losses(modalities);
  for (int64_t row = first; row < last; ++row) {
    const Real* logits = problem.logits + (view * groups.rows + row) * columns;
    Real* gradient = with_gradient ? problem.gradient + (view * groups.rows + row) * columns : nullptr;
    const Real* probabilities =
        problem.probabilities ? problem.probabilities + view * problem.probability_view + row * columns : nullptr;
    const uint8_t* counted = groups.counted(view, row, buffers);
    const uint8_t* target = probabilities ? counted : problem.marks->row(view, row, buffers.target());
    const Real* scale = problem.scale + view * columns;
    int64_t modality = 0;
    for (int64_t begin = 0; begin < columns; begin += block_columns) {
      const int64_t count = std::min(block_columns, columns - begin), whole = count / step * step;
      // The next row's: three short streams are too many for the hardware's own guesses.
      for (int64_t i = begin + columns; i < begin + columns + count; i += 64 / sizeof(Real)) {
        __builtin_prefetch(logits + i);
        if constexpr (with_gradient) __builtin_prefetch(gradient + i, 1);
      }
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        block.active[i] = counted[begin + i] != 0 ? ~Bits(0) : Bits(0);
        block.positive[i] = target[begin + i] != 0 ? sign : Bits(0);
      }
      const auto from_begin = [&](auto* values) SURVCORE_INLINE_LAMBDA { return values ? values + begin : values; };
      compute_entries<with_gradient, gathered>(block, 0, whole, logits + begin, from_begin(probabilities),
                                               from_begin(problem.weights), scale + begin, from_begin(gradient));
      if (whole < count) {
        // The last entries of a row, filled up with some that do not count.
        const int64_t rest = count - whole;
        Real last[5][step] = {};
        const auto filled = [&](const Real* values, Real* copy) SURVCORE_INLINE_LAMBDA -> const Real* {
          if (values == nullptr) return nullptr;
          for (int64_t i = 0; i < rest; ++i) copy[i] = values[begin + whole + i];
          return copy;
        };
        for (int64_t i = count; i < whole + step; ++i) block.active[i] = block.positive[i] = 0;
        compute_entries<with_gradient, gathered>(block, whole, step, filled(logits, last[0]),
                                                 filled(probabilities, last[1]), filled(problem.weights, last[2]),
                                                 filled(scale, last[3]), last[4]);
        if constexpr (with_gradient) {
          for (int64_t i = 0; i < rest; ++i) gradient[begin + whole + i] = last[4][i];
        }
      }
      while (modality < modalities) {
        const int64_t from = std::max(begin, groups.boundaries[modality]);
        const int64_t to = std::min(begin + count, groups.boundaries[modality + 1]);
        if (from < to) {
          losses[modality].template add<gathered>(block.linear + from - begin, block.small + from - begin, to - from);
        }
        if (groups.boundaries[modality + 1] > begin + count) break;  // goes on in the next block
        ++modality;
      }
    }
  }
  for (int64_t m = 0; m < modalities; ++m) {
    losses[m].fold();
    sums[m] = losses[m].total;
  }
}

// One definition for each instruction set.
#define SURVCORE_MASKED_BCE_KERNEL(bytes)                                                                    \
  template <bool with_gradient, bool gathered, class Real>                                                   \
  SURVCORE_TARGET_##bytes void loss_of_chunk(VectorWidth<bytes>, const Problem<Real>& problem, int64_t view, \
                                             int64_t first, int64_t last, double* sums) {                    \
    loss_of_rows<bytes, with_gradient, gathered>(problem, view, first, last, sums);                          \
  }
SURVCORE_MASKED_BCE_KERNEL(64)
SURVCORE_MASKED_BCE_KERNEL(32)
SURVCORE_MASKED_BCE_KERNEL(16)
#undef SURVCORE_MASKED_BCE_KERNEL

// Sums per chunk and modality.
template <bool with_gradient, bool gathered, class Real>
std::vector<double> loss_sums(const Problem<Real>& problem) {
  const MaskedGroups& groups = problem.groups;
  const int64_t modalities = groups.modalities();
  std::vector<double> sums(groups.views * groups.chunks_of_view(1) * modalities);
  groups.for_each_chunk_of_rows(1, [&](int64_t chunk, int64_t view, int64_t first, int64_t last) {
    with_vector_width([&](auto width) {
      loss_of_chunk<with_gradient, gathered>(width, problem, view, first, last, &sums[chunk * modalities]);
    });
  });
  return sums;
}

template <class Real>
std::vector<double> loss_sums(const Problem<Real>& problem) {
  if (problem.weights) return problem.gradient ? loss_sums<true, false>(problem) : loss_sums<false, false>(problem);
  return problem.gradient ? loss_sums<true, true>(problem) : loss_sums<false, true>(problem);
}

template <class Real>
std::tuple<Tensor, Tensor> forward(const Tensor& logits, const Tensor& target, const Tensor& pos_weight,
                                   const MaskedGroups& groups, bool mean, bool with_gradient) {
  const ScalarType type = logits.scalar_type();
  const int64_t views = groups.views, rows = groups.rows, columns = groups.columns, modalities = groups.modalities();
  const bool floating = target.scalar_type() == type;
  const Marks marks("target", floating ? empty_on(logits, {0}, ScalarType::Bool) : target, views, rows, columns);

  std::vector<Real> weights;
  if (floating || pos_weight.numel() > 0) {
    weights.assign(columns, Real(1));
    const Real* given = static_cast<const Real*>(pos_weight.const_data_ptr());
    for (int64_t i = 0; pos_weight.numel() > 0 && i < columns; ++i) weights[i] = given[pos_weight.numel() == 1 ? 0 : i];
  }

  // A sum is divided by its count, and a mean over views by theirs.
  std::vector<double> share(views * modalities);
  std::vector<Real> scale(views * columns);
  const std::vector<int64_t> counts = groups.counts();
  for (int64_t view = 0; view < views; ++view) {
    for (int64_t m = 0; m < modalities; ++m) {
      const int64_t group = view * modalities + m;
      share[group] = 1 / ((static_cast<double>(counts[group]) + 1e-8) * (mean ? static_cast<double>(views) : 1));
      Real* of_view = scale.data() + view * columns;
      std::fill(of_view + groups.boundaries[m], of_view + groups.boundaries[m + 1], static_cast<Real>(share[group]));
    }
  }

  Tensor gradient = !with_gradient      ? empty_on(logits, {0}, type)
                    : logits.dim() == 2 ? empty_on(logits, {rows, columns}, type)
                                        : empty_on(logits, {views, rows, columns}, type);
  const Problem<Real> problem{groups,
                              static_cast<const Real*>(logits.const_data_ptr()),
                              &marks,
                              floating ? static_cast<const Real*>(target.const_data_ptr()) : nullptr,
                              target.dim() == 3 ? rows * columns : 0,
                              weights.empty() ? nullptr : weights.data(),
                              with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr,
                              scale.data()};
  const std::vector<double> sums = loss_sums(problem);

  std::vector<double> losses(views * modalities);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const int64_t view = static_cast<int64_t>(i) / (groups.chunks_of_view(1) * modalities);
    losses[view * modalities + static_cast<int64_t>(i) % modalities] += sums[i];
  }
  double total = 0;
  for (std::size_t g = 0; g < losses.size(); ++g) {
    losses[g] *= share[g];
    total += losses[g];
  }
  Tensor loss = mean ? empty_on(logits, {}, type) : empty_on(logits, {views, modalities}, type);
  Real* values = static_cast<Real*>(loss.mutable_data_ptr());
  if (mean) {
    *values = static_cast<Real>(total);
  } else {
    std::copy(losses.begin(), losses.end(), values);
  }
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> masked_bce_with_logits(const Tensor& logits_, const Tensor& target_, const Tensor& mask,
                                                  const Tensor& observed, const Tensor& pos_weight_,
                                                  const Tensor& boundaries, std::string positions,
                                                  std::string reduction, bool with_gradient) {
  STD_TORCH_CHECK(reduction == "none" || reduction == "mean", "reduction must be 'none' or 'mean', got '", reduction,
                  "'");
  check_device("target", target_, "logits", logits_);
  check_device("mask", mask, "logits", logits_);
  check_device("observed", observed, "logits", logits_);
  check_device("pos_weight", pos_weight_, "logits", logits_);
  check_device("boundaries", boundaries, "logits", logits_);
  const ScalarType type = compute_type(logits_);
  const Tensor logits = contiguous_as(logits_, type);
  const int64_t dims = logits.dim();
  STD_TORCH_CHECK(dims == 2 || dims == 3, "logits must be [rows, columns] or [views, rows, columns], got ", dims,
                  " dimensions");
  const int64_t views = dims == 3 ? logits.size(0) : 1;
  const MaskedGroups groups(views, logits.size(dims - 2), logits.size(dims - 1), boundaries, positions, mask, observed);
  const Tensor pos_weight = contiguous_as(pos_weight_, type);
  STD_TORCH_CHECK(pos_weight.numel() <= 1 || pos_weight.numel() == groups.columns,
                  "pos_weight must have one entry per column, or one");
  const bool floating = is_floating(target_);
  const Tensor target = floating ? contiguous_as(target_, type) : target_;
  if (floating) {
    const int64_t target_dims = target.dim();
    STD_TORCH_CHECK((target_dims == 2 || (target_dims == 3 && target.size(0) == views)) &&
                        target.size(target_dims - 2) == groups.rows && target.size(target_dims - 1) == groups.columns,
                    "target must have the shape of the logits, or of one view");
  }
  const bool mean = reduction == "mean";
  return type == ScalarType::Double ? forward<double>(logits, target, pos_weight, groups, mean, with_gradient)
                                    : forward<float>(logits, target, pos_weight, groups, mean, with_gradient);
}

// What forward has made, times the gradient of each loss.
template <class Real>
Tensor backward(const Tensor& grad_loss, const Tensor& gradient, const MaskedGroups& groups) {
  const int64_t views = groups.views, rows = groups.rows, columns = groups.columns, modalities = groups.modalities();
  const ScalarType type = gradient.scalar_type();
  const Real* factors = static_cast<const Real*>(grad_loss.const_data_ptr());
  const bool one = grad_loss.dim() == 0;
  Tensor result = gradient.dim() == 2 ? empty_on(gradient, {rows, columns}, type)
                                      : empty_on(gradient, {views, rows, columns}, type);
  const Real* from = static_cast<const Real*>(gradient.const_data_ptr());
  Real* to = static_cast<Real*>(result.mutable_data_ptr());
  groups.for_each_chunk_of_rows(1, [&](int64_t, int64_t view, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t m = 0; m < modalities; ++m) {
        const Real factor = factors[one ? 0 : view * modalities + m];
        const int64_t offset = (view * rows + row) * columns;
        const int64_t end = offset + groups.boundaries[m + 1];
        for (int64_t i = offset + groups.boundaries[m]; i < end; ++i) to[i] = factor * from[i];
      }
    }
  });
  return result;
}

Tensor masked_bce_with_logits_backward(const Tensor& grad_loss_, const Tensor& gradient_, const Tensor& boundaries) {
  check_device("grad_loss", grad_loss_, "gradient", gradient_);
  check_device("boundaries", boundaries, "gradient", gradient_);
  const ScalarType type = compute_type(gradient_);
  const Tensor gradient = contiguous_as(gradient_, type), grad_loss = contiguous_as(grad_loss_, type);
  const int64_t dims = gradient.dim();
  STD_TORCH_CHECK(dims == 2 || dims == 3, "gradient must have the shape of the logits, got ", dims, " dimensions");
  const Tensor none = empty_on(gradient, {0}, ScalarType::Bool);
  const MaskedGroups groups(dims == 3 ? gradient.size(0) : 1, gradient.size(dims - 2), gradient.size(dims - 1),
                            boundaries, "all", none, none);
  STD_TORCH_CHECK(grad_loss.dim() == 0 || grad_loss.numel() == groups.views * groups.modalities(),
                  "grad_loss must have the shape of the loss");
  return type == ScalarType::Double ? backward<double>(grad_loss, gradient, groups)
                                    : backward<float>(grad_loss, gradient, groups);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("masked_bce_with_logits", TORCH_BOX(&masked_bce_with_logits));
  m.impl("masked_bce_with_logits_backward", TORCH_BOX(&masked_bce_with_logits_backward));
}

}  // namespace survcore
