"""Model cards: the facts of a model folder, and their telling."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import survcore
from survcore.cli import main
from survcore.data.endpoint import median_follow_up
from survcore.errors import CheckpointError
from survcore.inference.artifact import load_artifact, save_artifact
from survcore.inference.model_card import model_card
from survcore.inference.model_facts import facts, read_facts
from survcore.models import system_names
from survcore.training.description import departures
from survcore.training.fit import training_parts
from survcore.training.recipe import load_recipe

CHANGES = {
    "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1},
    "stages": {
        "warm_up": {"epochs": 1},
        "joint": {"epochs": 1},
        "diffusion": {"epochs": 1, "steps_per_epoch": 2},
    },
}
ABSENT = 9


@pytest.fixture(scope="module")
def cohort() -> survcore.Cohort:
    """90 simulated rows of 45 patients; ABSENT rows lack genomics, three single entries of pathology are missing."""
    whole = survcore.simulate_cohort(90, seed=1)
    whole.patient_ids[:] = np.repeat(whole.patient_ids[::2], 2)
    whole.modalities["pathology"].table[:3, 0] = np.nan
    return whole.without("genomics", np.arange(90) % 10 == 0)


@pytest.fixture(scope="module")
def trained(cohort: survcore.Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    survcore.fit("must", cohort, changes={**CHANGES, "training": {"validation_fraction": 0.0}}, seed=3, out=out)
    return out


def described(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["describe", str(folder), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_facts_are_those_of_the_training_rows(cohort: survcore.Cohort, trained: Path) -> None:
    found, outcome = read_facts(trained), cohort.endpoint()
    training = found["training"]
    assert (training["rows"], training["patients"], training["validation_rows"]) == (90, 45, 0)
    assert training["events"] == (outcome.event > 0).sum()
    assert training["simulated"] is True and training["fold_left_out"] is None
    assert training["median_follow_up"] == median_follow_up(outcome)
    assert training["longest_follow_up"] == outcome.time.max()
    assert training["fingerprint"] == cohort.fingerprint()
    assert training["time_bin_edges"] == load_artifact(trained)[0]["preprocessor"]["bins"]["edges"]
    lacking = cohort.where(lacks=["genomics"]).endpoint().event > 0
    assert found["availability"] == [
        {"modalities": ["pathology", "genomics"], "rows": 81, "events": training["events"] - lacking.sum()},
        {"modalities": ["pathology"], "rows": ABSENT, "events": lacking.sum()},
    ]
    pathology, genomics = found["modalities"]
    assert (pathology["rows"], pathology["rows_without"], pathology["missing_entries"]) == (90, 0, 3)
    assert (genomics["rows"], genomics["rows_without"], genomics["rows_with_another"]) == (81, ABSENT, 81)
    assert (pathology["kind"], pathology["width"]) == ("tokens", cohort.modalities["pathology"].spec.width)
    assert pathology["preprocessing"] == {"transform": "none", "scale": "standard", "clip": 5.0, "impute": "median"}
    assert found["model"]["seed"] == 3 and found["model"]["versions"]["torch"]
    assert found["completion"]["stage_trained"] and found["completion"]["cannot_be_completed"] == []


def test_size_is_that_of_the_files(trained: Path) -> None:
    size = read_facts(trained)["size"]
    assert size["numbers"] == sum(
        tensor.numel() for tensor in survcore.load(trained, "cpu").system.state_dict().values()
    )
    assert size["bytes_on_disk"] == sum(file.stat().st_size for file in (trained / "model").iterdir())
    assert read_facts(trained / "model")["size"] == size


def test_json_holds_the_same_facts(trained: Path) -> None:
    told = json.loads(described(trained, "--json"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert told == read_facts(trained)


def test_the_card_warns_of_simulated_patients_and_of_rows_that_training_hardly_had(trained: Path) -> None:
    card = described(trained)
    assert "SIMULATED PATIENTS" in card.split("What it is")[0]
    limits = card.split("\nLimits\n")[1].split("\nSize\n")[0]
    for expected in (
        "no clinical meaning",
        "Not a medical device",
        "No validation and no calibration",
        f"Only {ABSENT} training rows lacked genomics",
        "No training row lacked pathology",
        f"Not valid beyond {read_facts(trained)['training']['longest_follow_up']:.1f} months",
        "fewer than 100 are few",
        "Competing causes are not modelled",
        "Left truncation is not modelled",
    ):
        assert expected in limits
    # Those who have pathology alone are those who lack genomics: once is enough.
    assert "had just pathology" not in limits


def test_real_patients_are_not_called_simulated(trained: Path) -> None:
    description, weights = load_artifact(trained)
    description["training"]["simulated"] = False
    card = model_card(facts(description, weights))
    assert "SIMULATED" not in card and "clinical meaning" not in card and "not simulated" in card


@pytest.mark.parametrize("lacking", ["recent", "all"])
def test_a_description_that_lacks_facts_is_told_as_far_as_it_goes(trained: Path, tmp_path: Path, lacking: str) -> None:
    description, weights = load_artifact(trained)
    known = {"cohort", "rows", "events", "validation_rows", "imputed_entries"} if lacking == "recent" else set()
    description["training"] = {name: description["training"][name] for name in known}
    del description["recipe"]
    if lacking == "all":
        for part in ("training", "run", "versions", "diagnostics", "longest_follow_up", "survcore_version"):
            del description[part]
    save_artifact(tmp_path / "old", description, weights)
    found = read_facts(tmp_path / "old")
    assert found["training"]["simulated"] is None and found["availability"] is None
    assert found["training"]["rows"] == (90 if lacking == "recent" else None)
    card = described(tmp_path / "old")
    assert "whether simulated: not recorded" in card
    assert "Whether the training rows are simulated is not recorded" in card
    assert "training rows that have it: not recorded" in card
    json.loads(described(tmp_path / "old", "--json"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pathology", "genomics"], "'diffusion' was not trained: where pathology or genomics is missing"),
        (["pathology"], "It knows pathology alone"),
    ],
)
def test_what_cannot_be_completed_is_a_limit(
    cohort: survcore.Cohort, tmp_path: Path, names: list[str], expected: str
) -> None:
    stages = {**CHANGES["stages"], "diffusion": {"epochs": 0}}
    survcore.fit("must", cohort.only(names), changes={**CHANGES, "stages": stages}, out=tmp_path)
    found = read_facts(tmp_path)
    assert found["completion"]["stage_trained"] is False
    assert found["completion"]["cannot_be_completed"] == names
    card = model_card(found)
    assert expected in card and "Patients may lack any" not in card


def test_the_fold_left_out_and_the_rows_that_chose_the_checkpoint(tmp_path: Path) -> None:
    rows = replace(survcore.simulate_cohort(90, seed=1), fold=np.arange(90) % 3)
    survcore.fit("must", rows, changes=CHANGES, fold=1, out=tmp_path)
    training, validation = training_parts(rows, "primary", 1, load_recipe("must").validation_fraction, 0)
    found = read_facts(tmp_path)["training"]
    assert (found["rows"], found["validation_rows"]) == (len(training), len(validation))
    assert found["fold_left_out"] == 1 and "fold 1" in described(tmp_path)


@pytest.mark.parametrize("quick", [False, True])
def test_departures_name_the_nearer_packaged_recipe_and_what_differs(quick: bool) -> None:
    assert departures(load_recipe("must", quick=quick)) == {"quick": quick, "changes": {}}
    changes = {"model": {"rank": 16, "likelihood": "must_eq6"}, "stages": {"joint": {"epochs": 3}}}
    found = departures(load_recipe("must", quick=quick, changes=changes))
    expected = {"model.rank": 16, "model.likelihood": "must_eq6", "stages.joint.epochs": 3}
    assert found == {"quick": quick, "changes": expected}


def test_a_recipe_without_a_packaged_one_departs_from_nothing() -> None:
    assert departures(replace(load_recipe("must"), system="of one's own")) is None


@pytest.mark.parametrize("system", system_names())
def test_every_system_has_its_paper_and_how_it_completes(system: str, trained: Path) -> None:
    description, weights = load_artifact(trained)
    found = facts({**description, "system": system}, weights)
    assert found["model"]["paper"] and found["completion"]["how"] and found["completion"]["stage"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda description: description.pop("preprocessor"), "preprocessor"),
        (lambda description: description.update(system=["must"]), "does not describe"),
        (lambda description: description.update(training=[1]), "does not describe"),
    ],
)
def test_foreign_descriptions_are_refused_in_one_line(trained: Path, tmp_path: Path, change, problem: str) -> None:
    description, weights = load_artifact(trained)
    change(description)
    save_artifact(tmp_path / "foreign", description, weights)
    with pytest.raises(CheckpointError, match=problem):
        read_facts(tmp_path / "foreign")
    result = CliRunner().invoke(main, ["describe", str(tmp_path / "foreign")])
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
