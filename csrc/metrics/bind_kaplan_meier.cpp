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

py::tuple curve_of(const Vector<std::uint64_t>& words) {
  const std::size_t count = common_length(words);
  const auto distinct = static_cast<py::ssize_t>(distinct_times(words.data(), count));
  Vector<double> times(distinct), survival(distinct);
  Vector<std::int64_t> at_risk(distinct), events(distinct);
  {
    double* times_out = times.mutable_data();
    double* survival_out = survival.mutable_data();
    std::int64_t* at_risk_out = at_risk.mutable_data();
    std::int64_t* events_out = events.mutable_data();
    py::gil_scoped_release release;
    kaplan_meier(words.data(), count, times_out, survival_out, at_risk_out, events_out);
  }
  return py::make_tuple(times, survival, at_risk, events);
}

}  // namespace

void bind_kaplan_meier(py::module_& module) {
  module.def("pack_times", &words_of, py::arg("time"), py::arg("event"),
             "Words whose sort orders time and event, and how many of them come first, below all others.");
  module.def("kaplan_meier", &curve_of, py::arg("words"),
             "Times, survival, at_risk, events of sorted words of pack_times.");
}

}  // namespace survcore::metrics
