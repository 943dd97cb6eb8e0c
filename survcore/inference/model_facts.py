"""What a trained model is, what it was trained on, how it completes what is missing, and where its limits lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from survcore.data.messages import counted
from survcore.errors import CheckpointError
from survcore.inference.artifact import DESCRIPTION, WEIGHTS, load_artifact

# Fewer events than these, or fewer rows of a kind, are called few.
_FEW_EVENTS, _FEW_ROWS = 100, 20
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class _About:
    """What no description of a single model says: the paper, how missing modalities are completed, and the stage of
    training that learns to."""

    paper: str
    completion: str
    stage: str


_ABOUT = {
    "must": _About(
        "MUST: Modality-Specific Representation-Aware Transformer (arXiv 2603.26071)",
        "the part that a missing modality shares with the others is computed from those that are there; the part of "
        "its own is drawn by latent diffusion given the shared part, and the mean of the draws is taken",
        "diffusion",
    ),
    "surv_m2ac": _About(
        "Masked Multimodal Autoencoders with Contrastive Learning for Cancer Survival Representation Learning",
        "the encoder sees a learned token in the place of each of its entries, as it does of single missing entries "
        "and saw of those that pretraining hid",
        "pretrain",
    ),
}


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts of a model card (:func:`facts`) of a model folder, read without building the system.

    Raises:
        CheckpointError: the folder is no survcore model, of another version, or its weights are cut short or changed.
    """
    description, weights = load_artifact(path)
    folder = Path(path)
    if not (folder / DESCRIPTION).is_file():
        folder = folder / "model"
    size = sum((folder / file).stat().st_size for file in (DESCRIPTION, WEIGHTS))
    try:
        return facts(description, weights, bytes_on_disk=size)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a model as survcore writes it: {error!r}") from error


def facts(
    description: Mapping[str, Any], weights: Mapping[str, Tensor], *, bytes_on_disk: int | None = None
) -> dict[str, Any]:
    """What a model card tells, JSON-able; None where the description does not record it.

    A median follow-up that is not reached and a model for which no fold was left out are None, too; where these two are
    not recorded, the text "not recorded" stands.

    Args:
        description: of the model, with its preprocessor, as :func:`survcore.inference.artifact.load_artifact` gives it.
        weights: the tensors beside it.
        bytes_on_disk: of the model folder.

    Returns:
        ``model`` (system, paper, versions, seed, recipe), ``training`` (rows, events, endpoint, follow-up in months,
        time bins, fold left out), ``modalities`` (a list: kind, width, preprocessing, training rows that have and lack
        each), ``availability`` (training rows and events by pattern of modalities), ``completion`` (how missing
        modalities are filled in, and which can be), ``limits`` (sentences), ``size`` and ``diagnostics``.
    """
    found: dict[str, Any] = {
        "model": _model(description),
        "training": _training(description),
        "modalities": _modalities(description),
        "availability": description.get("training", {}).get("availability"),
        "completion": _completion(description),
    }
    found["limits"] = _limits(found)
    found["size"] = {
        "numbers": sum(tensor.numel() for tensor in weights.values()),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}),
        "bytes_on_disk": bytes_on_disk,
    }
    found["diagnostics"] = description.get("diagnostics")
    return found


def _model(description: Mapping[str, Any]) -> dict[str, Any]:
    about, run = _ABOUT.get(description["system"]), description.get("run") or {}
    versions = description.get("versions") or {}
    departures = description.get("recipe")
    return {
        "system": description["system"],
        "paper": about and about.paper,
        "survcore": description.get("survcore_version"),
        "versions": versions or None,
        "seed": run.get("seed"),
        "quick_recipe": departures and departures["quick"],
        "changed_settings": departures and departures["changes"],
        "stages": {
            name: {key: stage[key] for key in ("epochs", "learning_rate", "batch_size") if key in stage}
            for name, stage in (run.get("recipe") or {}).get("stages", {}).items()
        },
    }


def _training(description: Mapping[str, Any]) -> dict[str, Any]:
    run, training = description.get("run") or {}, description.get("training") or {}
    preprocessor = description.get("preprocessor") or {}
    told = ("cohort", "simulated", "rows", "patients", "events", "validation_rows", "causes", "delayed_entry")
    return {
        **{name: training.get(name) for name in told},
        "fingerprint": run.get("cohort"),
        "endpoint": preprocessor.get("endpoint", run.get("endpoint")),
        "time_unit": "months",
        # A median that is not reached is recorded as null, which is not the same as not recorded.
        "median_follow_up": training["median_follow_up"] if "median_follow_up" in training else NOT_RECORDED,
        "longest_follow_up": description.get("longest_follow_up"),
        "time_bin_edges": (preprocessor.get("bins") or {}).get("edges"),
        "fold_left_out": run.get("fold") if "fold" in run else NOT_RECORDED,
    }


