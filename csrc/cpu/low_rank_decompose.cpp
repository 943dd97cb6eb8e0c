// CPU kernels of low_rank_decompose.
//
// A tile takes a few rows of the batch, gathers the parts they own as the rows of one matrix X, and projects them at
// once as (X B) B^T: 4 D r operations per part, against which the losses, taken from the projected parts while they are
// in cache, are small. Backward forms the gradient G of the projected parts the same way, and from it the gradients of
// the parts, (G B) B^T, and of the basis, X^T (G B) + G^T (X B). A specific part is u - P u: its gradient is G - P G,
// and it enters the basis's gradient with a minus. What a row lacks is neither gathered nor read.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/cosine.h"
#include "common/dispatch.h"
#include "common/low_rank_tile.h"
#include "common/matrix_tile.h"
#include "common/parallel.h"
#include "common/tensors.h"

namespace survcore {
namespace {

constexpr int64_t most_chunks = 16;  // each holds a partial gradient of the basis

// g_m - u_hat_m - mean of c_hat_{n<-m} over the row's other modalities n. `hat(m, n)` is a projected part of the row.
template <class Real, class Hat>
SURVCORE_INLINE void residual_of(const LowRankProblem<Real>& problem, int64_t row, int64_t m, const Hat& hat,
                                 Real* residual) {
  const Real* whole = problem.whole + (m * problem.rows + row) * problem.width;
  const Real* specific = hat(m, m);
#pragma omp simd
  for (int64_t i = 0; i < problem.width; ++i) residual[i] = whole[i] - specific[i];
  const Real share = Real(1) / static_cast<Real>(problem.others(row, m));
  for (int64_t n = 0; n < problem.modalities; ++n) {
    if (n != m && problem.owns(row, n)) add(residual, -share, hat(n, m), problem.width);
  }
}

// Adds a row's share of the three losses.
template <class Real, class Hat>
SURVCORE_INLINE void add_losses(const LowRankProblem<Real>& problem, int64_t row, const Hat& hat, Real* residual,
                                double* losses) {
  const int64_t width = problem.width;
  for (int64_t m = 0; m < problem.modalities; ++m) {
    if (!problem.owns(row, m) || problem.others(row, m) == 0) continue;
    residual_of(problem, row, m, hat, residual);
    losses[0] += problem.accompanied_weight[m] * dot(residual, residual, width);
    for (int64_t n = m + 1; n < problem.modalities; ++n) {
      if (!problem.owns(row, n)) continue;
      const double weight = problem.pair_weight[m * problem.modalities + n];
      losses[1] += weight * squared_distance(hat(m, n), hat(n, m), width);
      losses[2] +=
          weight * (absolute_cosine(hat(m, m), hat(n, n), width) + absolute_cosine(hat(m, m), hat(m, n), width) +
                    absolute_cosine(hat(n, n), hat(n, m), width));
    }
  }
}

// Projected parts of rows [begin, end) and their share of the three losses.
template <int bytes, class Real>
SURVCORE_INLINE void forward_rows(const LowRankProblem<Real>& problem, LowRankTile<Real>& tile, int64_t begin,
                                  int64_t end, const LowRankParts<Real>& output, double* losses) {
  std::vector<Real> residual(problem.width);
  const int64_t step = LowRankTile<Real>::rows_of(problem);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    tile.gather(problem, first, last);
    tile.template project<bytes>(problem, tile.parts, tile.coordinates);
    for (int64_t row = first; row < last; ++row) {
      tile.scatter(problem, row - first, output, row);
      const auto hat = [&](int64_t m, int64_t n) SURVCORE_INLINE_LAMBDA -> const Real* {
        return tile.at(tile.projected, problem, row - first, m, n);
      };
      add_losses(problem, row, hat, residual.data(), losses);
    }
  }
}

// What backward reads and writes beside the problem.
template <class Real>
struct LowRankGradients {
  LowRankParts<const Real> hats;      // what forward returned
  LowRankParts<const Real> upstream;  // gradients of what forward returned; null where there is none
  const Real* losses;                 // [3], gradients of the losses
  Real* whole;                        // [M, B, D]
  LowRankParts<Real> parts;
};

// Starts a row's gradients of its projected parts, `gradient(m, n)`, from upstream.
template <class Real, class Gradient>
SURVCORE_INLINE void start_gradients(const LowRankProblem<Real>& problem, const LowRankGradients<Real>& gradients,
                                     int64_t row, const Gradient& gradient) {
  for (int64_t m = 0; m < problem.modalities; ++m) {
    for (int64_t n = 0; n < problem.modalities; ++n) {
      if (!problem.owns(row, m, n)) continue;
      if ((m == n ? gradients.upstream.specific : gradients.upstream.cross) != nullptr) {
        std::copy_n(gradients.upstream.at(m, n, row), problem.width, gradient(m, n));
      } else {
        std::fill_n(gradient(m, n), problem.width, Real(0));
      }
    }
  }
}

// Adds the losses' share to a row's gradients of its projected parts, and writes its gradient of `whole`.
template <class Real, class Gradient>
SURVCORE_INLINE void add_loss_gradients(const LowRankProblem<Real>& problem, const LowRankGradients<Real>& gradients,
                                        int64_t row, const Gradient& gradient) {
  const int64_t modalities = problem.modalities;
  const int64_t width = problem.width;
  const auto hat = [&](int64_t m, int64_t n) SURVCORE_INLINE_LAMBDA { return gradients.hats.at(m, n, row); };
  for (int64_t m = 0; m < modalities; ++m) {
    Real* residual = gradients.whole + (m * problem.rows + row) * width;
    const int64_t others = problem.owns(row, m) ? problem.others(row, m) : 0;
    if (others == 0) {
      std::fill_n(residual, width, Real(0));
      continue;
    }
    residual_of(problem, row, m, hat, residual);
    const Real factor = 2 * gradients.losses[0] * static_cast<Real>(problem.accompanied_weight[m]);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) residual[i] *= factor;
    add(gradient(m, m), Real(-1), residual, width);
    for (int64_t n = 0; n < modalities; ++n) {
      if (n == m || !problem.owns(row, n)) continue;
      add(gradient(n, m), Real(-1) / static_cast<Real>(others), residual, width);
      const Real weight = static_cast<Real>(problem.pair_weight[m * modalities + n]);
      const Real by_shared = 2 * gradients.losses[1] * weight;
      add(gradient(m, n), by_shared, hat(m, n), width);
      add(gradient(m, n), -by_shared, hat(n, m), width);
      const Real by_cosine = gradients.losses[2] * weight;
      absolute_cosine_gradient(hat(m, m), hat(m, n), width, by_cosine, gradient(m, m), gradient(m, n));
      if (m < n) absolute_cosine_gradient(hat(m, m), hat(n, n), width, by_cosine, gradient(m, m), gradient(n, n));
    }
  }
}

