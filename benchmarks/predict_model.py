"""An untrained MUST of the paper's size, where no trained model is given: what a prediction takes is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

import survcore
from survcore.data import Cohort
from survcore.data.preprocessor import Preprocessor
from survcore.inference.predictor import Predictor
from survcore.models.must import MUST

_ROWS, _PATCHES, _GROUPS = 64, 6, 6


def made_up_model(
    slide: str = "bag", *, features: int = 1536, columns: int = 2000, settings: dict[str, Any] | None = None
) -> Predictor:
    """Weights as they are before training, and statistics of made-up rows, which drawing needs.

    Args:
        slide: kind of the modality "slide": "bag", or "embedding", one vector per slide.
        features: of a patch, or of the embedding.
        columns: of the modality "genomics", in six groups, each a token.
        settings: of the model; None for the paper's.
    """
    draw = np.random.default_rng(0)
    ids = [f"row {number}" for number in range(_ROWS)]
    shape = (_PATCHES, features) if slide == "bag" else (features,)
    names = [f"gene {number}" for number in range(columns)]
    genomics = pd.DataFrame(draw.standard_normal((_ROWS, columns)), pd.Index(ids, name="row_id"), names)
    outcomes = pd.DataFrame({"row_id": ids, "time": 60 * draw.exponential(size=_ROWS), "event": np.arange(_ROWS) % 2})
    cohort = Cohort.from_frames(
        {"slide": {row: draw.standard_normal(shape, dtype=np.float32) for row in ids}, "genomics": genomics},
        outcomes,
        time_unit="months",
        kinds={"slide": slide},
        groups={"genomics": {f"group {group}": names[group::_GROUPS] for group in range(_GROUPS)}},
        name="made up",
    )
    preprocessor = Preprocessor.fit(cohort)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MUST(preprocessor.inputs, len(preprocessor.bins), settings or {}).eval()
        for diffusion in model.diffusion:
            # It begins at 0: a denoiser that pays no heed to time would not show whether another loop does.
            diffusion.denoiser.modulate.weight.normal_(std=0.02)
        batch = preprocessor.transform(cohort).batch(torch.arange(_ROWS))
        model.start_stage("diffusion", model.latents(batch), batch.availability)
    description = {
        "survcore_version": survcore.__version__,
        "system": model.name,
        "settings": model.settings,
        "time_bins": len(preprocessor.bins),
        "longest_follow_up": float(outcomes["time"].max()),
        "run": {"cohort": cohort.fingerprint()},
    }
    return Predictor(model, preprocessor, description)
