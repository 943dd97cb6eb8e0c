"""Evaluation of cohorts with entry times (left truncation), strata and case weights, against direct calls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lifelines
import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, CoxTimeVaryingFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from torch import nn

import survcore
from survcore import models
from survcore.batch import Batch
from survcore.benchmarks.shortcuts import REFERENCE, _Scenario
from survcore.data import Cohort
from survcore.errors import CheckpointError
from survcore.evaluation import Evaluation, ablate
from survcore.evaluation.comparison import FoldBootstrap, signed
from survcore.evaluation.cox_fitter import cox_fitter
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.metrics import concordance_index
from survcore.models.base import Completed, Encoded, Losses, System
from survcore.plots import save_kaplan_meier_by_risk
from survcore.training import load_recipe

RECIPE = """
system = "late"
[preprocess]
bins = 4
[stages.main]
epochs = 2
learning_rate = 0.02
batch_size = 32
[ablations.slow]
slower = { stages.main.learning_rate = 0.001 }
"""
PREPROCESS = {"bins": 4, "scale": "standard", "clip": 5.0}
KEYS = ["model", "scenario", "fill"]


class Late(System):
    """A linear score per modality that takes entry times: what evaluation needs of a system, and no more."""

    name = "late"
    takes_entry = True
    modality_kinds = frozenset({"vector"})
    stage_names = ("main",)

    def __init__(self, inputs, bins, settings):
        super().__init__(inputs, bins, settings)
        self.maps = nn.ModuleDict({part.name: nn.Linear(part.width, bins) for part in inputs})

    def encode(self, batch: Batch) -> Encoded:
        there = batch.availability
        parts = {
            name: torch.where(there[:, m, None], self.maps[name](batch.values[name]), 0.0)
            for m, name in enumerate(self.modalities)
        }
        return Encoded(parts, there, batch.row_key)

    def complete(self, encoded, *, fill="own", seed=0, **sampling):
        return Completed(encoded.parts, ~encoded.availability, fill)

    def predict(self, completed):
        logits = torch.stack(list(completed.parts.values())).sum(0)
        return {"hazard_logits": logits, "risk": survcore.hazard_risk(logits)}

    def stage_parameters(self, stage):
        return list(self.parameters())

    def losses(self, batch, stage, *, seed=0):
        logits = self.predict(self.complete(self.encode(batch)))["hazard_logits"]
        loss = survcore.discrete_hazard_nll(logits, batch.target.time_bin, batch.target.event > 0)
        return Losses(loss, {}, survcore.hazard_risk(logits.detach()))


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._SYSTEMS, "late", (__name__, "Late"))
        load = models.import_module
        here = type("module", (), {"Late": Late})
        patch.setattr(models, "import_module", lambda name: here if name == __name__ else load(name))
        # Reports take most of the time of evaluations as small as these.
        patch.setitem(FoldBootstrap.__init__.__kwdefaults__, "draws", 60)
        yield


def make_cohort(rows: int = 240, *, entry: bool = True, strata: bool = True, weights: bool = True) -> Cohort:
    """Late entries, strata that differ in hazard and in features, weights of which some are 0; two rows per patient."""
    generator = np.random.default_rng(3)
    ids = [f"r{i:03d}" for i in range(rows)]
    site = generator.integers(0, 3, rows)
    score = generator.normal(size=rows)
    table = {
        "a": np.column_stack((score, site, generator.normal(size=rows))),
        "b": np.column_stack((score + generator.normal(size=rows), generator.normal(size=rows))),
    }
    lived = np.ceil(40 * generator.exponential(np.exp(-score - site)))
    stopped = np.ceil(generator.uniform(1, 60, rows))
    time = np.minimum(lived, stopped)
    outcomes = {"row_id": ids, "patient_id": [f"p{i // 2:03d}" for i in range(rows)], "time": time}
    outcomes |= {"event": lived <= stopped, "fold": np.arange(rows) // 2 % 2}
    if entry:
        outcomes["entry"] = np.floor(time * generator.uniform(0, 0.9, rows))
    if strata:
        # "NA" is a name that a reader of CSV files could take for a missing value.
        outcomes["strata"] = np.array(["NA", "01", "lung"])[site]
    if weights:
        outcomes["weights"] = generator.integers(0, 4, rows) / 2
    frames = {name: pd.DataFrame(values, index=ids).add_prefix(name) for name, values in table.items()}
    return Cohort.from_frames(frames, pd.DataFrame(outcomes), time_unit="months")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort()


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "late.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def evaluated(cohort: Cohort, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return survcore.evaluate("late", cohort, out=out, recipe=load_recipe("late", path=recipe_file)), out


def direct(cohort: Cohort, risk: pd.Series) -> float:
    """The C-index of risks by row id, from the cohort itself."""
    position = {row: number for number, row in enumerate(cohort.row_ids)}
    rows = cohort.select([position[row] for row in risk.index])
    outcome = rows.endpoint()
    return float(
        concordance_index(
            outcome.time, outcome.event > 0, risk, entry=outcome.entry, strata=rows.strata, weights=rows.weights
        )
    )


def test_every_c_index_takes_entry_strata_and_weights_into_account(cohort, evaluated):
    result, _ = evaluated
    assert {"late", "late on a", "ridge Cox on a + b"} <= set(result.metrics["model"])
    groups = dict(list(result.predictions.groupby([*KEYS, "fold"])))
    assert len(groups) == len(result.metrics)
    plain = []
    for row in result.metrics.itertuples():
        rows = groups[row.model, row.scenario, row.fill, row.fold].set_index("row_id")
        assert row.c_index == pytest.approx(direct(cohort, rows["risk"]), abs=1e-12)
        plain.append(float(concordance_index(rows["time"], rows["event"], rows["risk"])))
    # The strata are features, so it matters whether their rows are compared.
    assert np.abs(result.metrics["c_index"] - plain).max() > 0.05


@pytest.mark.parametrize(
    ("made", "columns"),
    [
        ({}, ["entry", "stratum", "weight"]),
        ({"weights": False}, ["entry", "stratum"]),
        ({"entry": False, "weights": False}, ["stratum"]),
        ({"entry": False, "strata": False, "weights": False}, []),
    ],
)
def test_predictions_hold_what_the_cohort_has(made, columns, recipe_file, tmp_path):
    cohort = make_cohort(**made)
    recipe = load_recipe("late", path=recipe_file)
    survcore.evaluate("late", cohort, out=tmp_path, recipe=recipe, rivals=False)
    written = pd.read_csv(tmp_path / "predictions.csv", dtype={"stratum": str}, keep_default_na=False)
    common = ["fold", "row_id", "patient", "risk", "risk_spread", "time", "event"]
    assert list(written.columns) == [*KEYS, *common, *columns]
    rows = written.query("scenario == 'complete'").set_index("row_id").loc[cohort.row_ids]
    expected = {"entry": cohort.endpoint().entry, "stratum": cohort.strata, "weight": cohort.weights}
    for name in columns:
        assert (rows[name].to_numpy() == expected[name]).all()
    report = (tmp_path / "report.md").read_text()
    sentences = {"entry": "(left truncation)", "stratum": "each of the 3 strata only", "weight": "their case weights"}
    for name, sentence in sentences.items():
        assert (sentence in report) == (name in columns)


def test_the_bootstrap_compares_the_same_pairs(cohort, evaluated):
    result, out = evaluated
    predictions = result.predictions
    bootstrap = FoldBootstrap.of_predictions(predictions)
    risks = {key: rows.set_index("row_id")["risk"] for key, rows in predictions.groupby(KEYS, sort=False)}
    ours, theirs = ("late", "complete", ""), ("ridge Cox on a + b", "complete", "")
    means = bootstrap.fold_means(risks[ours])
    outcomes = bootstrap.outcomes
    for draw in (0, 1, 60):
        expected = []
        for samples in bootstrap.samples:
            rows = outcomes.iloc[samples[draw]]
            entry, strata, weights = (rows[name].to_numpy() for name in ("entry", "stratum", "weight"))
            value = concordance_index(
                rows["time"].to_numpy(),
                rows["event"].to_numpy(),
                risks[ours].loc[rows.index].to_numpy(),
                entry=entry,
                strata=strata,
                weights=weights,
            )
            expected.append(float(value))
        assert means[draw] == pytest.approx(np.mean(expected), abs=1e-12)
    report = (out / "report.md").read_text()
    difference = bootstrap.difference(risks[ours], risks[theirs])
    written = signed(difference.value, difference.lower, difference.upper)
    assert f"| late | ridge Cox on a + b | 240 | {written} |" in report
    by_fold = [
        [direct(cohort, risks[key][outcomes.loc[risks[key].index, "fold"] == fold]) for fold in (0, 1)]
        for key in (ours, theirs)
    ]
    assert difference.value == pytest.approx(np.mean(by_fold[0]) - np.mean(by_fold[1]), abs=1e-12)


def components(cohort: Cohort) -> pd.DataFrame:
    """Principal components of each standardised table, with all that the outcomes hold."""
    columns = []
    for modality in cohort.modalities.values():
        table = modality.table.astype(np.float64)
        scaled = np.clip((table - table.mean(0)) / table.std(0), -5, 5)
        centred = scaled - scaled.mean(0)
        columns.append(centred @ np.linalg.svd(centred, full_matrices=False)[2].T)
    outcome = cohort.endpoint()
    frame = pd.DataFrame(np.concatenate(columns, axis=1), index=cohort.row_ids).add_prefix("component ")
    frame = frame.assign(time=outcome.time, event=outcome.event > 0)
    optional = {"entry": outcome.entry, "strata": cohort.strata, "weights": cohort.weights}
    return frame.assign(**{name: column for name, column in optional.items() if column is not None})


@pytest.mark.filterwarnings("ignore:It appears your weights are not integers")
@pytest.mark.parametrize("made", [{}, {"weights": False}, {"strata": False, "weights": False}, {"entry": False}])
def test_ridge_cox_is_that_of_lifelines(made):
    cohort = make_cohort(**made)
    frame = components(cohort)
    options = {"entry_col": "entry", "strata": "strata", "weights_col": "weights"}
    options = {option: name for option, name in options.items() if name in frame}
    known = frame[frame["weights"] > 0] if "weights" in frame else frame
    plain = CoxPHFitter(penalizer=1.0).fit(known, "time", "event", **options)
    model = RidgeCox.fit(cohort, None, "primary", PREPROCESS)
    expected = plain.predict_log_partial_hazard(frame)
    np.testing.assert_allclose(model.predict(cohort), expected, atol=1e-5)
    ignored = CoxPHFitter(penalizer=1.0).fit(known.drop(columns=list(options.values())), "time", "event")
    assert np.abs(ignored.predict_log_partial_hazard(frame) - expected).max() > 0.01


@pytest.mark.filterwarnings("ignore:It appears your weights are not integers")
def test_the_penalizer_is_chosen_by_the_likelihood_that_knows_entry_and_strata(cohort):
    rows, check = cohort.select(np.arange(180)), cohort.select(np.arange(180, 240))
    chosen = RidgeCox.fit(rows, check, "primary", PREPROCESS)
    options = {"entry_col": "entry", "strata": "stratum", "weights_col": "weight"}
    scores = {}
    for penalizer in (0.01, 0.1, 1.0, 10.0):
        fitter = CoxPHFitter(penalizer=penalizer).fit(chosen._features(rows, "primary"), "time", "event", **options)
        scores[penalizer] = fitter.score(chosen._features(check, "primary"), "log_likelihood")
    assert chosen.penalizer == max(scores, key=scores.get)


@pytest.mark.filterwarnings("ignore:It appears your weights are not integers")
@pytest.mark.parametrize("penalizer", [0.01, 1.0])
@pytest.mark.parametrize("options", [{}, {"strata": "site"}, {"strata": "site", "weights_col": "weight"}])
def test_the_fast_fitter_agrees_with_lifelines_on_ties(tied_patients, penalizer, options):
    frame = tied_patients.assign(weight=tied_patients["weight"] / 2)
    # A stratum without any event, whose rows are in no risk set.
    frame.loc[frame.index[:5], ["site", "event"]] = 7, 0
    frame = frame[["a", "b", "c", "time", "event", "entry", *options.values()]]
    plain = CoxPHFitter(penalizer=penalizer).fit(frame, "time", "event", entry_col="entry", **options)
    fast = cox_fitter(penalizer).fit(frame, "time", "event", entry_col="entry", **options)
    np.testing.assert_allclose(fast.params_, plain.params_, rtol=1e-9)
    np.testing.assert_allclose(fast.standard_errors_, plain.standard_errors_, rtol=1e-9)
    part = frame.iloc[50:150]
    assert fast.score(part, "log_likelihood") == pytest.approx(plain.score(part, "log_likelihood"), rel=1e-9)


def test_kaplan_meier_curves_of_the_report_are_those_of_lifelines(cohort, recipe_file, tmp_path, monkeypatch):
    drawn: list[pd.DataFrame] = []
    shown: list[float] = []
    plot = KaplanMeierFitter.plot_survival_function

    def recorded(fitter: KaplanMeierFitter, **options: object) -> object:
        drawn.append(fitter.survival_function_)
        return plot(fitter, **options)

    def kept(*arguments: object, **options: object) -> float:
        shown.append(save_kaplan_meier_by_risk(*arguments, **options))
        return shown[-1]

    monkeypatch.setattr(lifelines.KaplanMeierFitter, "plot_survival_function", recorded)
    monkeypatch.setattr("survcore.evaluation.report.save_kaplan_meier_by_risk", kept)
    recipe = load_recipe("late", path=recipe_file)
    result = survcore.evaluate("late", cohort, out=tmp_path, recipe=recipe, rivals=False)
    rows = result.predictions.query("scenario == 'complete'")
    high = pd.Series(False, index=rows.index)
    for _, alike in rows.groupby(["fold", "stratum"]):
        high[alike.index] = alike["risk"] > alike["risk"].median()
    for curve, half in zip(drawn, (rows[high], rows[~high]), strict=True):
        expected = KaplanMeierFitter().fit(half["time"], half["event"], entry=half["entry"]).survival_function_
        np.testing.assert_array_equal(curve.index, expected.index)
        np.testing.assert_allclose(curve.iloc[:, 0], expected.iloc[:, 0], rtol=1e-12)
    expected = save_kaplan_meier_by_risk(
        tmp_path / "again.png", rows["time"], rows["event"], high, entry=rows["entry"], strata=rows["stratum"]
    )
    assert shown == [expected]
    report = (tmp_path / "report.md").read_text()
    assert "at risk from their entry times on" in report and "the log-rank test is stratified" in report


def test_log_rank_without_entry_and_strata_is_that_of_lifelines(tied_patients, tmp_path):
    time, event, high = tied_patients["time"], tied_patients["event"], tied_patients["c"] > 0.3
    expected = logrank_test(time[high], time[~high], event[high], event[~high]).p_value
    found = save_kaplan_meier_by_risk(tmp_path / "k.png", time, event, high)
    assert found == pytest.approx(expected, rel=1e-9)
    assert math.isnan(save_kaplan_meier_by_risk(tmp_path / "k.png", time, 0 * event, high))


@pytest.mark.parametrize("known", [("entry",), ("strata",), ("entry", "strata")])
def test_log_rank_is_the_score_test_of_cox_regression(tied_patients, tmp_path, known):
    """Without ties the two are one: the squared gradient at 0 over the information, both summed over strata."""
    frame = tied_patients.assign(time=tied_patients["time"] + np.linspace(0, 0.5, 300), high=tied_patients["c"] > 0.3)
    columns = {"entry": frame["entry"], "strata": frame["site"]}
    gradient = information = 0.0
    for _, rows in frame.groupby("site") if "strata" in known else [("all", frame)]:
        entry = rows["entry"].to_numpy() if "entry" in known else np.full(len(rows), -1.0)
        hessian, slope, _ = CoxTimeVaryingFitter._get_gradients(
            rows[["high"]].to_numpy(dtype=float),
            rows["event"].to_numpy(dtype=bool),
            entry,
            rows["time"].to_numpy(),
            np.ones(len(rows)),
            np.zeros(1),
        )
        gradient, information = gradient + slope[0], information - hessian[0, 0]
    expected = math.erfc(abs(gradient) / math.sqrt(2 * information))
    found = save_kaplan_meier_by_risk(
        tmp_path / "k.png", frame["time"], frame["event"], frame["high"], **{name: columns[name] for name in known}
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_variants_of_an_ablation_are_compared_within_strata(cohort, recipe_file, tmp_path):
    table = ablate("late", cohort, "slow", out=tmp_path / "first", path=recipe_file)
    for row in table.query("scenario == 'complete'").itertuples():
        predictions = pd.read_csv(tmp_path / "first" / row.variant / "predictions.csv", keep_default_na=False)
        rows = predictions.query("scenario == 'complete'").set_index("row_id")
        values = [direct(cohort, part["risk"]) for _, part in rows.groupby("fold")]
        assert row.c_index == pytest.approx(np.mean(values), abs=1e-12)
    assert "each of the 3 strata only" in (tmp_path / "first" / "ablation.md").read_text()
    # The tables of the default are read from its files, where labels and numbers are texts.
    options = {"path": recipe_file, "default": tmp_path / "first" / "default"}
    again = ablate("late", cohort, "slow", out=tmp_path / "second", **options)
    pd.testing.assert_frame_equal(again, table)
    file = options["default"] / "predictions.csv"
    pd.read_csv(file, dtype=str, keep_default_na=False).drop(columns=["entry", "stratum"]).to_csv(file, index=False)
    with pytest.raises(CheckpointError, match="predictions.csv has no column entry and no stratum"):
        ablate("late", cohort, "slow", out=tmp_path / "third", **options)


def test_shortcuts_are_compared_within_strata(cohort):
    scenario = _Scenario([REFERENCE])
    scenario.seconds = {REFERENCE: [0.1]}
    risk = pd.Series(np.random.default_rng(0).normal(size=len(cohort)), index=cohort.row_ids)
    expected = []
    for fold in (0, 1):
        rows = cohort.where(fold=fold)
        scenario.add(fold, rows, "primary", {REFERENCE: risk[rows.row_ids].to_numpy()})
        expected.append(direct(cohort, risk[rows.row_ids]))
    (cost,) = scenario.costs("complete", 0, 20)
    assert cost.c_index == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_cohort_of_one_stratum_and_no_late_entry_is_evaluated_as_ever(recipe_file):
    bare = make_cohort(entry=False, strata=False, weights=False)
    trivial = replace(
        bare,
        strata=np.full(len(bare), "all"),
        weights=np.ones(len(bare)),
        endpoints={"primary": replace(bare.endpoint(), entry=np.full(len(bare), 0.0))},
    )
    recipe = load_recipe("late", path=recipe_file)
    found = [survcore.evaluate("late", one, recipe=recipe) for one in (bare, trivial)]
    keys = [*KEYS, "fold"]
    ours, theirs = (result.metrics.set_index(keys)["c_index"] for result in found)
    assert bare.endpoint().time.min() > 0
    pd.testing.assert_series_equal(ours, theirs, check_exact=False, rtol=1e-9)