// Gradients of rows [begin, end); adds their share of the basis's gradient to grad_basis [tile.width, tile.rank].
template <int bytes, class Real>
SURVCORE_INLINE void backward_rows(const LowRankProblem<Real>& problem, LowRankTile<Real>& tile, int64_t begin,
                                   int64_t end, const LowRankGradients<Real>& gradients, Real* grad_basis) {
  const int64_t step = LowRankTile<Real>::rows_of(problem);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    tile.gather(problem, first, last);
    for (int64_t row = first; row < last; ++row) {
      const auto gradient = [&](int64_t m, int64_t n)
                                SURVCORE_INLINE_LAMBDA { return tile.at(tile.gradients, problem, row - first, m, n); };
      start_gradients(problem, gradients, row, gradient);
      add_loss_gradients(problem, gradients, row, gradient);
    }
    tile.template project<bytes>(problem, tile.gradients, tile.gradient_coordinates);
    for (int64_t row = first; row < last; ++row) tile.scatter(problem, row - first, gradients.parts, row);

    tile.template multiply_by_basis<bytes>(problem, tile.parts, tile.coordinates);
    for (int64_t slot = 0; slot < tile.count; ++slot) {
      if (!tile.specific[slot]) continue;
      for (int64_t i = slot * tile.rank; i < (slot + 1) * tile.rank; ++i) {
        tile.coordinates[i] = -tile.coordinates[i];
        tile.gradient_coordinates[i] = -tile.gradient_coordinates[i];
      }
    }
    const auto add_to_basis = [&](const std::vector<Real>& left, const std::vector<Real>& right)
                                  SURVCORE_INLINE_LAMBDA {
                                    const Columns<Real> columns{right.data(), panel_columns<Real>, tile.rank};
                                    multiply<bytes, true>(left.data(), 1, tile.width, columns, tile.width, tile.rank,
                                                          tile.count, grad_basis, tile.rank);
                                  };
    add_to_basis(tile.parts, tile.gradient_coordinates);
    add_to_basis(tile.gradients, tile.coordinates);
  }
}

