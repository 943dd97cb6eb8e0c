#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings.h"
#include "kaplan_meier.h"

namespace survcore::metrics {

namespace {

py::tuple words_of(const Vector<double>& time, const Vector<bool>& event) {
  const std::size_t count = common_length(time, event);
  Vector<std::uint64_t> words(time.size());
  std::uint64_t* output = words.mutable_data();
  std::size_t middle;
  {
    py::gil_scoped_release release;
    middle = pack_times(time.data(), event.data(), count, output);
  }
  return py::make_tuple(words, middle);
}

py::tuple curve_of(const Vector<std::uint64_t>& words, const std::optional<Vector<double>>& entries) {
  const std::size_t count = entries ? common_length(words, *entries) : common_length(words);
  const auto distinct = static_cast<py::ssize_t>(distinct_times(words.data(), count));
  Vector<double> times(distinct), survival(distinct);
  Vector<std::int64_t> at_risk(distinct), events(distinct);
  {
    double* times_out = times.mutable_data();
    double* survival_out = survival.mutable_data();
    std::int64_t* at_risk_out = at_risk.mutable_data();
    std::int64_t* events_out = events.mutable_data();
    const double* entries_in = entries ? entries->data() : nullptr;
    py::gil_scoped_release release;
    kaplan_meier(words.data(), entries_in, count, times_out, survival_out, at_risk_out, events_out);
  }
  return py::make_tuple(times, survival, at_risk, events);
}

py::tuple weighted_curve_of(const Vector<double>& time, const Vector<bool>& event, const Vector<double>& weight,
                            const std::optional<Vector<double>>& entry,
                            const std::optional<Vector<std::uint32_t>>& entry_row) {
  if (entry.has_value() != entry_row.has_value()) throw std::invalid_argument("expected entries with their rows");
  const std::size_t count =
      entry ? common_length(time, event, weight, *entry, *entry_row) : common_length(time, event, weight);
  if (entry) {
    if (count >> 32 != 0) throw std::invalid_argument("expected fewer than 2^32 rows");
    const std::uint32_t* row = entry_row->data();
    if (std::any_of(row, row + count, [count](std::uint32_t place) { return place >= count; })) {
      throw std::invalid_argument("expected the rows of the entries below their number");
    }
  }
  const auto distinct = static_cast<py::ssize_t>(distinct_times(time.data(), count));
  Vector<double> times(distinct), survival(distinct), at_risk(distinct), events(distinct);
  {
    const WeightedRows rows{
        time.data(), event.data(), weight.data(), entry ? entry->data() : nullptr, entry ? entry_row->data() : nullptr,
        count};
    double* times_out = times.mutable_data();
    double* survival_out = survival.mutable_data();
    double* at_risk_out = at_risk.mutable_data();
    double* events_out = events.mutable_data();
    py::gil_scoped_release release;
    weighted_kaplan_meier(rows, times_out, survival_out, at_risk_out, events_out);
  }
  return py::make_tuple(times, survival, at_risk, events);
}

}  // namespace

void bind_kaplan_meier(py::module_& module) {
  module.def("pack_times", &words_of, py::arg("time"), py::arg("event"),
             "Words whose sort orders time and event, and how many of them come first, below all others.");
  module.def("kaplan_meier", &curve_of, py::arg("words"), py::arg("entries") = py::none(),
             "Times, survival, at_risk, events of sorted words of pack_times and, for late entry, sorted entries.");
  module.def("weighted_kaplan_meier", &weighted_curve_of, py::arg("time"), py::arg("event"), py::arg("weight"),
             py::arg("entry"), py::arg("entry_row"),
             "Times, survival, at_risk, events of rows in the order of their times; sorted entries with their rows.");
}

}  // namespace survcore::metrics
