"""Scenarios, ridge Cox, bootstrap comparison, and evaluate as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

import survcore
from survcore.data import Cohort
from survcore.errors import DataError
from survcore.evaluation.comparison import FoldBootstrap
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenarios import scenarios

TINY = {
    "model": {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1},
    "stages": {
        "warm_up": {"epochs": 1},
        "joint": {"epochs": 2},
        "diffusion": {"epochs": 1, "steps_per_epoch": 5},
    },
}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    whole = survcore.simulate_cohort(150, seed=4)
    return whole.without(list(whole.modalities)[0], np.arange(150) % 15 == 0)


def test_scenarios_of_two_and_three_modalities():
    two = [(s.name, s.fill) for s in scenarios(["a", "b"])]
    assert two == [("complete", "")] + [(f"without {m}", fill) for m in "ab" for fill in ("own", "zeros", "mean")]
    three = scenarios(["a", "b", "c"])
    assert {s.absent for s in three if s.name == "only b"} == {("a", "c")}
    assert len(scenarios(["a"])) == 1


def test_a_scenario_drops_rows_that_would_have_nothing(cohort):
    first, second = cohort.modalities
    without_second = next(s for s in scenarios([first, second]) if s.name == f"without {second}")
    shown = without_second.apply(cohort)
    assert len(shown) == cohort.availability[:, 0].sum()
    assert not shown.availability[:, 1].any()


def test_ridge_cox_equals_lifelines_on_the_components(cohort):
    settings = {"bins": 4, "scale": "standard", "clip": 5.0}
    model = RidgeCox.fit(cohort, None, "primary", settings)
    assert model.penalizer == 1.0
    columns = []
    for modality in cohort.modalities.values():
        table = modality.table[modality.present].astype(np.float64)
        scaled = np.clip((table - table.mean(0)) / table.std(0), -5, 5)
        scores = np.zeros((len(cohort), 20))
        centred = scaled - scaled.mean(0)
        scores[modality.present] = centred @ np.linalg.svd(centred, full_matrices=False)[2][:20].T
        columns.append(scores)
    outcome = cohort.endpoint()
    frame = pd.DataFrame(np.concatenate(columns, axis=1)).assign(time=outcome.time, event=outcome.event)
    plain = CoxPHFitter(penalizer=1.0).fit(frame, "time", "event")
    np.testing.assert_allclose(model.predict(cohort), plain.predict_log_partial_hazard(frame), atol=1e-3)


def test_ridge_cox_chooses_the_penalizer_on_validation_rows(cohort):
    rows, check = cohort.select(np.arange(110)), cohort.select(np.arange(110, 150))
    settings = {"bins": 4, "scale": "standard", "clip": 5.0}
    chosen = RidgeCox.fit(rows, check, "primary", settings)
    assert chosen.penalizer in (0.01, 0.1, 1.0, 10.0)
    scores = {}
    for penalizer in (0.01, 0.1, 1.0, 10.0):
        fitter = CoxPHFitter(penalizer=penalizer).fit(chosen._features(rows, "primary"), "time", "event")
        scores[penalizer] = fitter.score(chosen._features(check, "primary"), "log_likelihood")
    assert chosen.penalizer == max(scores, key=scores.get)


def outcomes(n: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    time = generator.exponential(10, n)
    ids = [f"p{i}" for i in range(n)]
    return pd.DataFrame(
        {"fold": np.arange(n) % 4, "patient": ids, "time": time, "event": generator.random(n) < 0.6}, index=ids
    )


def test_bootstrap_of_a_perfect_and_a_random_risk():
    table = outcomes()
    bootstrap = FoldBootstrap(table, draws=100)
    perfect = bootstrap.fold_means(-table["time"])
    assert (perfect == 1).all()
    random = bootstrap.fold_means(pd.Series(np.random.default_rng(0).normal(size=200), index=table.index))
    interval = bootstrap.interval(random)
    assert interval.low < 0.5 < interval.high
    assert interval.low < interval.value < interval.high
    difference = bootstrap.interval(perfect - random)
    assert difference.low > 0.3


def test_bootstrap_takes_patients_as_the_unit():
    table = outcomes(40)
    table["patient"] = np.repeat([f"q{i}" for i in range(20)], 2)
    table["fold"] = 0
    bootstrap = FoldBootstrap(table, draws=20)
    for rows in bootstrap.samples[0][1:]:
        patients = table["patient"].to_numpy()[rows]
        _, counts = np.unique(patients, return_counts=True)
        assert (counts % 2 == 0).all()


def test_evaluate_writes_tables_report_and_models(cohort, tmp_path):
    folds = np.arange(len(cohort)) % 2
    result = survcore.evaluate("must", replace(cohort, fold=folds), out=tmp_path, changes=TINY)
    metrics = pd.read_csv(tmp_path / "metrics.csv", keep_default_na=False)
    first, second = cohort.modalities
    models = {"must", f"must on {first}", f"must on {second}"}
    ridges = {f"ridge Cox on {first}", f"ridge Cox on {second}", f"ridge Cox on {first} + {second}"}
    assert set(metrics["model"]) == models | ridges
    assert (metrics.groupby(["model", "scenario", "fill"]).size() == 2).all()
    assert metrics["c_index"].between(0, 1).all()
    predictions = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    complete = predictions.query("model == 'must' and scenario == 'complete'")
    assert sorted(complete["row_id"]) == sorted(cohort.row_ids)
    for row in metrics.itertuples():
        rows = predictions.query(
            "model == @row.model and scenario == @row.scenario and fill == @row.fill and fold == @row.fold"
        )
        value = float(survcore.concordance_index(rows["time"], rows["event"], rows["risk"]))
        assert value == pytest.approx(row.c_index, abs=1e-12)
    report = (tmp_path / "report.md").read_text()
    assert "Paired differences" in report and "seed 0" in report and "torch" in report
    assert (tmp_path / "kaplan_meier.png").stat().st_size > 5000
    loaded = survcore.load(tmp_path / "models" / "fold_1" / "must")
    test = replace(cohort, fold=folds).where(fold=1)
    again = loaded.predict(test)["risk"]
    stored = complete.query("fold == 1").set_index("row_id")["risk"].reindex(again.index)
    np.testing.assert_allclose(again, stored, rtol=1e-5)
    resumed = survcore.evaluate("must", replace(cohort, fold=folds), out=tmp_path, changes=TINY, resume=True)
    pd.testing.assert_frame_equal(resumed.metrics, result.metrics)


def test_a_rival_without_rows_in_a_fold_is_left_out(cohort, tmp_path):
    folds = np.arange(len(cohort)) % 3
    first, second = cohort.modalities
    lacking = replace(cohort.without(second, folds == 1), fold=folds)
    lacking = lacking.select(lacking.availability.any(axis=1))
    result = survcore.evaluate("must", lacking, out=tmp_path, changes=TINY)
    assert f"must on {second}" in result.facts["skipped"] and f"ridge Cox on {second}" in result.facts["skipped"]
    assert f"must on {second}: left out" in (tmp_path / "report.md").read_text()
    assert f"must on {first}" in set(result.metrics["model"])
    shown = result.metrics.query("model == 'must' and fold == 1")["scenario"]
    assert f"without {first}" not in set(shown) and f"without {second}" in set(shown)


def test_only_rows_marked_for_training_or_validation_take_part(cohort):
    marks = np.where(np.arange(len(cohort)) % 5 == 0, "hold-out", "train")
    folds = np.arange(len(cohort)) // 5 % 2
    result = survcore.evaluate("must", replace(cohort, fold=folds, split=marks), changes=TINY)
    assert not set(cohort.row_ids[marks == "hold-out"]) & set(result.predictions["row_id"])
    assert result.facts["rows"] == (marks == "train").sum()


def test_evaluate_needs_two_folds(cohort):
    with pytest.raises(DataError, match="at least two folds"):
        survcore.evaluate("must", replace(cohort, fold=np.zeros(len(cohort), dtype=int)), changes=TINY)
