"""OpCase of cox_baseline_hazard: the rows of cox_ph_loss."""

from __future__ import annotations

import torch

from survcore.reference import cox_baseline_hazard as reference
from survcore.testing import cox_ph_loss
from survcore.testing.op_case import Arguments, OpCase


def _arguments(arguments: Arguments) -> Arguments:
    """Those of a loss without reduction and gradient."""
    return arguments[:4]


def _samples(dtype: torch.dtype) -> dict[str, Arguments]:
    # The reference holds a table of groups and events.
    samples = {name: case for name, case in cox_ph_loss.samples(dtype).items() if len(case[0]) < 1000}
    return {name: _arguments(case) for name, case in samples.items()}


def _extremes(dtype: torch.dtype) -> dict[str, Arguments]:
    return {name: _arguments(case) for name, case in cox_ph_loss.extremes(dtype).items()}


CASE = OpCase(
    name="cox_baseline_hazard",
    reference=reference.cox_baseline_hazard,
    reference_backward=None,
    samples=_samples,
    extremes=_extremes,
    large=lambda dtype: _arguments(cox_ph_loss.cox_arguments(dtype, 3_000, times=700)),
    differentiable=(),
    differentiable_outputs=(),
)
