"""Settings of MUST and where their defaults come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from survcore.diffusion.denoiser import ATTENTIONS
from survcore.diffusion.schedule import PREDICTIONS
from survcore.nn.shared_subspace import BASES

CONDITIONS = ("shared", "recovered")
LEAST_TIMESTEPS = 50
CONDITION_SCALES = ("standard", "none")


@dataclass(frozen=True)
class MUSTSettings:
    """Defaults are the paper's, where it is silent those of code it builds on (CMTA, TransMIL, MCAT), else ours.

    Attributes:
        width: D of tokens and representations (paper: 256).
        rank: r of the shared subspace (paper: 64).
        basis: "orthonormal", which makes P idempotent as the paper's algebra needs, or "free" as printed.
        heads: attention heads (CMTA: 8).
        layers: of the self-attention behind g (CMTA: 2). Bags have TransMIL's two in every place.
        specific_layers: of the self-attention behind u.
        pooling_layers: behind each cross-attention.
        landmarks: of the Nystrom attention over bags; 0 for half the width (TransMIL).
        expansion: of a feed-forward part in each attention layer; 0 for none (TransMIL's layer has none).
        token_dropout: in the tokenizers (MCAT: .25).
        attention_dropout: behind each attention (TransMIL: .1).
        head_dropout: in the survival heads (MCAT: .25).
        warm_up_noise: sigma of the noise beside g in the warm-up (paper: .1).
        decomposition_weight, shared_weight, orthogonality_weight: of the losses (paper: 1, 1, .5). The first two weigh
            squared norms, sums over D dimensions: at 1, and in cohorts of a few hundred patients at .1, they leave the
            survival loss little say and all patients nearly the same risk.
        likelihood: "likelihood", or "must_eq6" for the printed equation 6.
        project_recovered: project the shared part that is recovered where a modality is missing (equation 20 does not).
        denoiser_layers, denoiser_heads: of each latent diffusion model (paper: 4 layers).
        denoiser_attention: "prefix" or "joint", see :class:`survcore.diffusion.Denoiser`.
        denoiser_prediction: "velocity", or "noise" as in equation 19, see :class:`survcore.diffusion.NoiseSchedule`.
        diffusion_condition: what the denoiser of a modality is trained on: the part "recovered" from the row's other
            modalities, random subsets of them, which is what it will see where its own is missing; or the "shared" part
            of the row (paper).
        condition_scale: "standard" for conditions standardised per dimension over the training rows, or "none" (the
            paper names no scaling).
        condition_noise: standard deviation of the noise added to the condition in training, in units of a standardised
            one, which keeps denoisers from learning few patients by heart (the paper has none).
        condition_class_token: give the denoiser the class token of u beside the shared part (paper), or the shared part
            alone (its ablation).
        noise_repeats: noisy versions of each row per training step of the denoisers.
        timesteps: T of the noise schedule, at least the 50 that are sampled unless asked otherwise.
        eta: of the sampler (paper: 0).
    """

    width: int = 256
    rank: int = 64
    basis: str = "orthonormal"
    heads: int = 8
    layers: int = 2
    specific_layers: int = 1
    pooling_layers: int = 1
    landmarks: int = 0
    expansion: int = 0
    token_dropout: float = 0.25
    attention_dropout: float = 0.1
    head_dropout: float = 0.25
    warm_up_noise: float = 0.1
    decomposition_weight: float = 0.01
    shared_weight: float = 0.01
    orthogonality_weight: float = 0.5
    likelihood: str = "likelihood"
    project_recovered: bool = True
    denoiser_layers: int = 4
    denoiser_heads: int = 8
    denoiser_attention: str = "prefix"
    denoiser_prediction: str = "velocity"
    diffusion_condition: str = "recovered"
    condition_scale: str = "standard"
    condition_noise: float = 0.5
    condition_class_token: bool = True
    noise_repeats: int = 4
    timesteps: int = 1000
    eta: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "basis": BASES,
            "likelihood": ("likelihood", "must_eq6"),
            "denoiser_attention": ATTENTIONS,
            "denoiser_prediction": PREDICTIONS,
            "diffusion_condition": CONDITIONS,
            "condition_scale": CONDITION_SCALES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"setting {name!r} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        counts = ("width", "heads", "layers", "specific_layers", "pooling_layers", "denoiser_layers", "denoiser_heads")
        for name in (*counts, "noise_repeats", "timesteps"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must be at least 1, got {getattr(self, name)}")
        if self.timesteps < LEAST_TIMESTEPS:
            raise ValueError(f"setting 'timesteps' must be at least {LEAST_TIMESTEPS}, got {self.timesteps}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"setting {field.name!r} must be finite, got {value}")
        for name in ("token_dropout", "attention_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must lie in [0, 1), got {getattr(self, name)}")
        weights = ("decomposition_weight", "shared_weight", "orthogonality_weight")
        for name in ("warm_up_noise", "condition_noise", "landmarks", "expansion", "eta", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"setting {name!r} must not be negative, got {getattr(self, name)}")
