"""MUST: modality-specific representations by low-rank algebra; missing ones are drawn by latent diffusion.

After "MUST: Modality-Specific Representation-Aware Transformer" (arXiv 2603.26071), for any number of modalities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.batch import Batch, ModalityInput
from survcore.diffusion import Denoiser, LatentDiffusion, NoiseSchedule, check_options
from survcore.draws import row_normal, row_uniform, stream_seed
from survcore.errors import DataError
from survcore.models.base import FILLS, Completed, Encoded, Losses, System
from survcore.models.must_condition import SharedCondition
from survcore.models.must_encoder import MUSTEncoder, owners
from survcore.models.must_settings import MUSTSettings
from survcore.models.settings import read_settings
from survcore.nn import SharedSubspace, feed_forward, project
from survcore.nn.rows import Rows, take_keys, take_rows
from survcore.ops import LowRankDecomposition, discrete_hazard_nll, hazard_risk, low_rank_decompose


class MUST(System):
    """The MUST system on vectors, panels, embeddings, tokens and bags of patches.

    Notation of the paper: g_m "whole", u_hat_m "specific", c_hat_{m<-n} "cross" (queries of m, keys and values of n),
    and the "shared" part: the mean of all c_hat where a row has every modality, else recovered as the mean over the
    modalities it has of P (g_m - u_hat_m) (equation 20; zero for a row that has none). It never depends on how u is
    filled in.

    Stages: "warm_up" trains tokenizers and g with heads that are not used again (equation 12), "joint" everything up to
    the head (equation 16), "diffusion" one denoiser per modality on frozen u_hat (equation 19). A row that lacks a
    modality has zeros for its u_hat; it enters the survival loss and those algebraic terms whose modalities it has.
    """

    name = "must"
    modality_kinds = frozenset({"vector", "panel", "embedding", "tokens", "bag"})
    stage_names = ("warm_up", "joint", "diffusion")

    def __init__(self, inputs: Sequence[ModalityInput], bins: int, settings: dict[str, Any]) -> None:
        super().__init__(inputs, bins, settings)
        options = self.options = read_settings(MUSTSettings, settings, self.name)
        # A saved model is rebuilt from all of them, whatever the defaults are by then.
        self.settings = asdict(options)
        width, count, dropout = options.width, len(self.inputs), options.head_dropout
        self.encoder = MUSTEncoder(self.inputs, options)
        self.subspace = SharedSubspace(width, options.rank, options.basis)
        self.head = feed_forward((count + 1) * width, width, bins, dropout)
        self.warm_up_heads = nn.ModuleList(feed_forward(2 * width, width, bins, dropout) for _ in self.inputs)
        # A modality is drawn given the others: with one there is nothing to draw it from.
        drawn = self.modalities if count > 1 else ()
        self.diffusion = nn.ModuleList(self._latent_diffusion(name) for name in drawn)
        self.condition = SharedCondition(count, width)

    # ---- the protocol: encode, complete, predict

    def encode(self, batch: Batch) -> Encoded:
        """Parts "whole", "specific", "recovered" [B, M, D], "cross" [B, M, M, D], "shared" [B, D]; absent is 0."""
        return self._decompose(batch)[0]

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
        """Fill in the specific part of absent modalities; the shared part is the same for every fill.

        "own" draws ``draws`` times with ``steps`` steps of a ``solver`` ("ddim" or "dpm_solver++"), projects each draw
        by I - P and averages; the part "draws" [B, draws, M, D] then holds the specific parts of each. "mean" is the
        mean of u_hat over the training rows.

        Raises:
            ValueError: unknown fill, solver or precision.
            DataError: something is missing that only the stage "diffusion", which has not run, could fill in.
        """
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
        check_options(self._schedule(), draws=draws, num_steps=steps, solver=solver, precision=precision)
        absent = ~encoded.availability
        specific, shared = encoded.parts["specific"].clone(), encoded.parts["shared"]
        parts = {"specific": specific, "shared": shared}
        if fill == "own":
            parts["draws"] = specific.unsqueeze(1).repeat(1, draws, 1, 1)
        for index in range(len(self.modalities)):
            rows = absent[:, index].nonzero().squeeze(1)
            if fill == "zeros" or not len(rows):
                continue
            model = self._trained_diffusion(index, len(rows))
            if fill == "mean":
                specific[rows, index] = model.mean
                continue
            given = self.condition.of_recovered(encoded.parts["recovered"][rows], encoded.availability[rows])
            condition, keys = self._condition(index, given), take_keys(encoded.row_key, rows)
            parts["draws"][rows, :, index] = model.draw(
                condition,
                keys,
                seed=seed,
                draws=draws,
                num_steps=steps,
                eta=self.options.eta if solver == "ddim" else 0.0,
                solver=solver,
                precision=precision,
            )
        if fill == "own" and absent.any():
            drawn = parts["draws"].transpose(1, 2)[absent]
            drawn = drawn - project(drawn, self.subspace.exact())
            parts["draws"].transpose(1, 2)[absent] = drawn
            specific[absent] = drawn.mean(1)
        return Completed(parts, absent, fill)

    def predict(self, completed: Completed) -> dict[str, Tensor]:
        """``hazard_logits`` [B, K], and ``risk`` [B] = -sum_k S(k)."""
        logits = self._hazard_logits(completed.parts["specific"], completed.parts["shared"])
        return {"hazard_logits": logits, "risk": hazard_risk(logits.double())}

    def predict_draws(self, completed: Completed) -> Tensor | None:
        draws = completed.parts.get("draws")
        if draws is None:
            return None
        shared = completed.parts["shared"].repeat_interleave(draws.shape[1], dim=0)
        logits = self._hazard_logits(draws.flatten(0, 1), shared)
        return hazard_risk(logits.double()).unflatten(0, draws.shape[:2])

    # ---- the protocol: training

    def stages(self) -> tuple[str, ...]:
        return self.stage_names if self.diffusion else self.stage_names[:-1]

    def stage_parameters(self, stage: str) -> list[nn.Parameter]:
        self._check_stage(stage)
        modules = {
            "warm_up": (self.encoder.tokenizers, self.encoder.whole, self.warm_up_heads),
            "joint": (self.encoder, self.subspace, self.head),
            "diffusion": tuple(model.denoiser for model in self.diffusion),
        }
        return [parameter for module in modules[stage] for parameter in module.parameters()]

    def latents(self, batch: Batch) -> dict[str, Tensor]:
        """All that the stage "diffusion" reads: "specific" and "recovered" [B, M, D] and "shared" [B, D]."""
        parts = self.encode(batch).parts
        return {name: parts[name] for name in ("specific", "recovered", "shared")}

    def start_stage(self, stage: str, latents: dict[str, Tensor], availability: Tensor) -> None:
        """Before "diffusion": store the statistics of u_hat and of the conditions over the rows that have them."""
        self._check_stage(stage)
        if stage != "diffusion":
            return
        for index, model in enumerate(self.diffusion):
            model.fit_statistics(latents["specific"][availability[:, index], index])
        if self.options.condition_scale == "standard":
            self.condition.fit(latents["shared"], latents["recovered"], availability)

    def losses(self, batch: Batch, stage: str, *, seed: int = 0) -> Losses:
        """Parts are "survival", in the joint stage its three others, and "diffusion/<modality>" in the last one."""
        self._check_stage(stage)
        return {"warm_up": self._warm_up, "joint": self._joint, "diffusion": self._diffuse}[stage](batch, seed)

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """Mean cosines over the rows that own the parts: does the decomposition hold (the paper's figures 5 and 10)?"""
        encoded = self.encode(batch)
        names, cosines = self.part_cosines(encoded)
        means = cosines.nanmean(0)
        found: dict[str, float] = {}
        for a, b in combinations(self.modalities, 2):
            for left, right in (
                (f"specific {a}", f"specific {b}"),
                (f"shared {a}<-{b}", f"shared {b}<-{a}"),
                (f"whole {a}", f"whole {b}"),
            ):
                found[f"cos({left}, {right})"] = means[names.index(left), names.index(right)].item()
        parts, others = encoded.parts, encoded.availability.sum(1) - 1
        for index, name in enumerate(self.modalities):
            rows = encoded.availability[:, index] & (others > 0)
            shared = parts["cross"][rows, :, index].sum(1) / others[rows].unsqueeze(-1)
            rebuilt = parts["specific"][rows, index] + shared
            cosine = functional.cosine_similarity(parts["whole"][rows, index], rebuilt, dim=-1)
            found[f"cos(whole {name}, specific {name} + shared)"] = cosine.mean().item()
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def part_cosines(self, encoded: Encoded) -> tuple[list[str], Tensor]:
        """Between g_m "whole", u_hat_m "specific" and c_hat_{m<-n} "shared" of all modalities (figures 5 and 10)."""
        names, parts, owned = self.modalities, encoded.parts, encoded.availability
        found = {
            f"{kind} {name}": (parts[kind][:, index], owned[:, index])
            for kind in ("whole", "specific")
            for index, name in enumerate(names)
        }
        for m, n in self.encoder.pairs:
            found[f"shared {names[m]}<-{names[n]}"] = parts["cross"][:, m, n], owned[:, m] & owned[:, n]
        vectors, known = (torch.stack(columns, dim=1) for columns in zip(*found.values(), strict=True))
        units = functional.normalize(vectors, dim=-1)
        return list(found), (units @ units.mT).masked_fill(~(known[:, :, None] & known[:, None, :]), torch.nan)

    # ---- the stages

    def _warm_up(self, batch: Batch, seed: int) -> Losses:
        total = batch.availability.new_zeros((), dtype=torch.float32)
        for index, rows, whole in self.encoder.wholes(batch):
            noise_seed = stream_seed(seed, "warm_up", self.modalities[index])
            noise = row_normal(noise_seed, take_keys(batch.row_key, rows), whole.shape[1]).to(whole)
            logits = self.warm_up_heads[index](torch.cat((whole, self.options.warm_up_noise * noise), dim=1))
            total = total + self._survival(logits, batch, rows)
        return Losses(total, {"survival": total.detach()})

    def _joint(self, batch: Batch, seed: int) -> Losses:
        encoded, algebra = self._decompose(batch)
        logits = self._hazard_logits(encoded.parts["specific"], encoded.parts["shared"])
        survival = self._survival(logits, batch, slice(None))
        total = (
            survival
            + self.options.decomposition_weight * algebra.decomposition_loss
            + self.options.shared_weight * algebra.shared_loss
            + self.options.orthogonality_weight * algebra.orthogonality_loss
        )
        parts = {
            "survival": survival.detach(),
            "decomposition": algebra.decomposition_loss.detach(),
            "shared": algebra.shared_loss.detach(),
            "orthogonality": algebra.orthogonality_loss.detach(),
        }
        return Losses(total, parts, hazard_risk(logits.detach()))

    def _diffuse(self, batch: Batch, seed: int) -> Losses:
        specific, counted = batch.latents["specific"], batch.availability
        accompanied = counted & (counted.sum(1, keepdim=True) > 1)
        if not self.training:
            # Nobody asks a denoiser for a modality of a row that has nothing else, so such rows do not choose it where
            # the batch has others.
            counted = torch.where(accompanied.any(0), accompanied, counted)
        total, parts = specific.new_zeros(()), {}
        for index, rows in owners(counted):
            given = self._training_condition(batch, index, seed)
            latents, keys = specific[rows, index], take_keys(batch.row_key, rows)
            noise = row_normal(stream_seed(seed, "condition", self.modalities[index]), keys, given.shape[1]).to(given)
            condition = self._condition(index, given[rows] + self.options.condition_noise * noise)
            loss = self.diffusion[index].loss(latents, condition, keys, seed=seed, repeats=self.options.noise_repeats)
            parts[f"diffusion/{self.modalities[index]}"] = loss.detach()
            total = total + loss
        return Losses(total, parts)

    def _training_condition(self, batch: Batch, index: int, seed: int) -> Tensor:
        """Standardised shared part [B, D] on which the denoiser of a modality is trained."""
        latents, owned = batch.latents, batch.availability
        if self.options.diffusion_condition == "shared":
            return self.condition.of_shared(latents["shared"])
        others = owned.clone()
        others[:, index] = False
        # Any of the others may be missing when the denoiser is asked, most often none: half of the rows show all that
        # they have, the others a random part of it.
        seed = stream_seed(seed, "shown", self.modalities[index])
        uniform = row_uniform(seed, batch.row_key, owned.shape[1] + 1).to(owned.device)
        whole, each = uniform[:, -1:] < 0.5, uniform[:, :-1].masked_fill(~others, torch.inf)
        shown = others & (whole | (each < 0.5) | (each == each.amin(1, keepdim=True)))
        # A row that owns nothing else keeps its own part as a surrogate (the paper's supplement 8.2).
        shown = torch.where(others.any(1, keepdim=True), shown, owned)
        return self.condition.of_recovered(latents["recovered"], shown)

    # ---- the parts

    def _decompose(self, batch: Batch) -> tuple[Encoded, LowRankDecomposition]:
        """Representations of a batch and the algebra over them (equations 8 to 10)."""
        owned = batch.availability
        whole, specific, cross = self.encoder(batch)
        basis = self.subspace.exact()
        algebra = low_rank_decompose(basis, whole, specific, cross, owned)
        recovered = (whole - algebra.specific).transpose(0, 1)
        if self.options.project_recovered:
            recovered = project(recovered, basis)
        recovered = torch.where(owned.unsqueeze(-1), recovered, 0.0)
        shared = recovered.sum(1) / owned.sum(1, keepdim=True).clamp(min=1)
        if self.encoder.pairs:
            shared = torch.where(
                owned.all(1, keepdim=True), algebra.cross.sum((0, 1)) / len(self.encoder.pairs), shared
            )
        parts = {
            "whole": whole.transpose(0, 1),
            "specific": algebra.specific.transpose(0, 1),
            "cross": algebra.cross.permute(2, 0, 1, 3),
            "recovered": recovered,
            "shared": shared,
        }
        return Encoded(parts, owned, batch.row_key), algebra

    def _condition(self, index: int, shared: Tensor) -> Tensor:
        """[shared; CLS_u] of a modality, [n, 2, D], the class token frozen; or the shared part alone, [n, 1, D].

        ``shared`` [n, D] comes from :class:`SharedCondition`.
        """
        if not self.options.condition_class_token:
            return shared.unsqueeze(1)
        class_token = self.encoder.class_token(index).detach()
        return torch.stack((shared, class_token.expand_as(shared)), dim=1)

    def _hazard_logits(self, specific: Tensor, shared: Tensor) -> Tensor:
        """phi([u_hat_1; shared; u_hat_2; ...]) (equation 11)."""
        first, *others = specific.unbind(1)
        return self.head(torch.cat((first, shared, *others), dim=1))

    def _survival(self, logits: Tensor, batch: Batch, rows: Rows) -> Tensor:
        target = batch.target
        if target is None:
            raise ValueError("a training batch needs a target")
        time_bin, event, weights = target.time_bin[rows], target.event[rows], take_rows(batch.weights, rows)
        return discrete_hazard_nll(logits, time_bin, event, weights=weights, form=self.options.likelihood)

    def _latent_diffusion(self, name: str) -> LatentDiffusion:
        options = self.options
        denoiser = Denoiser(options.width, options.denoiser_layers, options.denoiser_heads, options.denoiser_attention)
        return LatentDiffusion(name, denoiser, self._schedule())

    def _schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.options.timesteps, prediction=self.options.denoiser_prediction)

    def _trained_diffusion(self, index: int, rows: int) -> LatentDiffusion:
        """The diffusion model that fills in a modality absent from some rows."""
        if not self.diffusion or not self.diffusion[index].fitted:
            reason = "the stage 'diffusion' has not run" if self.diffusion else "the model knows no other modality"
            raise DataError(f"{self.modalities[index]!r} is absent in {rows} rows and cannot be filled in: {reason}")
        return self.diffusion[index]

    def _check_stage(self, stage: str) -> None:
        if stage not in self.stages():
            raise ValueError(f"{self.name} has no stage {stage!r} here; it has: {', '.join(self.stages())}")
