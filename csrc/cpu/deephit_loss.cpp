// CPU kernel of deephit_loss: two passes over the rows (common/deephit_tile.h), in double precision where the ranking
// term is too steep for float, or one row after the other where it is too steep for that (common/deephit_steep.h). The
// mathematics is core/deephit.h.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "common/deephit_steep.h"
#include "common/deephit_tile.h"
#include "common/dispatch.h"
#include "common/event_codes.h"
#include "common/parallel.h"
#include "common/scaled_gradient.h"
#include "common/scratch.h"
#include "common/tensors.h"

namespace survcore {
namespace {

// Contiguous tensors of one type, checked.
struct DeepHitTensors {
  ScalarType type;
  Tensor logits;
  Tensor time_bin;
  Tensor event;
  Tensor weights;
  int64_t rows;
  int32_t causes;
  int32_t bins;

  DeepHitTensors(const Tensor& given_logits, const Tensor& given_time_bin, const Tensor& given_event,
                 const Tensor& given_weights, ScalarType type_)
      : type(type_),
        logits(contiguous_as(given_logits, type)),
        time_bin(contiguous_as(given_time_bin, ScalarType::Long)),
        event(contiguous_as(given_event, event_code_type(given_event, type))),
        weights(contiguous_as(given_weights, type)) {
    check_device("time_bin", time_bin, "logits", logits);
    check_device("event", event, "logits", logits);
    check_device("weights", weights, "logits", logits);
    const int64_t dimensions = logits.dim();
    STD_TORCH_CHECK(dimensions == 2 || dimensions == 3, "logits must be [rows, bins] or [rows, causes, bins], got ",
                    dimensions, " dimensions");
    rows = logits.size(0);
    const int64_t cause_count = dimensions == 3 ? logits.size(1) : 1;
    const int64_t bin_count = logits.size(dimensions - 1);
    STD_TORCH_CHECK(cause_count >= 1 && bin_count >= 1, "logits must have at least one cause and one bin");
    // Far from where an index of a tile's entries overflows.
    constexpr int64_t most = int64_t(1) << 24;
    STD_TORCH_CHECK(cause_count <= most && bin_count <= most / cause_count, "logits have too many columns");
    causes = static_cast<int32_t>(cause_count);
    bins = static_cast<int32_t>(bin_count);
    STD_TORCH_CHECK(time_bin.numel() == rows && event.numel() == rows,
                    "time_bin and event must have one entry per row of logits");
    STD_TORCH_CHECK(weights.numel() == rows || weights.numel() == 0,
                    "weights must have one entry per row of logits, or none");
  }

  template <class Real>
  DeepHitProblem<Real> problem(double alpha, double sigma) const {
    return {static_cast<const Real*>(logits.const_data_ptr()),
            static_cast<const int64_t*>(time_bin.const_data_ptr()),
            weights.numel() ? static_cast<const Real*>(weights.const_data_ptr()) : nullptr,
            rows,
            causes,
            bins,
            alpha,
            sigma};
  }

  EventCodes event_codes() const { return {event.const_data_ptr(), event.scalar_type()}; }

  // Room for [rows, columns] in the shape of the logits, or for nothing.
  Tensor empty_gradient(bool wanted) const {
    const int64_t count = wanted ? rows : 0;
    return logits.dim() == 3 ? empty_on(logits, {count, causes, bins}, type) : empty_on(logits, {count, bins}, type);
  }
};

struct CauseOf {
  int32_t causes;

  template <class Code>
  SURVCORE_INLINE int32_t operator()(Code code) const {
    return cause_of(code, causes);
  }
};

// One definition of each pass for each type and instruction set.
#define SURVCORE_DEEPHIT_KERNELS(Real, bytes)                                                                        \
  SURVCORE_TARGET_##bytes void sums_of_chunk(VectorWidth<bytes>, const DeepHitProblem<Real>& problem,                \
                                             const EventCodes& event, int64_t begin, int64_t end, bool keep,         \
                                             Real* tiles, Real* lane_sums, DeepHitSums sums) {                       \
    alignas(64) int32_t causes[deephit_chunk_rows];                                                                  \
    event.read(begin, static_cast<int>(end - begin), causes, CauseOf{problem.causes});                               \
    deephit_sums(problem, begin, static_cast<int>(end - begin), causes, keep, tiles, lane_sums, sums);               \
  }                                                                                                                  \
  SURVCORE_TARGET_##bytes void gradient_of_chunk(VectorWidth<bytes>, const DeepHitProblem<Real>& problem,            \
                                                 const EventCodes& event, int64_t begin, int64_t end, bool kept,     \
                                                 Real* tiles, const DeepHitFactors<Real>& factors, Real* gradient) { \
    alignas(64) int32_t causes[deephit_chunk_rows];                                                                  \
    event.read(begin, static_cast<int>(end - begin), causes, CauseOf{problem.causes});                               \
    deephit_gradient(problem, begin, static_cast<int>(end - begin), causes, kept, tiles, factors, gradient);         \
  }
SURVCORE_DEEPHIT_KERNELS(float, 64)
SURVCORE_DEEPHIT_KERNELS(float, 32)
SURVCORE_DEEPHIT_KERNELS(float, 16)
SURVCORE_DEEPHIT_KERNELS(double, 64)
SURVCORE_DEEPHIT_KERNELS(double, 32)
SURVCORE_DEEPHIT_KERNELS(double, 16)
#undef SURVCORE_DEEPHIT_KERNELS

