"""The training loop: stages in order, the best epoch of each kept, a checkpoint after every epoch.

It speaks only the system protocol. Shuffling, dropout and the draws of rows are seeded from (seed, stage, epoch), so
a run that resumes after a kill goes on with the numbers that the undisturbed run would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from survcore.batch import Batch, Target, joined
from survcore.draws import stream_seed
from survcore.metrics import concordance_index
from survcore.models.base import Losses, Stage, System
from survcore.training.checkpoint import Checkpoint, RunState, load_optimizer_tensors, optimizer_tensors
from survcore.training.progress import Progress

# Rows that are looked at together outside of the epochs.
_CHUNK = 4_096


class TrainingRows(Protocol):
    """What the loop trains on: prepared rows, or their frozen latents."""

    availability: Tensor

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, *, max_patches: int = 0, seed: int = 0) -> Batch: ...


@dataclass(frozen=True)
class LatentRows:
    """Frozen latents of rows and their outcomes, held in memory as one batch for a cached stage."""

    whole: Batch

    @property
    def availability(self) -> Tensor:
        return self.whole.availability

    @property
    def latents(self) -> dict[str, Tensor]:
        return self.whole.latents

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, index: Tensor, *, max_patches: int = 0, seed: int = 0) -> Batch:
        """The latents of some rows; they were computed on all patches, so there is none left to choose."""
        return self.whole.take(index)


def train(
    system: System,
    stages: list[Stage],
    training: TrainingRows,
    validation: TrainingRows | None,
    *,
    unlabeled: Sequence[TrainingRows] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    gradient_clip: float = 0.0,
    max_patches: int = 0,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a system through its stages, in place.

    Args:
        system: on ``device``.
        stages: the stages to run, in order; one of 0 epochs is skipped.
        training, validation: prepared rows; without validation rows the last epoch of each stage is kept.
        unlabeled: further rows, on which the system's unlabeled stages are trained too. A batch holds rows of one kind.
        seed: of shuffling, dropout and the rows' draws.
        gradient_clip: largest norm of the gradient, 0 for none.
        max_patches: largest number of patches of a bag, drawn anew for every epoch (for validation once); 0 for all.
            Cached latents are computed on all patches.
        checkpoint: written after every epoch.
        resume: go on from the checkpoint, if there is one.
        progress: display of the epochs.
        on_epoch: is told the line of every epoch once it is done, and written to the checkpoint.

    Returns:
        One dict per epoch: stage, epoch, training and validation losses by part, validation C-index where a stage
        predicts.

    Raises:
        FloatingPointError: a loss or risk is not finite; the message names stage and epoch.
    """
    progress = progress or Progress.silent()
    stages = [stage for stage in stages if stage.epochs]
    state = (checkpoint.read() if checkpoint and resume else None) or RunState()
    if state.model:
        system.load_state_dict(state.model)
    else:
        system.prepare(_chunks(training, device))
    progress.skip(sum(stage.epochs for stage in stages[: state.stage]))
    with torch.random.fork_rng(devices=[] if torch.device(device).type == "cpu" else None):
        for index in range(state.stage, len(stages)):
            if index > state.stage:
                state = RunState(stage=index, history=state.history)
            stage = stages[index]
            further = unlabeled if stage.name in system.unlabeled_stages else ()
            run = _StageRun(
                system, stage, training, validation, further, state, seed, device, gradient_clip, max_patches
            )
            progress.start_stage(stage.name, stage.epochs, done=state.epoch)
            while not run.finished:
                row = run.epoch()
                progress.advance(row)
                if checkpoint:
                    state.model = system.state_dict()
                    state.optimizer = optimizer_tensors(run.optimizer)
                    checkpoint.write(state)
                if on_epoch:
                    on_epoch(row)
            run.finish()
            progress.end_stage()
    system.eval()
    with torch.no_grad():
        system.finish(_chunks(training, device))
    return state.history


def _chunks(rows: TrainingRows, device: torch.device | str) -> Iterator[Batch]:
    """All rows in their order, a part at a time."""
    for index in torch.arange(len(rows)).split(_CHUNK):
        yield rows.batch(index).to(device)


