#include "bindings.h"
#include "concordance.h"
#include "order.h"

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

py::tuple counts_of(const Vector<double>& time, const Vector<bool>& event, const Vector<double>& risk,
                    Vector<std::uint64_t> time_order, Vector<std::uint64_t> risk_order) {
  const std::size_t count = common_length(time, event, risk, time_order, risk_order);
  std::uint64_t* by_time = time_order.mutable_data();
  std::uint64_t* by_risk = risk_order.mutable_data();
  ConcordanceCounts counts;
  {
    py::gil_scoped_release release;
    finish_order(time.data(), count, by_time);
    finish_order(risk.data(), count, by_risk);
    counts = concordance_counts(time.data(), event.data(), risk.data(), by_time, by_risk, count);
  }
  return py::make_tuple(counts.concordant, counts.discordant, counts.tied_risk, counts.tied_time, counts.tied_both);
}

}  // namespace

void bind_concordance(py::module_& module) {
  module.def("pack_order", &words_of, py::arg("values"), py::arg("smallest"), py::arg("largest"),
             "Words whose sort orders the rows by value.");
  module.def("concordance_counts", &counts_of, py::arg("time"), py::arg("event"), py::arg("risk"),
             py::arg("time_order"), py::arg("risk_order"),
             "Concordant, discordant, tied_risk, tied_time, tied_both; the orders, sorted words of pack_order, are "
             "overwritten.");
}

}  // namespace survcore::metrics