// The loss, and its gradient where that is not null.
template <class Real>
double tiled_loss(const DeepHitProblem<Real>& problem, const EventCodes& event, Real* gradient) {
  constexpr int lanes = RowTile<Real>::lanes;
  // What stays in a core's own cache between the passes costs less than to compute it again.
  constexpr int64_t most_kept_bytes = int64_t(3) << 19;
  const int32_t columns = problem.columns();
  const int64_t tile_size = DeepHitTile<Real>::size(columns);
  const int64_t chunks = (problem.rows + deephit_chunk_rows - 1) / deephit_chunk_rows;
  const int64_t tiles = (problem.rows + lanes - 1) / lanes;
  const bool keep = gradient && tiles * tile_size * static_cast<int64_t>(sizeof(Real)) <= most_kept_bytes;
  Scratch<Real> kept(keep ? tiles * tile_size : 0);
  const auto tiles_of = [&](int64_t begin, Scratch<Real>& own) {
    return keep ? &kept[begin / lanes * tile_size] : own.data();
  };
  std::vector<double> entries(chunks * DeepHitSums::size(columns));
  const auto sums_of = [&](int64_t chunk) {
    return DeepHitSums(&entries[chunk * DeepHitSums::size(columns)], columns);
  };

  for_each_chunk(problem.rows, deephit_chunk_rows, columns, [&](int64_t chunk, int64_t begin, int64_t end) {
    Scratch<Real> own(keep ? 0 : tile_size);
    Scratch<Real> lane_sums(int64_t(columns) * lanes);
    with_vector_width([&](auto width) {
      sums_of_chunk(width, problem, event, begin, end, keep, tiles_of(begin, own), lane_sums.data(), sums_of(chunk));
    });
  });
  std::vector<double> total_entries(DeepHitSums::size(columns));
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const double* part = &entries[chunk * DeepHitSums::size(columns)];
    for (std::size_t i = 0; i < total_entries.size(); ++i) total_entries[i] += part[i];
  }
  const DeepHitSums total(total_entries.data(), columns);
  const double divisor = total.totals[1] == 0 ? 1 : total.totals[1];
  const double of_likelihood = problem.alpha / divisor;
  const double of_ranking = (1 - problem.alpha) / (static_cast<double>(problem.rows) * divisor);
  double loss = problem.alpha == 0 && !std::isnan(total.totals[0]) ? 0 : of_likelihood * total.totals[0];
  if (problem.ranked()) {
    for (int32_t column = 0; column < columns; ++column) {
      if (total.events[column] != 0) loss += of_ranking * total.compared[column] * total.events[column];
    }
  }
  if (gradient == nullptr) return loss;

  std::vector<Real> of_compared(columns);
  std::vector<Real> of_events(columns);
  for (int32_t column = 0; column < columns; ++column) {
    of_compared[column] = static_cast<Real>(of_ranking / problem.sigma * total.events[column]);
    of_events[column] = static_cast<Real>(-of_ranking / problem.sigma * total.compared[column]);
  }
  const int32_t first_ranked =
      problem.ranked() ? first_ranked_bin(total.events, problem.causes, problem.bins) : problem.bins;
  const DeepHitFactors<Real> factors{of_compared.data(), of_events.data(), static_cast<Real>(of_likelihood),
                                     first_ranked};
  for_each_chunk(problem.rows, deephit_chunk_rows, columns, [&](int64_t, int64_t begin, int64_t end) {
    Scratch<Real> own(keep ? 0 : tile_size);
    with_vector_width([&](auto width) {
      gradient_of_chunk(width, problem, event, begin, end, keep, tiles_of(begin, own), factors, gradient);
    });
  });
  return loss;
}

template <class Real>
std::tuple<Tensor, Tensor> forward(const DeepHitTensors& tensors, double alpha, double sigma, bool with_gradient) {
  const DeepHitProblem<Real> problem = tensors.problem<Real>(alpha, sigma);
  Tensor loss = empty_on(tensors.logits, {}, tensors.type);
  Tensor gradient = tensors.empty_gradient(with_gradient);
  Real* gradients = with_gradient ? static_cast<Real*>(gradient.mutable_data_ptr()) : nullptr;
  const EventCodes event = tensors.event_codes();
  double value = 0;
  if (problem.rows > 0 && 1 / sigma <= steepest_slope<Real>) {
    value = tiled_loss(problem, event, gradients);
  } else if (problem.rows > 0) {
    const auto cause_of_row = [&](int64_t row) {
      int32_t cause;
      event.read(row, 1, &cause, CauseOf{problem.causes});
      return cause;
    };
    value = steep_deephit_loss(problem, cause_of_row, gradients);
  }
  *static_cast<Real*>(loss.mutable_data_ptr()) = static_cast<Real>(value);
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> deephit_loss(const Tensor& logits, const Tensor& time_bin, const Tensor& event,
                                        const Tensor& weights, double alpha, double sigma, bool with_gradient) {
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, "alpha must be within 0..1, got ", alpha);
  STD_TORCH_CHECK(sigma > 0 && std::isfinite(sigma), "sigma must be positive and finite, got ", sigma);
  const ScalarType type = compute_type(logits);
  const bool widened = type == ScalarType::Float && 1 / sigma > steepest_slope<float>;
  const DeepHitTensors tensors(logits, time_bin, event, weights, widened ? ScalarType::Double : type);
  if (tensors.type == ScalarType::Float) return forward<float>(tensors, alpha, sigma, with_gradient);
  const auto [loss, gradient] = forward<double>(tensors, alpha, sigma, with_gradient);
  return {contiguous_as(loss, type), contiguous_as(gradient, type)};
}

Tensor deephit_loss_backward(const Tensor& grad_loss, const Tensor& gradient) {
  return scaled_gradient(grad_loss, gradient);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(survcore, CPU, m) {
  m.impl("deephit_loss", TORCH_BOX(&deephit_loss));
  m.impl("deephit_loss_backward", TORCH_BOX(&deephit_loss_backward));
}

}  // namespace survcore
