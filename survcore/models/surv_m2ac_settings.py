"""Settings of Surv-M2AC and where their defaults come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

ARCHITECTURES = ("surv_m2ac", "vanilla", "mlp")
FUSIONS = ("bi_film", "none")
OBJECTIVES = ("contrastive", "masked", "plain")
POSITIONS = ("masked", "visible", "all")
POS_WEIGHTS = ("deep", "all", "none")
HEADS = ("cox", "discrete_hazard")
BLOCKS = ("res", "se")


@dataclass(frozen=True)
class SurvM2ACSettings:
    """Defaults are those of the run that the paper reports, as its released code has them; "ours" where it has none.

    Attributes:
        architecture: "surv_m2ac"; "vanilla", one autoencoder over the joined columns; or "mlp", the head on the columns
            themselves (DeepSurv), without an autoencoder. The last two are the paper's comparisons.
        fusion: "bi_film", or "none": the modalities' representations joined as they are (the paper's comparison).
        hidden, latent, projection: H 512, L 256, and the width of the contrastive head 128.
        expansion: of residual blocks (1).
        two_layer_residual: with expansion 1 the released code leaves the second Linear of a residual block out; True
            keeps it, as the paper draws it.
        deep_blocks, light_blocks: blocks of the encoders of deep modalities ("res res se", the paper's genes) and of
            the others ("res se", its clinical features).
        deep_from: modalities of at least so many columns are deep (ours: the paper has 1,165 and 14).
        dropout: of encoders and fusion (.2); twice that in deep encoders, at most .9.
        objective: "contrastive" (two masked views, reconstruction and NT-Xent), "masked" (one masked view) or "plain"
            (reconstruction of what is shown).
        mask_ratio: probability that an entry is hidden from a view (the released grid has .3 and .5).
        modality_dropout: probability that a view loses a whole modality, though never the last one (ours; the paper 0).
        positions: entries of a masked view that reconstruction scores: "masked" (released code), "visible" (the
            paper's equation 1) or "all".
        pos_weight: modalities whose positive entries weigh as much as the negative ones: "deep" (released code, there
            of the whole cohort, here of the training rows), "all" or "none" (paper).
        contrastive_weight: beta (released runs .5).
        temperature: of NT-Xent (.2).
        head: "cox", or "discrete_hazard" over the time bins (ours).
        head_hidden: widths of the head's layers ("128 64").
        head_dropout: (.3).
        norm_penalty: weight of the sum of the norms of the head's parameters in its loss (released code 1e-4).
        fine_tune: train the encoders with the head; else it learns on frozen representations (paper).
        ties: of the partial likelihood, "efron" or "breslow" (the released code ignores ties).
        strata: number of strata of the training rows; set by :func:`survcore.fit`.
    """

    architecture: str = "surv_m2ac"
    fusion: str = "bi_film"
    hidden: int = 512
    latent: int = 256
    projection: int = 128
    expansion: int = 1
    two_layer_residual: bool = False
    deep_blocks: str = "res res se"
    light_blocks: str = "res se"
    deep_from: int = 100
    dropout: float = 0.2
    objective: str = "contrastive"
    mask_ratio: float = 0.3
    modality_dropout: float = 0.0
    positions: str = "masked"
    pos_weight: str = "deep"
    contrastive_weight: float = 0.5
    temperature: float = 0.2
    head: str = "cox"
    head_hidden: str = "128 64"
    head_dropout: float = 0.3
    norm_penalty: float = 1e-4
    fine_tune: bool = False
    ties: str = "efron"
    strata: int = 0

    def __post_init__(self) -> None:
        choices = {
            "architecture": ARCHITECTURES,
            "fusion": FUSIONS,
            "objective": OBJECTIVES,
            "positions": POSITIONS,
            "pos_weight": POS_WEIGHTS,
            "head": HEADS,
            "ties": ("efron", "breslow"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"setting {name!r} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("deep_blocks", "light_blocks"):
            if unknown := [block for block in getattr(self, name).split() if block not in BLOCKS]:
                raise ValueError(f"setting {name!r} is a list of {' and '.join(BLOCKS)}, got {unknown[0]!r}")
        widths = self.head_hidden.split()
        if not all(width.isdigit() and int(width) > 0 for width in widths):
            raise ValueError(f"setting 'head_hidden' is a list of widths such as '128 64', got {self.head_hidden!r}")
        if self.architecture == "mlp" and not widths:
            raise ValueError("setting 'head_hidden' of architecture 'mlp' needs at least one width")
        for name in ("hidden", "latent", "projection", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must be at least 1, got {getattr(self, name)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"setting {field.name!r} must be finite, got {value}")
        for name in ("dropout", "head_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"setting 'mask_ratio' must lie between 0 and 1, got {self.mask_ratio}")
        if self.temperature <= 0:
            raise ValueError(f"setting 'temperature' must be above 0, got {self.temperature}")
        for name in ("contrastive_weight", "norm_penalty", "deep_from", "strata"):
            if getattr(self, name) < 0:
                raise ValueError(f"setting {name!r} must not be negative, got {getattr(self, name)}")
