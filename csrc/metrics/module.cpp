// survcore._metrics: the compiled steps of survcore/metrics, whose sorts between the steps are NumPy's.
#include "bindings.h"

PYBIND11_MODULE(_metrics, module) {
  module.doc() = "Compiled steps of survcore.metrics.";
  survcore::metrics::bind_auc(module);
  survcore::metrics::bind_brier(module);
  survcore::metrics::bind_concordance(module);
  survcore::metrics::bind_kaplan_meier(module);
  survcore::metrics::bind_search(module);
}
