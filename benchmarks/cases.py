"""All benchmark cases, by op."""

from __future__ import annotations

from survcore.benchmarks import ddim_sample, discrete_hazard_nll, low_rank_decompose

CASES = {module.CASE.name: module.CASE for module in (ddim_sample, discrete_hazard_nll, low_rank_decompose)}
