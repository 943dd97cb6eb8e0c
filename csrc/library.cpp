// Every op's schema, with one contract line each. Kernels register themselves in csrc/cpu and csrc/cuda, fake kernels
// and autograd in survcore/ops. Schemas are functional and use Tensor, int, float, bool and str only (an absent
// optional is an empty tensor), so that exporters and plugin generators can read them.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(survcore, m) {
  // Rows sorted into groups that share a risk set, as common/cox_plan.h lays them out; an invalid row stands in the
  // header.
  m.def("cox_risk_sets(Tensor time, Tensor event, Tensor entry, Tensor strata) -> Tensor");
  // Negative log partial likelihood, reduced, and its gradient, empty where none is asked for.
  m.def(
      "cox_ph_loss("
      "Tensor log_hazard, Tensor risk_sets, Tensor weights, str ties, str reduction, bool with_gradient"
      ") -> (Tensor loss, Tensor gradient)");
  m.def("cox_ph_loss_backward(Tensor grad_loss, Tensor gradient) -> Tensor");
  // Logarithms of the step of the baseline hazard at each group, of the sum up to it and of that one's variance; -inf
  // beyond the last group.
  m.def(
      "cox_baseline_hazard("
      "Tensor log_hazard, Tensor risk_sets, Tensor weights, str ties"
      ") -> (Tensor log_step, Tensor log_cumulative_hazard, Tensor log_variance)");

  // Likelihood and ranking of event times by cause, and their gradient, of no rows where none is asked for.
  m.def(
      "deephit_loss("
      "Tensor logits, Tensor time_bin, Tensor event, Tensor weights, float alpha, float sigma, bool with_gradient"
      ") -> (Tensor loss, Tensor gradient)");
  m.def("deephit_loss_backward(Tensor grad_loss, Tensor gradient) -> Tensor");

  // Negative log-likelihood of discrete-time hazards, reduced; divisor is what the sum was divided by, and gradient
  // that of the loss (of the rows' sum, where they are not reduced), of no rows where none is asked for.
  m.def(
      "discrete_hazard_nll("
      "Tensor logits, Tensor time_bin, Tensor event, Tensor weights, "
      "str censored, str form, float alpha, str reduction, bool with_gradient"
      ") -> (Tensor loss, Tensor divisor, Tensor gradient)");
  // Gradient of the logits; the hazards are recomputed from them.
  m.def(
      "discrete_hazard_nll_backward("
      "Tensor grad_loss, Tensor logits, Tensor time_bin, Tensor event, Tensor weights, Tensor divisor, "
      "str censored, str form, float alpha, str reduction"
      ") -> Tensor");

  // Contrastive loss of paired rows, and statistics of the rows, [G, 3, B]: log-sum-exps of the other logits, per query
  // and per key, and the pair's own logit. With ranks > 1 this call compares a part of the pairs only. With
  // with_gradient, which takes memory that grows as B^2, also the gradients of the sum of the losses and, by the
  // temperature, of each.
  m.def(
      "info_nce("
      "Tensor query, Tensor key, Tensor row_mask, Tensor temperature, str form, bool normalize, int rank, int ranks, "
      "bool with_gradient"
      ") -> (Tensor loss, Tensor statistics, Tensor to_query, Tensor to_key, Tensor to_temperature)");
  // Gradients of query, key and temperature, in that order; softmaxes are recomputed from the statistics.
  m.def(
      "info_nce_backward("
      "Tensor grad_loss, Tensor query, Tensor key, Tensor row_mask, Tensor temperature, Tensor statistics, "
      "str form, bool normalize, int rank, int ranks"
      ") -> (Tensor, Tensor, Tensor)");

  // Specific parts without, cross parts within the shared subspace; losses are decomposition, shared, orthogonality.
  m.def(
      "low_rank_decompose("
      "Tensor basis, Tensor whole, Tensor specific, Tensor cross, Tensor availability"
      ") -> (Tensor specific_hat, Tensor cross_hat, Tensor losses)");
  // Gradients of basis, whole, specific and cross, in that order; an absent incoming gradient is empty.
  m.def(
      "low_rank_decompose_backward("
      "Tensor grad_specific, Tensor grad_cross, Tensor grad_losses, "
      "Tensor basis, Tensor whole, Tensor specific, Tensor cross, Tensor availability, "
      "Tensor specific_hat, Tensor cross_hat"
      ") -> (Tensor, Tensor, Tensor, Tensor)");

  // Binary cross-entropy of logits [V, B, D] or [B, D] over masked entries, one mean per view and modality, and its
  // gradient, empty where none is asked for; modality m has the columns from boundaries[m] on.
  m.def(
      "masked_bce_with_logits("
      "Tensor logits, Tensor target, Tensor mask, Tensor observed, Tensor pos_weight, Tensor boundaries, "
      "str positions, str reduction, bool with_gradient"
      ") -> (Tensor loss, Tensor gradient)");
  m.def("masked_bce_with_logits_backward(Tensor grad_loss, Tensor gradient, Tensor boundaries) -> Tensor");

  // Mean over masked patches of the mean squared error of a patch, and its gradient, empty where none is asked for.
  m.def(
      "masked_mse("
      "Tensor prediction, Tensor target, Tensor mask, Tensor observed, str positions, bool with_gradient"
      ") -> (Tensor loss, Tensor gradient)");
  m.def("masked_mse_backward(Tensor grad_loss, Tensor gradient) -> Tensor");

  // Weights of a denoiser (flat: header and weights one after the other) in the order in which the CPU reads them.
  m.def("pack_denoiser(Tensor flat, str dtype, str instruction_set) -> Tensor");
  // All steps of all draws: x' = A x + B F(x) + S noise + W previous F + V previous x, coefficients [T, 5] = A B S W V.
  m.def(
      "ddim_sample("
      "Tensor noise, Tensor condition, Tensor condition_index, Tensor step_noise, "
      "Tensor packed_weights, Tensor modulation, Tensor coefficients"
      ") -> Tensor");
}
