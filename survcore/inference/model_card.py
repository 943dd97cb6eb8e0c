"""A model card in plain text: the facts of a trained model, told to those who will use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from survcore.data.messages import counted
from survcore.inference.model_facts import NOT_RECORDED

_INDENT = "  "


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of a model as plain text, from :func:`survcore.inference.model_facts.read_facts`."""
    model, training, size = facts["model"], facts["training"], facts["size"]
    lines = [f"{model['system']}, a survival model", ""]
    if training["simulated"]:
        lines += ["*** TRAINED ON SIMULATED PATIENTS: ITS PREDICTIONS HAVE NO CLINICAL MEANING ***", ""]
    lines += ["What it is", *_pairs(_model_lines(model))]
    lines += ["", "What it was trained on", *_pairs(_training_lines(training))]
    lines += ["", "Modalities", *_modality_lines(facts["modalities"], training["rows"])]
    lines += ["", "Training rows by the modalities they have", *_pattern_lines(facts["availability"], training["rows"])]
    lines += ["", "What it is for", *_purpose_lines(facts)]
    lines += ["", "Limits", *(f"{_INDENT}- {limit}" for limit in facts["limits"])]
    numbers = f"{size['numbers']:,} ({', '.join(size['types'])}; stored statistics of training rows included)"
    lines += ["", "Size", *_pairs({"numbers": numbers, "bytes on disk": _told(size["bytes_on_disk"], "{:,}")})]
    if facts["diagnostics"]:
        diagnostics = {name: f"{value:.3f}" for name, value in facts["diagnostics"].items()}
        lines += ["", "Diagnostics on training rows", *_pairs(diagnostics)]
    return "\n".join(lines)


def _model_lines(model: Mapping[str, Any]) -> dict[str, str]:
    versions, quick, changes = model["versions"], model["quick_recipe"], model["changed_settings"]
    stages = (f"{name} {stage.get('epochs', '?')}" for name, stage in model["stages"].items())
    return {
        "system": model["system"],
        "paper": _told(model["paper"]),
        "trained with": f"survcore {_told(model['survcore'])}"
        + "".join(f", {name} {found}" for name, found in (versions or {}).items()),
        "seed": _told(model["seed"]),
        "recipe": NOT_RECORDED if quick is None else "quick, for a first look" if quick else "full",
        "changed settings": NOT_RECORDED
        if changes is None
        else ", ".join(f"{name} = {value!r}" for name, value in changes.items()) or "none",
        "epochs at most": ", ".join(stages) or NOT_RECORDED,
    }


def _training_lines(training: Mapping[str, Any]) -> dict[str, str]:
    simulated = training["simulated"]
    kind = {True: "SIMULATED", False: "patients, not simulated", None: f"whether simulated: {NOT_RECORDED}"}[simulated]
    median, fold = training["median_follow_up"], training["fold_left_out"]
    edges = training["time_bin_edges"]
    if edges:
        edges = ", ".join("open" if edge is None else f"{edge:.1f}" for edge in edges)
    return {
        "cohort": f"{_told(training['cohort'])} ({kind}; fingerprint {_told(training['fingerprint'])})",
        "rows": f"{_told(training['rows'])} of {_told(training['patients'])} patients, "
        f"{_told(training['validation_rows'])} more chose the checkpoint",
        "events": _told(training["events"]),
        "endpoint": f"{_told(training['endpoint'])}, in {training['time_unit']}",
        "follow-up": f"median {'not reached' if median is None else _told(median, '{:.1f}')} (reverse Kaplan-Meier), "
        f"longest {_told(training['longest_follow_up'], '{:.1f}')}",
        "time bins": f"edges {edges or NOT_RECORDED}",
        "left out": "no fold" if fold is None else f"fold {fold}" if isinstance(fold, int) else fold,
    }


def _modality_lines(modalities: Sequence[Mapping[str, Any]], rows: int | None) -> list[str]:
    lines = []
    for modality in modalities:
        kind = modality["kind"] + (f" ({modality['tokens']} tokens)" if modality["tokens"] else "")
        known = NOT_RECORDED if modality["rows"] is None else f"{modality['rows']} of {rows}"
        steps = modality["preprocessing"]
        told = [f"{name.replace('_', ' ')} {value}" for name, value in steps.items() if value not in (None, "none")]
        lines.append(
            f"{_INDENT}{modality['name']}: {kind}, width {modality['width']}; training rows that have it: {known}"
        )
        lines.append(
            f"{_INDENT * 2}missing entries {_told(modality['missing_entries'])}; "
            f"preprocessing: {', '.join(told) or 'none'}"
        )
    return lines


def _pattern_lines(patterns: Sequence[Mapping[str, Any]] | None, rows: int | None) -> list[str]:
    if patterns is None:
        return [f"{_INDENT}{NOT_RECORDED}"]
    return [
        f"{_INDENT}{' + '.join(part['modalities'])}: {part['rows']} of {rows} ({counted(part['events'], 'event')})"
        for part in patterns
    ]


def _purpose_lines(facts: Mapping[str, Any]) -> list[str]:
    completion = facts["completion"]
    longest = facts["training"]["longest_follow_up"]
    until = "the longest follow-up of the training rows" if longest is None else f"{longest:.1f} months"
    lines = [f"{_INDENT}Risk and survival up to {until} for patients like those of the training rows."]
    if len(facts["modalities"]) > 1 and not completion["cannot_be_completed"]:
        lines.append(f"{_INDENT}Patients may lack any of the modalities, but not all of them.")
    lines.append(f"{_INDENT}How a missing modality is completed: {_told(completion['how'])}.")
    state = {True: "trained", False: "not trained", None: NOT_RECORDED}[completion["stage_trained"]]
    lines.append(f"{_INDENT}The stage that learns to ({_told(completion['stage'])}): {state}.")
    return lines


def _pairs(values: Mapping[str, str]) -> list[str]:
    width = max(map(len, values))
    return [f"{_INDENT}{name.ljust(width)}  {value}" for name, value in values.items()]


def _told(value: Any, form: str = "{}") -> str:
    return NOT_RECORDED if value is None else value if isinstance(value, str) else form.format(value)
