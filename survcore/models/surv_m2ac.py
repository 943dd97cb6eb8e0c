"""Surv-M2AC: a masked multimodal autoencoder with a contrastive loss, and a survival head on what it has learned.

After "Masked Multimodal Autoencoders with Contrastive Learning for Cancer Survival Representation Learning" (Liu,
Ning, Xiang), for any number of modalities of any width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from survcore.batch import Batch, ModalityInput, SparsePanel, Target, dense, joined
from survcore.draws import row_marks, row_uniform, stream_seed
from survcore.errors import DataError
from survcore.models.base import FILLS, Completed, Encoded, Losses, System
from survcore.models.cox_baseline import CoxBaseline
from survcore.models.deep_surv import deep_surv_head
from survcore.models.settings import read_settings
from survcore.models.surv_m2ac_encoder import Autoencoder, is_deep
from survcore.models.surv_m2ac_settings import SurvM2ACSettings
from survcore.nn.rows import owner_rows, put_rows, take_rows
from survcore.ops import cox_ph_loss, discrete_hazard_nll, hazard_risk, info_nce, masked_bce_with_logits, masked_mse


class SurvM2AC(System):
    """The Surv-M2AC system on panels and vectors.

    A hidden, missing or absent entry is a learned token of its column, in training and afterwards, so a modality that
    nobody measured needs no other completion ("own"); "zeros" and "mean" show zeros, or the means of the training rows,
    as though they had been measured.

    Stages: "pretrain" trains the autoencoder on masked views of all rows, with or without outcomes; "head" the survival
    head, on frozen representations unless ``fine_tune`` is set. Panels, whose entries are 0 or 1, are reconstructed by
    binary cross-entropy (the paper), the standardised columns of vectors by squared errors (ours: the paper has none).
    """

    name = "surv_m2ac"
    takes_missing_entries = True
    takes_entry = True
    takes_strata = True
    modality_kinds = frozenset({"vector", "panel", "embedding"})
    stage_names = ("pretrain", "head")
    unlabeled_stages = frozenset({"pretrain"})

    def __init__(self, inputs: Sequence[ModalityInput], bins: int, settings: dict[str, Any]) -> None:
        super().__init__(inputs, bins, settings)
        options = self.options = read_settings(SurvM2ACSettings, settings, self.name)
        # A saved model is rebuilt from all of them, whatever the defaults are by then.
        self.settings = asdict(options)
        self.autoencoder = Autoencoder(self.inputs, options)
        hidden, outputs = tuple(map(int, options.head_hidden.split())), 1 if options.head == "cox" else bins
        if options.architecture == "mlp":
            # Its first layer is that of the encoder, which adds up what the modalities give.
            self.head = deep_surv_head(hidden[0], hidden, outputs, options.head_dropout)[1:]
        else:
            self.head = deep_surv_head(options.latent, hidden, outputs, options.head_dropout)
        self.baseline = CoxBaseline(bins, options.strata) if options.head == "cox" else None
        for index, modality in enumerate(self.inputs):
            self.register_buffer(f"mean_{index}", torch.zeros(modality.width))
            if modality.kind == "panel":
                self.register_buffer(f"positive_weight_{index}", torch.ones(modality.width))

    # ---- the protocol: encode, complete, predict

    def encode(self, batch: Batch) -> Encoded:
        """Part "hidden" [B, M, H]: each modality by itself; 0 where a row lacks it. And "stratum" int64 [B]."""
        hidden = []
        for index, modality in enumerate(self.inputs):
            owned = batch.availability[:, index]
            if not owned.any():
                hidden.append(self._nothing(len(batch)))
                continue
            rows = owner_rows(owned)
            values = batch.values[modality.name]
            if not isinstance(rows, slice):
                values = values.take(rows) if isinstance(values, SparsePanel) else values[rows]
            first = self.autoencoder.first(index)(values, take_rows(batch.observed.get(modality.name), rows))
            hidden.append(put_rows(self.autoencoder.hidden(index, first), rows, len(batch)))
        parts = {"hidden": torch.stack(hidden, dim=1)}
        if batch.strata is not None:
            parts["stratum"] = batch.strata
        return Encoded(parts, batch.availability, batch.row_key)

    def complete(
        self,
        encoded: Encoded,
        *,
        fill: str = "own",
        seed: int = 0,
        draws: int = 5,
        steps: int = 50,
        solver: str = "ddim",
        precision: str = "full",
    ) -> Completed:
        """Absent modalities as tokens ("own"), zeros, or means of the training rows; nothing is drawn.

        Raises:
            ValueError: unknown fill.
        """
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        absent = ~encoded.availability
        hidden = encoded.parts["hidden"]
        if absent.any():
            hidden = torch.where(absent.unsqueeze(-1), self._filling(fill, absent), hidden)
        parts = {"latent": self.autoencoder.latent(list(hidden.unbind(1)))}
        if "stratum" in encoded.parts:
            parts["stratum"] = encoded.parts["stratum"]
        return Completed(parts, absent, fill)

    def predict(self, completed: Completed) -> dict[str, Tensor]:
        """``hazard_logits`` [B, K] and ``risk`` [B]: the log-hazard of a Cox head, with which comes ``log_hazard``;
        else -sum_k S(k)."""
        outputs = self.head(completed.parts["latent"])
        if self.baseline is None:
            return {"hazard_logits": outputs, "risk": hazard_risk(outputs.double())}
        log_hazard = outputs.squeeze(1)
        logits = self.baseline.hazard_logits(log_hazard, completed.parts.get("stratum"))
        return {"log_hazard": log_hazard, "hazard_logits": logits, "risk": log_hazard.double()}

    # ---- the protocol: training

    def stages(self) -> tuple[str, ...]:
        return self.stage_names if self.options.architecture != "mlp" else self.stage_names[1:]

    def stage_parameters(self, stage: str) -> list[nn.Parameter]:
        self._check_stage(stage)
        if stage == "pretrain":
            return list(self.autoencoder.parameters())
        trained = [*self.head.parameters()]
        return trained + (list(self.autoencoder.parameters()) if self._trains_encoder else [])

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Store the mean of every column, and how many zeros there are for each one, over the training rows."""
        sums = [torch.zeros(modality.width, dtype=torch.float64) for modality in self.inputs]
        counts = [torch.zeros(modality.width, dtype=torch.float64) for modality in self.inputs]
        for batch in batches:
            if self.baseline is None and batch.target is not None and batch.target.entry is not None:
                raise DataError(
                    "the head 'discrete_hazard' of surv_m2ac cannot take entry times (left truncation) into account: "
                    "choose the head 'cox', or drop the entry column to train on follow-up from time 0 all the same"
                )
            for index in range(len(self.inputs)):
                values, there = self._table(batch, index)
                if self.inputs[index].kind == "panel" and not ((values == 0) | (values == 1) | ~there).all():
                    raise DataError(
                        f"panel {self.inputs[index].name!r} holds other values than 0 and 1: give it no scale and no "
                        "transform in the preprocessing settings, or declare it a vector"
                    )
                sums[index] += torch.where(there, values, 0.0).sum(0, dtype=torch.float64).cpu()
                counts[index] += there.sum(0).cpu()
        for index, (total, count) in enumerate(zip(sums, counts, strict=True)):
            getattr(self, f"mean_{index}").copy_(total / count.clamp(min=1))
            if self.inputs[index].kind == "panel":
                # A column that is never 1 has no positive entry to weigh.
                weight = torch.where(total > 0, (count - total) / total.clamp(min=1), 1.0)
                getattr(self, f"positive_weight_{index}").copy_(weight)

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Fit the baseline hazard of a Cox head on the training rows."""
        if self.baseline is None:
            return
        found: list[tuple[Tensor, Batch]] = []
        for batch in batches:
            log_hazard = self.head(self.complete(self.encode(batch)).parts["latent"]).squeeze(1)
            found.append((log_hazard, batch))
        risks, parts = zip(*found, strict=True)
        self.baseline.fit(
            torch.cat(risks),
            Target.joined([part.target for part in parts]),
            strata=joined([part.strata for part in parts]),
            weights=joined([part.weights for part in parts]),
            ties=self.options.ties,
        )

    def latents(self, batch: Batch) -> dict[str, Tensor]:
        """ "latent" [B, L], where the encoder is frozen in the stage "head"."""
        if self._trains_encoder:
            raise ValueError("the stage 'head' trains the encoder too, so it cannot be cached: set cached = false")
        return {"latent": self.complete(self.encode(batch)).parts["latent"]}

    def losses(self, batch: Batch, stage: str, *, seed: int = 0) -> Losses:
        """Parts are "reconstruction" and "contrastive" of the stage "pretrain", and "survival" of the stage "head"."""
        self._check_stage(stage)
        return self._pretrain(batch, seed) if stage == "pretrain" else self._survival(batch)

    # ---- the stages

    def _pretrain(self, batch: Batch, seed: int) -> Losses:
        options = self.options
        tables = [self._table(batch, index) for index in range(len(self.inputs))]
        views = {"contrastive": 2, "masked": 1, "plain": 1}[options.objective]
        if options.objective == "plain":
            masks = [[torch.zeros_like(there) for _, there in tables]]
        else:
            masks = [self._mask(batch, stream_seed(seed, "view", view)) for view in range(views)]
        latents = []
        for mask in masks:
            shown = zip(tables, mask, strict=True)
            hidden = [
                self.autoencoder.hidden(index, self.autoencoder.first(index)(values, there & ~hide))
                for index, ((values, there), hide) in enumerate(shown)
            ]
            latents.append(self.autoencoder.latent(hidden))
        latent = torch.stack(latents)
        reconstruction = self._reconstruction(self.autoencoder.decode(latent), tables, masks)
        loss, parts = reconstruction, {"reconstruction": reconstruction.detach()}
        if options.objective == "contrastive":
            first, second = self.autoencoder.project(latent)
            contrastive = info_nce(first, second, temperature=options.temperature, form="nt_xent")
            loss = loss + options.contrastive_weight * contrastive
            parts["contrastive"] = contrastive.detach()
        return Losses(loss, parts)

    def _reconstruction(
        self, written: list[Tensor], tables: list[tuple[Tensor, Tensor]], masks: list[list[Tensor]]
    ) -> Tensor:
        """Mean over views of the losses of all modalities, of decoder outputs [V, B, d] each."""
        positions = "all" if self.options.objective == "plain" else self.options.positions
        panels = [index for index, modality in enumerate(self.inputs) if modality.kind == "panel"]
        total = written[0].new_zeros(())
        if panels:
            # The plain autoencoder has one mean over the columns of all its panels.
            sizes = [self.inputs[index].width for index in panels] if self.autoencoder.separate else None
            masked = [torch.cat([mask[index] for index in panels], dim=-1) for mask in masks]
            total = masked_bce_with_logits(
                torch.cat([written[index] for index in panels], dim=-1),
                torch.cat([tables[index][0] for index in panels], dim=-1),
                None if positions == "all" else torch.stack(masked),
                observed=torch.cat([tables[index][1] for index in panels], dim=-1),
                pos_weight=torch.cat([self._positive_weight(index) for index in panels]),
                sizes=sizes,
                positions=positions,
                reduction="mean",
            )
        for index in (index for index in range(len(self.inputs)) if index not in panels):
            values, there = tables[index]
            losses = [
                masked_mse(
                    view.unsqueeze(-1),
                    values.unsqueeze(-1),
                    None if positions == "all" else mask[index],
                    observed=there,
                    positions=positions,
                )
                for view, mask in zip(written[index], masks, strict=True)
            ]
            total = total + torch.stack(losses).mean()
        return total

    def _survival(self, batch: Batch) -> Losses:
        latent = batch.latents.get("latent")
        if latent is None:
            latent = self._latent(batch) if self._trains_encoder else self._frozen_latent(batch)
        outputs, target = self.head(latent), batch.target
        if self.baseline is None:
            survival = discrete_hazard_nll(outputs, target.time_bin, target.event > 0, weights=batch.weights)
            risk = hazard_risk(outputs.detach())
        else:
            log_hazard = outputs.squeeze(1)
            survival = cox_ph_loss(
                log_hazard,
                target.time,
                target.event > 0,
                entry=target.entry,
                strata=batch.strata,
                weights=batch.weights,
                ties=self.options.ties,
            )
            risk = log_hazard.detach()
        loss = survival
        if self.options.norm_penalty and self.training:
            norms = torch.stack([parameter.norm() for parameter in self.head.parameters()])
            loss = loss + self.options.norm_penalty * norms.sum()
        return Losses(loss, {"survival": survival.detach()}, risk)

    # ---- the parts

    @property
    def _trains_encoder(self) -> bool:
        """Whether the stage "head" trains what stands in front of the head."""
        return self.options.fine_tune or self.options.architecture == "mlp"

    def _latent(self, batch: Batch) -> Tensor:
        """Representations [B, L] of rows as they are, with a gradient where there is one."""
        hidden = []
        for index in range(len(self.inputs)):
            values, there = self._table(batch, index)
            first = self.autoencoder.first(index)(values, None if there.all() else there)
            hidden.append(self.autoencoder.hidden(index, first))
        return self.autoencoder.latent(hidden)

    @torch.no_grad()
    def _frozen_latent(self, batch: Batch) -> Tensor:
        """Representations [B, L] as they will be in prediction, whatever is being trained behind them."""
        training = self.autoencoder.training
        self.autoencoder.eval()
        try:
            return self._latent(batch)
        finally:
            self.autoencoder.train(training)

    def _table(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Values [B, d] of a modality and where there are any, bool [B, d]."""
        name = self.inputs[index].name
        values, owned = dense(batch.values[name]), batch.availability[:, index : index + 1]
        observed = batch.observed.get(name)
        return values, owned.expand_as(values) if observed is None else owned & observed

    def _mask(self, batch: Batch, seed: int) -> list[Tensor]:
        """Which entries [B, d] of each modality a view hides; draws belong to (seed, row)."""
        device, keys = batch.availability.device, batch.row_key
        masks = [
            row_marks(stream_seed(seed, "mask", modality.name), keys, modality.width, self.options.mask_ratio)
            for modality in self.inputs
        ]
        if self.options.modality_dropout and len(masks) > 1:
            lost = row_uniform(stream_seed(seed, "modalities"), keys, len(masks))
            # Of those that a row has, the one with the largest draw stays.
            lost = lost.masked_fill(~batch.availability.cpu(), -1.0)
            gone = (lost < self.options.modality_dropout) & (lost < lost.amax(1, keepdim=True))
            masks = [mask | gone[:, index : index + 1] for index, mask in enumerate(masks)]
        return [mask.to(device) for mask in masks]

    def _positive_weight(self, index: int) -> Tensor:
        """What a positive entry of each column of a panel weighs, [d]."""
        chosen, weight = self.options.pos_weight, getattr(self, f"positive_weight_{index}")
        if chosen == "none" or (chosen == "deep" and not is_deep(self.inputs[index], self.options)):
            return torch.ones_like(weight)
        return weight

    def _filling(self, fill: str, absent: Tensor) -> Tensor:
        """Representations [M, H] of modalities that are absent in some row [B, M]; 0 for the others."""
        found = []
        for index in range(len(self.inputs)):
            if not absent[:, index].any():
                found.append(self._nothing(1)[0])
                continue
            layer, mean = self.autoencoder.first(index), getattr(self, f"mean_{index}")
            if fill == "own":
                first = layer.absent()
            else:
                first = layer.constant(mean if fill == "mean" else torch.zeros_like(mean))
            found.append(self.autoencoder.hidden(index, first))
        return torch.stack(found)

    def _nothing(self, rows: int) -> Tensor:
        return self.mean_0.new_zeros(rows, self.autoencoder.width)

    def _check_stage(self, stage: str) -> None:
        if stage not in self.stages():
            raise ValueError(f"{self.name} has no stage {stage!r} here; it has: {', '.join(self.stages())}")
