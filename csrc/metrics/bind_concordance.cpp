#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "bindings.h"
#include "concordance.h"
#include "order.h"
#include "time_dependent.h"

namespace survcore::metrics {

namespace {

Vector<std::uint64_t> words_of(const Vector<double>& values, double smallest, double largest) {
  const std::size_t count = common_length(values);
  if (count >> 32 != 0) throw std::invalid_argument("expected fewer than 2^32 rows");
  Vector<std::uint64_t> words(values.size());
  std::uint64_t* output = words.mutable_data();
  py::gil_scoped_release release;
  pack_order(values.data(), count, smallest, largest, output);
  return words;
}

template <typename T>
const T* data_of(const std::optional<Vector<T>>& column, std::size_t count) {
  if (!column) return nullptr;
  if (common_length(*column) != count) throw std::invalid_argument("expected vectors of one length");
  return column->data();
}

LineUp line_up_of(const Vector<double>& time, const Vector<bool>& event, const Vector<double>& risk,
                  Vector<std::uint64_t> time_order, Vector<std::uint64_t> risk_order,
                  const std::optional<Vector<std::int32_t>>& stratum, std::size_t strata,
                  const std::optional<Vector<double>>& entry, std::optional<Vector<std::uint64_t>> entry_order,
                  const std::optional<Vector<double>>& weight, const std::optional<Vector<double>>& event_weight) {
  ConcordanceColumns columns{common_length(time, event, risk, time_order, risk_order), time.data(), event.data(),
                             risk.data()};
  columns.stratum = data_of(stratum, columns.count);
  columns.strata = strata;
  columns.entry = data_of(entry, columns.count);
  columns.weight = data_of(weight, columns.count);
  columns.event_weight = data_of(event_weight, columns.count);
  data_of(entry_order, columns.count);
  if (entry.has_value() != entry_order.has_value()) throw std::invalid_argument("expected entry with its order");

  std::uint64_t* by_time = time_order.mutable_data();
  std::uint64_t* by_risk = risk_order.mutable_data();
  std::uint64_t* by_entry = entry_order ? entry_order->mutable_data() : nullptr;
  py::gil_scoped_release release;
  finish_order(columns.time, columns.count, by_time);
  finish_order(columns.risk, columns.count, by_risk);
  if (by_entry != nullptr) finish_order(columns.entry, columns.count, by_entry);
  return LineUp(columns, {by_time, by_risk, by_entry});
}

template <typename Number>
py::tuple as_tuple(const ConcordanceCounts<Number>& counts) {
  return py::make_tuple(counts.concordant, counts.discordant, counts.tied_risk, counts.tied_time, counts.tied_both);
}

py::tuple counts_of(const LineUp& rows) {
  if (rows.weighted() || rows.events_weighted()) {
    ConcordanceCounts<double> counts;
    {
      py::gil_scoped_release release;
      counts = weigh_pairs(rows);
    }
    return as_tuple(counts);
  }
  ConcordanceCounts<std::int64_t> counts;
  {
    py::gil_scoped_release release;
    counts = count_pairs(rows);
  }
  return as_tuple(counts);
}

double standard_error_of(const LineUp& rows) {
  py::gil_scoped_release release;
  return std::sqrt(concordance_variance(rows));
}

py::tuple curve_pairs_of(const Vector<double>& survival, const Vector<std::int32_t>& interval,
                         const Vector<bool>& event) {
  const std::size_t count = common_length(interval, event);
  if (survival.ndim() != 2 || static_cast<std::size_t>(survival.shape(0)) != count) {
    throw std::invalid_argument("expected survival [rows, intervals]");
  }
  CurvePairs pairs;
  {
    py::gil_scoped_release release;
    pairs = compare_across_intervals(survival.data(), interval.data(), event.data(), count,
                                     static_cast<std::size_t>(survival.shape(1)));
  }
  return py::make_tuple(pairs.concordant, pairs.discordant, pairs.tied_risk);
}

}  // namespace

void bind_concordance(py::module_& module) {
  module.def("pack_order", &words_of, py::arg("values"), py::arg("smallest"), py::arg("largest"),
             "Words whose sort orders the rows by value.");
  py::class_<LineUp>(module, "LineUp", "Rows in the order in which concordances are counted; keeps none of the inputs.")
      .def(py::init(&line_up_of), py::arg("time"), py::arg("event"), py::arg("risk"), py::arg("time_order"),
           py::arg("risk_order"), py::arg("stratum") = py::none(), py::arg("strata") = 1, py::arg("entry") = py::none(),
           py::arg("entry_order") = py::none(), py::arg("weight") = py::none(), py::arg("event_weight") = py::none(),
           "The orders, sorted words of pack_order, are overwritten; stratum: 0 to strata - 1.")
      .def("counts", &counts_of,
           "Concordant, discordant, tied_risk, tied_time, tied_both: int, or float where pairs have weights.")
      .def("standard_error", &standard_error_of, "Of the index, by the infinitesimal jackknife.");
  module.def("compare_across_intervals", &curve_pairs_of, py::arg("survival"), py::arg("interval"), py::arg("event"),
             "Concordant, discordant and tied pairs of an event and a row of a later interval of the grid.");
}

}  // namespace survcore::metrics
