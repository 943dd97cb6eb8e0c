// survcore._metrics: the compiled steps of survcore/metrics.py, NumPy in and NumPy out. The values are checked there,
// and the sorts between the steps are NumPy's.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "concordance.h"
#include "kaplan_meier.h"
#include "order.h"

namespace py = pybind11;
namespace metrics = survcore::metrics;

namespace {

template <typename T>
using Vector = py::array_t<T, py::array::c_style | py::array::forcecast>;

// The common length of the arguments.
template <typename First, typename... Others>
std::size_t common_length(const First& first, const Others&... others) {
  if (first.ndim() != 1 || ((others.ndim() != 1) || ...) || ((others.size() != first.size()) || ...)) {
    throw std::invalid_argument("expected vectors of one length");
  }
  return static_cast<std::size_t>(first.size());
}

Vector<std::uint64_t> pack_order(const Vector<double>& values, double smallest, double largest) {
  const std::size_t count = common_length(values);
  if (count >> 32 != 0) throw std::invalid_argument("expected fewer than 2^32 rows");
  Vector<std::uint64_t> words(values.size());
  std::uint64_t* output = words.mutable_data();
  py::gil_scoped_release release;
  metrics::pack_order(values.data(), count, smallest, largest, output);
  return words;
}

py::tuple concordance_counts(const Vector<double>& time, const Vector<bool>& event, const Vector<double>& risk,
                             Vector<std::uint64_t> time_order, Vector<std::uint64_t> risk_order) {
  const std::size_t count = common_length(time, event, risk, time_order, risk_order);
  std::uint64_t* by_time = time_order.mutable_data();
  std::uint64_t* by_risk = risk_order.mutable_data();
  metrics::ConcordanceCounts counts;
  {
    py::gil_scoped_release release;
    metrics::finish_order(time.data(), count, by_time);
    metrics::finish_order(risk.data(), count, by_risk);
    counts = metrics::concordance_counts(time.data(), event.data(), risk.data(), by_time, by_risk, count);
  }
  return py::make_tuple(counts.concordant, counts.discordant, counts.tied_risk, counts.tied_time, counts.tied_both);
}

py::tuple pack_times(const Vector<double>& time, const Vector<bool>& event) {
  const std::size_t count = common_length(time, event);
  Vector<std::uint64_t> words(time.size());
  std::uint64_t* output = words.mutable_data();
  std::size_t middle;
  {
    py::gil_scoped_release release;
    middle = metrics::pack_times(time.data(), event.data(), count, output);
  }
  return py::make_tuple(words, middle);
}

py::tuple kaplan_meier(const Vector<std::uint64_t>& words) {
  const std::size_t count = common_length(words);
  const auto distinct = static_cast<py::ssize_t>(metrics::distinct_times(words.data(), count));
  Vector<double> times(distinct), survival(distinct);
  Vector<std::int64_t> at_risk(distinct), events(distinct);
  {
    double* times_out = times.mutable_data();
    double* survival_out = survival.mutable_data();
    std::int64_t* at_risk_out = at_risk.mutable_data();
    std::int64_t* events_out = events.mutable_data();
    py::gil_scoped_release release;
    metrics::kaplan_meier(words.data(), count, times_out, survival_out, at_risk_out, events_out);
  }
  return py::make_tuple(times, survival, at_risk, events);
}

}  // namespace

PYBIND11_MODULE(_metrics, module) {
  module.doc() = "Compiled steps of survcore.metrics.";
  module.def("pack_order", &pack_order, py::arg("values"), py::arg("smallest"), py::arg("largest"),
             "Words whose sort orders the rows by value.");
  module.def("concordance_counts", &concordance_counts, py::arg("time"), py::arg("event"), py::arg("risk"),
             py::arg("time_order"), py::arg("risk_order"),
             "Concordant, discordant, tied_risk, tied_time, tied_both; the orders, sorted words of pack_order, are "
             "overwritten.");
  module.def("pack_times", &pack_times, py::arg("time"), py::arg("event"),
             "Words whose sort orders time and event, and how many of them come first, below all others.");
  module.def("kaplan_meier", &kaplan_meier, py::arg("words"),
             "Times, survival, at_risk, events of sorted words of pack_times.");
}