// One definition for each width of vectors.
#define SURVCORE_LOW_RANK_KERNELS(Real, bytes)                                                             \
  SURVCORE_TARGET_##bytes void forward_chunk(VectorWidth<bytes>, const LowRankProblem<Real>& problem,      \
                                             LowRankTile<Real>& tile, int64_t begin, int64_t end,          \
                                             const LowRankParts<Real>& output, double* losses) {           \
    forward_rows<bytes>(problem, tile, begin, end, output, losses);                                        \
  }                                                                                                        \
  SURVCORE_TARGET_##bytes void backward_chunk(VectorWidth<bytes>, const LowRankProblem<Real>& problem,     \
                                              LowRankTile<Real>& tile, int64_t begin, int64_t end,         \
                                              const LowRankGradients<Real>& gradients, Real* grad_basis) { \
    backward_rows<bytes>(problem, tile, begin, end, gradients, grad_basis);                                \
  }
SURVCORE_LOW_RANK_KERNELS(float, 64)
SURVCORE_LOW_RANK_KERNELS(float, 32)
SURVCORE_LOW_RANK_KERNELS(float, 16)
SURVCORE_LOW_RANK_KERNELS(double, 64)
SURVCORE_LOW_RANK_KERNELS(double, 32)
SURVCORE_LOW_RANK_KERNELS(double, 16)
#undef SURVCORE_LOW_RANK_KERNELS

template <class Real>
const Real* data_of(const Tensor& tensor) {
  return static_cast<const Real*>(tensor.const_data_ptr());
}

template <class Real>
Real* writable(Tensor& tensor) {
  return static_cast<Real*>(tensor.mutable_data_ptr());
}

// The inputs in the type of the computation, contiguous; they own what a problem points to.
struct Inputs {
  ScalarType type;
  Tensor basis, whole, specific, cross, availability;

  Inputs(const Tensor& basis_, const Tensor& whole_, const Tensor& specific_, const Tensor& cross_,
         const Tensor& availability_)
      : type(compute_type(whole_)),
        basis(contiguous_as(basis_, type)),
        whole(contiguous_as(whole_, type)),
        specific(contiguous_as(specific_, type)),
        cross(contiguous_as(cross_, type)),
        availability(contiguous_as(availability_, ScalarType::Bool)) {
    check_device("basis", basis, "whole", whole);
    check_device("specific", specific, "whole", whole);
    check_device("cross", cross, "whole", whole);
    check_device("availability", availability, "whole", whole);
  }

  template <class Real>
  LowRankProblem<Real> problem() const {
    const int64_t modalities = whole.size(0), rows = whole.size(1), width = basis.size(0), rank = basis.size(1);
    LowRankProblem<Real> result{modalities,
                                rows,
                                width,
                                rank,
                                data_of<bool>(availability),
                                data_of<Real>(whole),
                                {data_of<Real>(specific), data_of<Real>(cross), modalities, rows, width},
                                {data_of<Real>(basis), rank, 1, width, rank},
                                {data_of<Real>(basis), 1, rank, rank, width}};
    result.weigh_rows();
    return result;
  }
};

template <class Real>
int64_t rows_per_chunk(const LowRankProblem<Real>& problem) {
  return std::max<int64_t>(32, (problem.rows + most_chunks - 1) / most_chunks);
}