class _StageRun:
    """One stage under way."""

    def __init__(
        self,
        system: System,
        stage: Stage,
        training: TrainingRows,
        validation: TrainingRows | None,
        unlabeled: Sequence[TrainingRows],
        state: RunState,
        seed: int,
        device: torch.device | str,
        gradient_clip: float,
        max_patches: int,
    ) -> None:
        self.system, self.stage, self.state, self.seed, self.device = system, stage, state, seed, device
        self.gradient_clip, self.max_patches = gradient_clip, max_patches
        self.training, self.validation, self.unlabeled = training, validation, unlabeled
        if stage.cached:
            self.unlabeled = [_latent_rows(system, rows, device) for rows in unlabeled]
            self.training = _latent_rows(system, training, device)
            self.validation = _latent_rows(system, validation, device) if validation is not None else None
            # A resumed stage has its statistics: made again, they could differ from those that its weights know.
            if not state.epoch:
                system.start_stage(stage.name, self.training.latents, self.training.availability)
        trained = {id(parameter) for parameter in system.stage_parameters(stage.name)}
        self.parameters = [parameter for parameter in system.parameters() if id(parameter) in trained]
        self.names = [name for name, parameter in system.named_parameters() if id(parameter) in trained]
        for parameter in system.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay, fused=True
        )
        if state.optimizer:
            load_optimizer_tensors(self.optimizer, state.optimizer)

    @property
    def finished(self) -> bool:
        patience = self.stage.patience
        return self.state.epoch >= self.stage.epochs or bool(patience and self.state.stale >= patience)

    def epoch(self) -> dict[str, Any]:
        """Train one epoch, look at the validation rows, and remember the best weights."""
        stage, state = self.stage, self.state
        row: dict[str, Any] = {"stage": stage.name, "epoch": state.epoch + 1, **self._train_epoch()}
        if self.validation is not None and len(self.validation):
            row.update(self._validate())
            value = row.get(f"validation_{stage.monitor}")
            if value is None:
                raise ValueError(
                    f"stage {stage.name!r} watches {stage.monitor!r}, which it does not report: {sorted(row)}"
                )
            # A value that is not a number never counts as better.
            if value < state.best_value:
                state.best = {name: value.detach().clone() for name, value in self._kept().items()}
                state.best_value, state.stale = value, 0
            else:
                state.stale += 1
        state.epoch += 1
        state.history.append(row)
        return row

    def finish(self) -> None:
        """Put the best epoch's weights in place and free all parameters for use."""
        with torch.no_grad():
            kept = self._kept()
            for name, value in self.state.best.items():
                kept[name].copy_(value)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.system.parameters():
            parameter.requires_grad_(True)
        self.system.eval()

    def _kept(self) -> dict[str, Tensor]:
        """What an epoch changes: the trained parameters, and all buffers, such as running statistics."""
        parameters = dict(self.system.named_parameters())
        buffers = {name: value for name, value in self.system.state_dict().items() if name not in parameters}
        return dict(zip(self.names, self.parameters, strict=True)) | buffers

    def _train_epoch(self) -> dict[str, float]:
        stage = self.stage
        torch.manual_seed(stream_seed(self.seed, "dropout", stage.name, self.state.epoch))
        self.system.train()
        sums = _Means()
        pending = 0
        self.optimizer.zero_grad(set_to_none=True)
        patch_seed = stream_seed(self.seed, "patches", stage.name, self.state.epoch)
        for step, (rows, index) in enumerate(self._batches()):
            batch = rows.batch(index, max_patches=self.max_patches, seed=patch_seed).to(self.device)
            draw_seed = stream_seed(self.seed, "draws", stage.name, self.state.epoch, step)
            losses = self.system.losses(batch, stage.name, seed=draw_seed)
            if not math.isfinite(losses.loss.item()):
                raise FloatingPointError(
                    f"loss {losses.loss.item()} in stage {stage.name!r}, epoch {self.state.epoch + 1}"
                )
            (losses.loss / stage.accumulate).backward()
            sums.add({"loss": losses.loss, **losses.parts}, len(index))
            pending += 1
            if pending == stage.accumulate:
                self._step()
                pending = 0
        if pending:
            self._step()
        return sums.values("")

    def _require_finite(self, losses: Losses, part: str) -> None:
        risk = losses.risk
        if not math.isfinite(losses.loss.item()) or (risk is not None and not torch.isfinite(risk).all()):
            raise FloatingPointError(
                f"the {part} loss or risk is not finite in stage {self.stage.name!r}, epoch {self.state.epoch + 1}: "
                "lower the learning rate, or clip the gradient"
            )

    def _step(self) -> None:
        if self.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _batches(self) -> Iterator[tuple[TrainingRows, Tensor]]:
        """Rows and index batches of an epoch: one shuffled pass, or ``steps_per_epoch`` batches over several."""
        stage = self.stage
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "shuffle", stage.name, self.state.epoch))

        def batches(rows: TrainingRows, steps: int) -> list[tuple[TrainingRows, Tensor]]:
            needed = steps * stage.batch_size or len(rows)
            passes = [torch.randperm(len(rows), generator=generator) for _ in range(-(-needed // len(rows)))]
            return [(rows, index) for index in torch.cat(passes)[:needed].split(stage.batch_size)]

        found = batches(self.training, stage.steps_per_epoch)
        if not self.unlabeled:
            return iter(found)
        for rows in self.unlabeled:
            found += batches(rows, -(-stage.steps_per_epoch * len(rows) // len(self.training)))
        order = torch.randperm(len(found), generator=generator).tolist()
        return iter([found[number] for number in order])

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        stage = self.stage
        self.system.eval()
        sums = _Means()
        predicted: list[tuple[Tensor, Target, Tensor | None, Tensor | None]] = []
        patch_seed = stream_seed(self.seed, "patches", "validation")
        for index in torch.arange(len(self.validation)).split(max(stage.batch_size, 256)):
            batch = self.validation.batch(index, max_patches=self.max_patches, seed=patch_seed).to(self.device)
            losses = self.system.losses(batch, stage.name, seed=stream_seed(self.seed, "validation", stage.name))
            self._require_finite(losses, "validation")
            sums.add({"loss": losses.loss, **losses.parts}, len(index))
            if losses.risk is not None and batch.target is not None:
                predicted.append((losses.risk, batch.target, batch.strata, batch.weights))
        values = sums.values("validation_")
        if predicted:
            risks, targets, strata, weights = zip(*predicted, strict=True)
            target = Target.joined(targets)
            found = concordance_index(
                target.time,
                target.event > 0,
                torch.cat(risks),
                entry=target.entry,
                strata=joined(strata),
                weights=joined(weights),
            )
            values["validation_c_index"] = float(found)
        return values


class _Means:
    """Means of named losses, weighted by the rows of the batches that report them."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.rows: dict[str, int] = {}

    def add(self, parts: dict[str, Tensor], rows: int) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.item() * rows
            self.rows[name] = self.rows.get(name, 0) + rows

    def values(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}{name}": value / self.rows[name] for name, value in self.sums.items()}


@torch.no_grad()
def _latent_rows(system: System, rows: TrainingRows, device: torch.device | str) -> LatentRows:
    system.eval()
    parts: list[tuple[Batch, dict[str, Tensor]]] = []
    for index in torch.arange(len(rows)).split(256):
        batch = rows.batch(index).to(device)
        parts.append((batch, system.latents(batch)))
    names = parts[0][1]
    whole = Batch(
        row_key=torch.cat([batch.row_key for batch, _ in parts]),
        availability=torch.cat([batch.availability for batch, _ in parts]),
        latents={name: torch.cat([latents[name] for _, latents in parts]) for name in names},
        target=Target.joined([batch.target for batch, _ in parts]),
        weights=joined([batch.weights for batch, _ in parts]),
        strata=joined([batch.strata for batch, _ in parts]),
    )
    return LatentRows(whole.to("cpu"))
