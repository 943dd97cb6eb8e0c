"""In which type a system's encoders compute."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import nn

from survcore.batch import Batch
from survcore.devices import native_bfloat16
from survcore.errors import DataError
from survcore.inference.made_up import made_up_patients
from survcore.kept import Kept
from survcore.models.base import Encoded, System

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The most by which bfloat16 may move the risk of a made-up patient, relative to that risk.
MOST_MOVED = 1e-2
_TRIALS, _TRIAL_STEPS = 3, 10


class Encoder:
    """Encodes batches with a system in float32 or bfloat16.

    In bfloat16 matrix products are computed by autocast; what follows them (soft-maxima, norms, the algebra of parts)
    stays in float32, and so do the encodings. On the CPU the matrices are converted once and kept until the system's
    weights change.

    Args:
        system: in evaluation mode.
        dtype: torch.float32 or torch.bfloat16.
    """

    def __init__(self, system: System, dtype: torch.dtype) -> None:
        self.system, self.dtype = system, dtype
        self._kept = Kept()

    def __call__(self, batch: Batch) -> Encoded:
        """Encodings in float32 of a batch on the system's device, without a gradient."""
        if self.dtype == torch.float32:
            return self.system.encode(batch)
        device = batch.availability.device.type
        with torch.autocast(device, self.dtype):
            encoded = (self._lowered() if device == "cpu" else self.system).encode(batch)
        parts = {name: part.float() if part.is_floating_point() else part for name, part in encoded.parts.items()}
        return replace(encoded, parts=parts)

    def _lowered(self) -> System:
        """The system with matrices in bfloat16."""
        entries = self._kept.entries(self.system)
        if entries is None:
            return self.system
        if "lowered" not in entries:
            with torch.inference_mode(False):
                lowered = copy.deepcopy(self.system)
                for module in lowered.modules():
                    if isinstance(module, nn.Linear):
                        module.weight.data = module.weight.data.to(self.dtype)
            entries["lowered"] = lowered
        return entries["lowered"]


def chosen_dtype(name: str, system: System, device: torch.device) -> torch.dtype:
    """The type of "float32", "bfloat16" or "auto".

    "auto" is bfloat16 on a CPU that multiplies it natively (AMX or AVX-512 BF16), where made-up patients are then
    predicted faster and no risk moves by 1 % or more; else float32.

    Raises:
        ValueError: another name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {name!r}")
    if device.type != "cpu" or not native_bfloat16("cpu"):
        return torch.float32
    (seconds, risks), (lower_seconds, lower_risks) = (_trial(Encoder(system, dtype)) for dtype in DTYPES.values())
    close = all(abs(lower / risk - 1) < MOST_MOVED for lower, risk in zip(lower_risks, risks, strict=True))
    return torch.bfloat16 if lower_seconds < seconds and close else torch.float32


def _trial(encode: Encoder) -> tuple[float, list[float]]:
    """Seconds that made-up patients take to encode, each the fastest of a few times, and their risks."""
    seconds, risks = 0.0, []
    with torch.inference_mode():
        for batch in made_up_patients(encode.system):
            times = []
            for _ in range(1 + _TRIALS):
                start = time.perf_counter()
                encoded = encode(batch)
                times.append(time.perf_counter() - start)
            seconds += min(times)
            try:
                found = encode.system.predict(encode.system.complete(encoded, steps=_TRIAL_STEPS))
            except DataError:  # a modality that this system cannot fill in
                continue
            risks.append(float(found["risk"]))
    return seconds, risks
