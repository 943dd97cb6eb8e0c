"""`survcore bench shortcuts`: its numbers against direct computation on a small evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import survcore
from survcore.benchmarks import pages, results, shortcuts
from survcore.benchmarks.shortcuts import REFERENCE, SHORTCUTS, Cost, measure
from survcore.cli import main
from survcore.errors import CheckpointError, DataError
from survcore.evaluation.run import model_folder
from survcore.metrics import concordance_index

TINY = {
    "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1},
    "stages": {
        "warm_up": {"epochs": 1},
        "joint": {"epochs": 2},
        "diffusion": {"epochs": 1, "steps_per_epoch": 5},
    },
}
SEED = 5


@pytest.fixture(scope="module")
def cohort() -> survcore.Cohort:
    """Two folds of 45 rows; every ninth row lacks genomics."""
    whole = survcore.simulate_cohort(90, seed=4)
    return replace(whole.without("genomics", np.arange(90) % 9 == 0), fold=np.arange(90) % 2)


@pytest.fixture(scope="module")
def folders(cohort: survcore.Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An evaluation, and the cohort it was made of."""
    path = tmp_path_factory.mktemp("shortcuts")
    cohort.to_folder(path / "cohort")
    survcore.evaluate("must", cohort, out=path / "evaluation", changes=TINY, rivals=False, seed=SEED)
    return path / "evaluation", path / "cohort"


@pytest.fixture(scope="module")
def costs(folders: tuple[Path, Path]) -> dict[tuple[str, str], Cost]:
    found = measure(folders[0], survcore.Cohort.from_folder(folders[1]), patients=3, resamples=100)
    return {(cost.scenario, cost.shortcut.name): cost for cost in found}


def shown(cohort: survcore.Cohort, fold: int, scenario: str) -> survcore.Cohort:
    """The test rows of a scenario, as a user would make them."""
    test = cohort.where(fold=fold, has=list(cohort.modalities))
    return test if scenario == "complete" else test.without(scenario.removeprefix("without "))


def direct(
    folders: tuple[Path, Path], scenario: str, options: dict[str, object], dtype: str = "float32"
) -> list[tuple[survcore.Cohort, np.ndarray]]:
    """Rows and risks of every fold, by the public API alone."""
    cohort, found = survcore.Cohort.from_folder(folders[1]), []
    for fold in (0, 1):
        rows = shown(cohort, fold, scenario)
        model = survcore.load(model_folder(folders[0], fold, "must"), "cpu", dtype=dtype)
        found.append((rows, model.predict(rows, **{"seed": SEED, **options})["risk"].to_numpy()))
    return found


def test_scenarios_and_their_shortcuts(costs: dict[tuple[str, str], Cost]) -> None:
    every = [REFERENCE.name, *(part.name for part in SHORTCUTS)]
    encoders = [REFERENCE.name, "bfloat16 encoders", "dpm_solver++ 15, all bfloat16"]
    expected = {"complete": encoders, "without pathology": every, "without genomics": every}
    assert list(costs) == [(scenario, name) for scenario, names in expected.items() for name in names]
    assert {cost.rows for cost in costs.values()} == {80}
    assert all(0 < cost.milliseconds < 1e4 and cost.timed == 3 for cost in costs.values())


def test_the_reference_costs_nothing(costs: dict[tuple[str, str], Cost]) -> None:
    for scenario in ("complete", "without pathology", "without genomics"):
        cost = costs[scenario, REFERENCE.name]
        gap = cost.difference
        assert (gap.value, gap.lower, gap.upper) == (0, 0, 0)
        assert cost.largest_change == cost.largest_relative == 0


