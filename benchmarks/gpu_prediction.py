"""A whole prediction of MUST for one patient with a slide and without genomics, on the GPU.

Run as ``python -m survcore.benchmarks.gpu_prediction OUT``; writes ``prediction.jsonl`` and ``prediction.txt``. The
features, patches x 1,536 in bfloat16, lie on the GPU; from them to the risk it takes the encoder of the slide, 5 draws
of 50 steps and the head. What is timed ends when the risk is on the processor.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from survcore.batch import Bags, Batch, ModalityInput
from survcore.benchmarks.agreement import told
from survcore.benchmarks.gpu_notes import Notes
from survcore.models.must import MUST

_FEATURES, _GENES = 1536, 200
# Patches -> milliseconds that are aimed at on an H200.
_BARS = {10_000: 10.0, 200_000: 60.0}
_CALLS = 15
# Of the GPU's hazards against the processor's.
_ALLOWED = 1e-3


def main(out: Path) -> int:
    """0 if the GPU predicts what the processor does, and every size could be timed."""
    torch.manual_seed(0)
    model = _model()
    problem = _difference(model)
    model = model.to("cuda")
    failed = bool(problem)
    with Notes(out, "prediction") as notes:
        notes.say(problem or "hazards of 1,000 patches are the processor's")
        for patches in _BARS:
            for mode in ("float32", "bfloat16"):
                record = _record(model, patches, mode)
                notes.add(record, _line(record))
                failed = failed or "problem" in record
    return 1 if failed else 0


def _model() -> MUST:
    """Of the paper's size, untrained, with the statistics that drawing needs."""
    inputs = [ModalityInput("slide", "bag", _FEATURES), ModalityInput("genomics", "vector", _GENES)]
    model = MUST(inputs, bins=4, settings={})
    parts = {name: torch.randn(64, 2, model.options.width) for name in ("specific", "recovered")}
    latents = parts | {"shared": torch.randn(64, model.options.width)}
    model.start_stage("diffusion", latents, torch.ones(64, 2, dtype=torch.bool))
    return model.eval()


def _batch(patches: int, device: str, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(1)
    slide = torch.randn(min(patches, 4096), _FEATURES, generator=generator)
    slide = slide.repeat(-(-patches // len(slide)), 1)[:patches].to(device, dtype)
    values: dict[str, Tensor | Bags] = {"slide": Bags.of([slide]), "genomics": torch.zeros(1, _GENES, device=device)}
    return Batch(torch.tensor([7]), torch.tensor([[True, False]], device=device), values)


@torch.inference_mode()
def _predict(model: MUST, batch: Batch) -> tuple[Tensor, float]:
    """Hazard logits [1, K] on the processor, and the seconds spent before drawing begins."""
    start = time.perf_counter()
    encoded = model.encode(batch)
    if encoded.availability.is_cuda:
        torch.cuda.synchronize()
    middle = time.perf_counter()
    outputs = model.predict(model.complete(encoded))
    outputs["risk"].cpu()
    return outputs["hazard_logits"].float().cpu(), middle - start


def _difference(model: MUST) -> str:
    """What is wrong with the GPU's hazards; empty if nothing is."""
    expected, _ = _predict(model.to("cpu"), _batch(1_000, "cpu", torch.float32))
    found, _ = _predict(model.to("cuda"), _batch(1_000, "cuda", torch.float32))
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    return "" if error <= _ALLOWED else f"wrong: hazard logits of the GPU have relative error {error:.1e}"


def _record(model: MUST, patches: int, mode: str) -> dict[str, Any]:
    record: dict[str, Any] = {"patches": patches, "mode": mode, "bar": 1e-3 * _BARS[patches]}
    lower: AbstractContextManager = torch.autocast("cuda", torch.bfloat16) if mode == "bfloat16" else nullcontext()
    try:
        batch = _batch(patches, "cuda", torch.bfloat16)
        with lower:
            for _ in range(3):
                _predict(model, batch)
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            times, encoding = [], []
            for _ in range(_CALLS):
                start = time.perf_counter()
                logits, encoded = _predict(model, batch)
                times.append(time.perf_counter() - start)
                encoding.append(encoded)
        if not logits.isfinite().all():
            return record | {"problem": "wrong: hazard logits are not finite"}
        record["seconds"], record["encoding_seconds"] = statistics.median(times), statistics.median(encoding)
        return record | {"peak_extra_bytes": torch.cuda.max_memory_allocated() - before}
    except Exception as error:
        return record | {"problem": told(error)}


def _line(record: dict[str, Any]) -> str:
    head = f"{record['patches']:>7,} patches, {record['mode']:<8}"
    if "problem" in record:
        return f"{head}  {record['problem']}"
    verdict = "met" if record["seconds"] <= record["bar"] else "missed"
    return (
        f"{head}  {1e3 * record['seconds']:8.2f} ms ({1e3 * record['encoding_seconds']:.2f} before drawing), peak "
        f"{1e-6 * record['peak_extra_bytes']:.0f} MB beside the features; bar {1e3 * record['bar']:g} ms: {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