// Cost of a row for the choice between one thread and several; a multiplication counts as a fraction of an element's
// load.
template <class Real>
int64_t row_work(const LowRankProblem<Real>& problem) {
  return problem.modalities * problem.modalities * problem.width * (1 + problem.rank / 16);
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> forward(const Inputs& inputs) {
  const LowRankProblem<Real> problem = inputs.problem<Real>();
  const int64_t modalities = problem.modalities, rows = problem.rows, width = problem.width;
  Tensor specific_hat = empty_on(inputs.whole, {modalities, rows, width}, inputs.type);
  Tensor cross_hat = empty_on(inputs.whole, {modalities, modalities, rows, width}, inputs.type);
  Tensor losses = empty_on(inputs.whole, {3}, inputs.type);
  const LowRankParts<Real> output{writable<Real>(specific_hat), writable<Real>(cross_hat), modalities, rows, width};
  std::vector<double> sums(3 * most_chunks);
  for_each_chunk(rows, rows_per_chunk(problem), row_work(problem), [&](int64_t chunk, int64_t begin, int64_t end) {
    LowRankTile<Real> tile(problem, false);
    with_vector_width(
        [&](auto width_tag) { forward_chunk(width_tag, problem, tile, begin, end, output, &sums[3 * chunk]); });
  });
  Real* total = writable<Real>(losses);
  for (int64_t loss = 0; loss < 3; ++loss) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < most_chunks; ++chunk) sum += sums[3 * chunk + loss];
    total[loss] = static_cast<Real>(sum);
  }
  return {specific_hat, cross_hat, losses};
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_specific, const Tensor& grad_cross,
                                                    const Tensor& grad_losses, const Inputs& inputs,
                                                    const Tensor& saved_specific, const Tensor& saved_cross) {
  // Parts saved in half precision are rounded: made again.
  const bool exact = saved_specific.scalar_type() == inputs.type && saved_cross.scalar_type() == inputs.type;
  const auto hats =
      exact ? std::tuple(contiguous_as(saved_specific, inputs.type), contiguous_as(saved_cross, inputs.type), Tensor())
            : forward<Real>(inputs);
  const LowRankProblem<Real> problem = inputs.problem<Real>();
  const int64_t modalities = problem.modalities, rows = problem.rows, width = problem.width, rank = problem.rank;
  Tensor grad_basis = empty_on(inputs.whole, {width, rank}, inputs.type);
  Tensor grad_whole = empty_on(inputs.whole, {modalities, rows, width}, inputs.type);
  Tensor to_specific = empty_on(inputs.whole, {modalities, rows, width}, inputs.type);
  Tensor to_cross = empty_on(inputs.whole, {modalities, modalities, rows, width}, inputs.type);
  const auto present = [](const Tensor& tensor) { return tensor.numel() ? data_of<Real>(tensor) : nullptr; };
  const Real no_losses[3] = {};
  const LowRankGradients<Real> gradients{
      {data_of<Real>(std::get<0>(hats)), data_of<Real>(std::get<1>(hats)), modalities, rows, width},
      {present(grad_specific), present(grad_cross), modalities, rows, width},
      grad_losses.numel() ? data_of<Real>(grad_losses) : no_losses,
      writable<Real>(grad_whole),
      {writable<Real>(to_specific), writable<Real>(to_cross), modalities, rows, width}};

  const int64_t padded_rank = round_up(rank, panel_columns<Real>);
  const int64_t partial = LowRankTile<Real>::padded_width(problem) * padded_rank;
  const int64_t chunk_rows = rows_per_chunk(problem);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  std::vector<Real> basis_sums(chunks * partial);
  for_each_chunk(rows, chunk_rows, 3 * row_work(problem), [&](int64_t chunk, int64_t begin, int64_t end) {
    LowRankTile<Real> tile(problem, true);
    with_vector_width([&](auto width_tag) {
      backward_chunk(width_tag, problem, tile, begin, end, gradients, &basis_sums[chunk * partial]);
    });
  });
  Real* basis_out = writable<Real>(grad_basis);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j < rank; ++j) {
      Real sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += basis_sums[chunk * partial + i * padded_rank + j];
      basis_out[i * rank + j] = sum;
    }
  }
  return {grad_basis, grad_whole, to_specific, to_cross};
}

std::tuple<Tensor, Tensor, Tensor> low_rank_decompose(const Tensor& basis, const Tensor& whole, const Tensor& specific,
                                                      const Tensor& cross, const Tensor& availability) {
  const Inputs inputs(basis, whole, specific, cross, availability);
  const auto [specific_hat, cross_hat, losses] =
      inputs.type == ScalarType::Double ? forward<double>(inputs) : forward<float>(inputs);
  return {contiguous_as(specific_hat, specific.scalar_type()), contiguous_as(cross_hat, cross.scalar_type()), losses};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> low_rank_decompose_backward(
    const Tensor& grad_specific, const Tensor& grad_cross, const Tensor& grad_losses, const Tensor& basis,
    const Tensor& whole, const Tensor& specific, const Tensor& cross, const Tensor& availability,
    const Tensor& specific_hat, const Tensor& cross_hat) {
  const Inputs inputs(basis, whole, specific, cross, availability);
  const auto typed = [&](const Tensor& tensor) { return contiguous_as(tensor, inputs.type); };
  const Tensor upstream[3] = {typed(grad_specific), typed(grad_cross), typed(grad_losses)};
  const auto [to_basis, to_whole, to_specific, to_cross] =
      inputs.type == ScalarType::Double
          ? backward<double>(upstream[0], upstream[1], upstream[2], inputs, specific_hat, cross_hat)
          : backward<float>(upstream[0], upstream[1], upstream[2], inputs, specific_hat, cross_hat);
  return {contiguous_as(to_basis, basis.scalar_type()), contiguous_as(to_whole, whole.scalar_type()),
          contiguous_as(to_specific, specific.scalar_type()), contiguous_as(to_cross, cross.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("low_rank_decompose", TORCH_BOX(&low_rank_decompose));
  m.impl("low_rank_decompose_backward", TORCH_BOX(&low_rank_decompose_backward));
}

}  // namespace survcore