def _modalities(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    preprocessor, training = description["preprocessor"], description.get("training") or {}
    own, patterns = training.get("modalities") or {}, training.get("availability")
    found = []
    for modality in preprocessor["inputs"]:
        name = modality["name"]
        counts = own.get(name, {})
        rows = counts.get("rows")
        accompanied = None
        if patterns is not None:
            sharing = (part for part in patterns if name in part["modalities"] and len(part["modalities"]) > 1)
            accompanied = sum(part["rows"] for part in sharing)
        found.append(
            {
                "name": name,
                "kind": modality["kind"],
                "width": modality["width"],
                "tokens": len(modality["groups"]) or None,
                "rows": rows,
                "rows_without": None if rows is None else training["rows"] - rows,
                "rows_with_another": accompanied,
                "missing_entries": counts.get("missing_entries"),
                "preprocessing": _preprocessing(preprocessor, modality),
            }
        )
    return found


def _preprocessing(preprocessor: Mapping[str, Any], modality: Mapping[str, Any]) -> dict[str, Any]:
    name, settings = modality["name"], preprocessor["settings"]
    own = settings["modalities"].get(name, {})
    if name not in preprocessor["tables"]:
        found = {"transform": preprocessor["transforms"][name]}
        return found | (
            {"order": preprocessor.get("orders", {}).get(name, "file")} if modality["kind"] == "bag" else {}
        )
    table = preprocessor["tables"][name]
    scale = own.get("scale", "none" if modality["kind"] == "panel" else settings["scale"])
    impute = own.get("impute", settings["impute"]) if preprocessor["imputes"] else None
    found = {"transform": table["transform"], "scale": scale, "clip": table["clip"], "impute": impute}
    least = own.get("least_active", settings.get("least_active", 0)) if modality["kind"] == "panel" else 0
    return found | ({"least_active": least, "columns_left_out": len(table["ignored"])} if least else {})


def _completion(description: Mapping[str, Any]) -> dict[str, Any]:
    """How missing modalities are filled in, and whether the stage that learns to do so was trained."""
    about = _ABOUT.get(description["system"])
    names = [modality["name"] for modality in description["preprocessor"]["inputs"]]
    stages = ((description.get("run") or {}).get("recipe") or {}).get("stages")
    trained = None
    if about and stages is not None:
        trained = len(names) > 1 and stages.get(about.stage, {}).get("epochs", 0) > 0
    return {
        "how": about and about.completion,
        "stage": about and about.stage,
        "stage_trained": trained,
        "cannot_be_completed": None if trained is None else [] if trained else names,
    }


def _limits(facts: Mapping[str, Any]) -> list[str]:
    training = facts["training"]
    found = []
    if training["simulated"]:
        found.append("The training rows are simulated: its predictions have no clinical meaning.")
    elif training["simulated"] is None:
        found.append("Whether the training rows are simulated is not recorded.")
    found.append("Not a medical device: not for decisions about the care of a patient.")
    found.append(
        "No validation and no calibration is stored with it: how well it ranks patients, and whether its survival "
        "probabilities hold, must come from an evaluation on patients that it was not trained on."
    )
    longest = training["longest_follow_up"]
    if longest is not None:
        found.append(f"Not valid beyond {longest:.1f} months, the longest follow-up of the training rows.")
    found += _about_events(training, facts["modalities"])
    found += _about_modalities(facts)
    if training["delayed_entry"] is False:
        found.append("Left truncation is not modelled: follow-up counts from time 0.")
    if training["causes"] == 1:
        found.append("Competing causes are not modelled: a patient who left for another cause counts as censored.")
    elif training["causes"] is None:
        found.append("Neither left truncation nor competing causes are known to be modelled.")
    return found


def _about_events(training: Mapping[str, Any], modalities: Sequence[Mapping[str, Any]]) -> list[str]:
    events, edges = training["events"], training["time_bin_edges"]
    if events is None:
        return []
    width = sum(modality["width"] for modality in modalities)
    parts = [f"{counted(events, 'event')} in training"]
    if edges:
        parts.append(f"{events / (len(edges) - 1):.0f} per time bin")
    if width:
        parts.append(f"{events / width:.2g} per input column or feature")
    verdict = f"; fewer than {_FEW_EVENTS} are few, and another training could rank patients otherwise"
    return [", ".join(parts) + (verdict if events < _FEW_EVENTS else "") + "."]


def _about_modalities(facts: Mapping[str, Any]) -> list[str]:
    completion, modalities = facts["completion"], facts["modalities"]
    found = []
    if barred := completion["cannot_be_completed"]:
        if len(modalities) == 1:
            found.append(f"It knows {barred[0]} alone: patients without it get no prediction.")
        else:
            found.append(
                f"The stage {completion['stage']!r} was not trained: where {' or '.join(barred)} is missing, only the "
                "fill-in by zeros predicts."
            )
    for modality in modalities:
        name, lacking, accompanied = modality["name"], modality["rows_without"], modality["rows_with_another"]
        if len(modalities) == 1 or lacking is None:
            continue
        if lacking < _FEW_ROWS:
            rows = "No training row lacked" if not lacking else f"Only {counted(lacking, 'training row')} lacked"
            found.append(f"{rows} {name}: for patients without it the model leans on what it completes.")
        if accompanied is not None and accompanied < _FEW_ROWS:
            found.append(
                f"Only {counted(accompanied, 'training row')} had {name} together with another modality: what is "
                "completed in its place is hardly learned."
            )
    lacking = {modality["name"]: modality["rows_without"] for modality in modalities}
    for pattern in facts["availability"] or []:
        absent = [name for name in lacking if name not in pattern["modalities"]]
        told = len(absent) == 1 and lacking[absent[0]] == pattern["rows"]
        if pattern["rows"] < _FEW_ROWS and not told:
            names = " + ".join(pattern["modalities"])
            found.append(f"Only {counted(pattern['rows'], 'training row')} had just {names}.")
    if facts["availability"] is None:
        found.append("Which modalities were missing from how many training rows is not recorded.")
    return found