@pytest.mark.parametrize("scenario", ["without pathology", "without genomics"])
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        ("ddim 50, another seed", {"seed": SEED + 1}, "float32"),
        ("ddim 10", {"steps": 10}, "float32"),
        ("dpm_solver++ 15", {"steps": 15, "solver": "dpm_solver++"}, "float32"),
        ("bfloat16 sampling", {"precision": "bfloat16"}, "float32"),
        ("bfloat16 encoders", {"precision": "full"}, "bfloat16"),
        ("dpm_solver++ 15, all bfloat16", {"steps": 15, "solver": "dpm_solver++", "precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_numbers_are_those_of_a_direct_computation(
    costs: dict[tuple[str, str], Cost],
    folders: tuple[Path, Path],
    scenario: str,
    name: str,
    options: dict[str, object],
    dtype: str,
) -> None:
    cost = costs[scenario, name]
    ours, theirs = direct(folders, scenario, options, dtype), direct(folders, scenario, {})
    changes, relative, indices = [], [], []
    for (rows, risk), (_, expected) in zip(ours, theirs, strict=True):
        outcome = rows.endpoint()
        pair = [float(concordance_index(outcome.time, outcome.event > 0, values)) for values in (risk, expected)]
        indices.append(pair)
        changes.append(np.abs(risk - expected) / expected.std(ddof=1))
        relative.append(np.abs(risk - expected) / np.abs(expected))
    mean, of_reference = np.mean(indices, axis=0)
    assert cost.c_index == pytest.approx(mean)
    assert cost.difference.value == pytest.approx(mean - of_reference, abs=1e-12)
    assert cost.difference.lower <= cost.difference.value <= cost.difference.upper
    found = (cost.median_change, cost.largest_change, cost.median_relative, cost.largest_relative)
    changes, relative = np.concatenate(changes), np.concatenate(relative)
    expected = (np.median(changes), changes.max(), np.median(relative), relative.max())
    # Rows are encoded in other batches than here, which moves the last digits.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert cost.largest_change > 0


def test_fewer_patches_where_a_modality_is_a_bag(tmp_path: Path) -> None:
    kinds = {"slide": "bag", "genomics": "tokens"}
    cohort = survcore.simulate_cohort(24, seed=4, modalities=kinds, patches=(5, 12))
    cohort = replace(cohort, fold=np.arange(24) % 2)
    changes = {**TINY, "training": {"validation_fraction": 0.0}}
    changes["stages"] = {**TINY["stages"], "warm_up": {"epochs": 0}, "joint": {"epochs": 1}}
    folder = model_folder(tmp_path, 1, "must")
    model = survcore.fit("must", cohort, changes=changes, fold=1, out=folder, seed=SEED)
    facts = {"system": "must", "endpoint": "primary", "seed": SEED, "folds": [1], "training_missing": None}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    found = measure(tmp_path, cohort, max_patches=(6,), patients=1, resamples=10)
    costs = {cost.scenario: cost for cost in found if cost.shortcut.name == "6 patches"}
    assert list(costs) == ["complete", "without slide", "without genomics"]
    for scenario, cost in costs.items():
        rows = shown(cohort, 1, scenario)
        few, all_patches = (model.outputs(rows, seed=SEED, max_patches=most).heads["risk"] for most in (6, 0))
        expected = np.abs(few - all_patches).max() / all_patches.std(ddof=1)
        assert cost.largest_change == pytest.approx(expected, rel=1e-3, abs=1e-6)
        # Patches do not matter to those whose slide is missing.
        assert (cost.largest_change > 0) == (scenario != "without slide")


def test_the_command_prints_and_writes_what_it_measured(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ["bench", "shortcuts", *map(str, folders), "--patients", "1", "--resamples", "50", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = results.read(out)
    assert len(found) == 3 + 2 * (1 + len(SHORTCUTS))
    assert {record["op"] for record in found} == {"shortcuts"} and {record["cohort"] for record in found} == {
        "simulated"
    }
    record = next(part for part in found if part["shortcut"] == "ddim 10" and part["scenario"] == "without pathology")
    assert (record["steps"], record["solver"], record["dtype"], record["rows"]) == (10, "ddim", "float32", 80)
    assert record["simulated"] is True and record["threads"] == torch.get_num_threads() and record["torch"]
    line = next(
        text for text in result.output.splitlines() if text.startswith("without pathology") and "ddim 10 " in text
    )
    assert f"{record['c_index']:.4f}" in line and f"{record['difference']:+.4f}" in line
    json.loads(next(out.iterdir()).read_text().splitlines()[0], parse_constant=lambda name: pytest.fail(name))


def test_undefined_numbers_are_null_in_json(costs: dict[tuple[str, str], Cost], folders: tuple[Path, Path]) -> None:
    cost = replace(costs["complete", REFERENCE.name], median_change=float("nan"))
    (record,) = shortcuts.records([cost], folders[0], {})
    assert record["median_change"] is None and record["largest_change"] == 0


def test_another_cohort_and_an_unfinished_evaluation_are_refused(
    folders: tuple[Path, Path], cohort: survcore.Cohort, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not a finished evaluation"):
        measure(tmp_path, cohort)
    with pytest.raises(CheckpointError, match="another cohort"):
        measure(folders[0], cohort.select(np.arange(2, 90)))
    with pytest.raises(DataError, match="no modality of .* is a bag"):
        measure(folders[0], cohort, max_patches=(8,))


def test_every_shortcut_has_a_name_of_its_own_and_differs_from_the_reference() -> None:
    assert len({part.name for part in (REFERENCE, *SHORTCUTS)}) == 1 + len(SHORTCUTS)
    assert all(replace(part, name=REFERENCE.name) != REFERENCE for part in SHORTCUTS)


def test_the_table_has_a_column_per_cohort_and_missing_modality(tmp_path: Path) -> None:
    common = {
        **results.context("cpu", "float32", 1),
        "op": "shortcuts",
        "measured": "shortcut",
        "c_index": 0.6234,
        "median_change": 0.0,
    }
    rows = [
        {**common, "cohort": "luad", "scenario": "complete", "shortcut": "ddim 50", "largest_change": 0.0},
        {**common, "cohort": "luad", "scenario": "without slide", "shortcut": "ddim 50", "largest_change": 0.0},
        {**common, "cohort": "stad", "scenario": "without omics", "shortcut": "ddim 50", "largest_change": 0.0},
        {**common, "cohort": "stad", "scenario": "without omics", "shortcut": "ddim 10", "largest_change": 0.5}
        | {"difference": -0.00214, "median_change": 0.01},
    ]
    results.write(tmp_path, "shortcuts_luad", "cpu", "float32", rows)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench shortcuts -->\nold\n<!-- /bench -->\n")
    assert pages.write([page], tmp_path) == [page]
    lines = page.read_text().splitlines()
    assert lines[1] == "| shortcut | luad, without slide | stad, without omics |"
    assert lines[3] == "| ddim 50 | C-index 0.623 | C-index 0.623 |"
    assert lines[4] == "| ddim 10 |  | -0.0021 (0.0100) |"
    results.write(tmp_path, "shortcuts_luad", "cpu", "float32", [])
    with pytest.raises(ValueError, match="no results of shortcuts"):
        pages.write([page], tmp_path)
