"""Checkpoints of a run under way: everything that the next epoch needs, in one file that is replaced atomically."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from survcore.errors import CheckpointError
from survcore.files import replacing

FORMAT_VERSION = 2


@dataclass
class RunState:
    """Where a run stands after an epoch.

    Attributes:
        stage: index of the stage under way.
        epoch: epochs of it that are done.
        model: the system's state.
        optimizer: AdamW's tensors by parameter index and name.
        best: of the best epoch of the stage: its trained parameters, and all buffers.
        best_value, stale: the best validation value, and epochs since.
        history: one dict per epoch so far.
    """

    stage: int = 0
    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_value: float = float("inf")
    stale: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Checkpoint:
    """One checkpoint file, bound to what the run is about.

    Args:
        path: the file.
        run: JSON-able description of the run (recipe, seed, rows, outcomes); a checkpoint of another run is refused.
    """

    def __init__(self, path: str | Path, run: dict[str, Any]) -> None:
        self.path = Path(path)
        self.identity = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()

    def write(self, state: RunState) -> None:
        """Replace the file with this state; a kill leaves either the old file or the new one."""
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous()
            for part in ("model", "optimizer", "best")
            for name, tensor in getattr(state, part).items()
        }
        header = {
            "format_version": FORMAT_VERSION,
            "identity": self.identity,
            "stage": state.stage,
            "epoch": state.epoch,
            "best_value": state.best_value.hex(),
            "stale": state.stale,
            "history": state.history,
        }
        with replacing(self.path) as temporary:
            save_file(tensors, temporary, metadata={"survcore_checkpoint": json.dumps(header)})

    def remove(self) -> None:
        """Delete the file: the run has ended and its model is saved."""
        self.path.unlink(missing_ok=True)

    def read(self) -> RunState | None:
        """The stored state, or None where no checkpoint has been written yet.

        Raises:
            CheckpointError: the file is foreign, cut short, of another version, or of another run.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("survcore_checkpoint", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{self.path} is cut short or not a checkpoint: {error}") from error
        if header is None:
            raise CheckpointError(f"{self.path} was not written by a survcore run")
        if header["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{self.path} has checkpoint version {header['format_version']}, this survcore reads {FORMAT_VERSION}"
            )
        if header["identity"] != self.identity:
            raise CheckpointError(
                f"{self.path} belongs to another run (other recipe, seed, fold or cohort): "
                "resume with the arguments it was started with, or choose another output folder"
            )

        def part(name: str) -> dict[str, Tensor]:
            return {key.split("/", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{name}/")}

        return RunState(
            stage=header["stage"],
            epoch=header["epoch"],
            model=part("model"),
            optimizer=part("optimizer"),
            best=part("best"),
            best_value=float.fromhex(header["best_value"]),
            stale=header["stale"],
            history=header["history"],
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put :func:`optimizer_tensors` back into a fresh optimiser over the same parameters."""
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
