"""Scenarios, ridge Cox, bootstrap comparison, and evaluate as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

import survcore
from survcore.data import Cohort
from survcore.errors import DataError
from survcore.evaluation.comparison import FoldBootstrap
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenarios import scenarios
from survcore.evaluation.training_missing import read_training_missing, shown_at_training, taken_at_training

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
    check_cosines(result.cosines, [first, second], tmp_path)
    by_fold = [
        survcore.load(tmp_path / "models" / f"fold_{fold}" / "must").part_cosines(cohort.select(folds == fold))
        for fold in (0, 1)
    ]
    np.testing.assert_allclose(result.cosines, (by_fold[0] + by_fold[1]) / 2, atol=1e-6)
    check_spread(predictions, tmp_path)
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


def check_cosines(cosines: pd.DataFrame, names: list[str], folder) -> None:
    first, second = names
    labels = [f"{kind} {name}" for kind in ("whole", "specific") for name in names]
    labels += [f"shared {first}<-{second}", f"shared {second}<-{first}"]
    assert list(cosines.index) == labels == list(cosines.columns)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-6)
    written = pd.read_csv(folder / "cosines.csv", index_col="part")
    np.testing.assert_allclose(written, cosines)
    assert (folder / "cosines.png").stat().st_size > 5000
    assert "(cosines.png)" in (folder / "report.md").read_text()


def check_spread(predictions: pd.DataFrame, folder) -> None:
    drawn = (predictions["model"] == "must") & (predictions["fill"] == "own")
    assert (predictions.loc[drawn, "risk_spread"] > 0).all()
    some = (predictions["model"] == "must") & (predictions["scenario"] == "complete")
    # Every fifteenth row lacks the first modality and is completed in the complete scenario too.
    assert (predictions.loc[some, "risk_spread"] > 0).sum() == 10
    assert (predictions.loc[~drawn & ~some, "risk_spread"] == 0).all()
    report = (folder / "report.md").read_text()
    rows = predictions[drawn & (predictions["scenario"] == predictions.loc[drawn, "scenario"].iloc[0])]
    spread = rows.groupby("fold")["risk_spread"].mean().mean()
    deviation = rows.groupby("fold")["risk"].std().mean()
    assert f"| {len(rows)} | {spread:.4f} | {deviation:.4f} |" in report


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


@pytest.fixture(scope="module")
def trained(cohort) -> survcore.Predictor:
    return survcore.fit("must", cohort, changes=TINY)


def test_risk_spread_is_that_of_single_draws(cohort, trained):
    first, second = cohort.modalities
    lacking = cohort.where(has=[first, second]).without(second, np.arange(140) < 20)
    table = trained.predict(lacking, draws=4, steps=5)
    assert (table["risk_spread"][:20] > 0).all() and (table["risk_spread"][20:] == 0).all()
    system = trained.system
    with torch.inference_mode():
        encoded = system.encode(trained.preprocessor.transform(lacking).batch())
        completed = system.complete(encoded, draws=4, steps=5)
        single = []
        for draw in range(4):
            parts = {"specific": completed.parts["draws"][:, draw], "shared": completed.parts["shared"]}
            single.append(system.predict(replace(completed, parts=parts))["risk"].numpy())
    np.testing.assert_allclose(table["risk_spread"], np.std(single, axis=0, ddof=1), rtol=1e-4, atol=1e-7)
    for fill in ("zeros", "mean"):
        assert (trained.predict(lacking, fill=fill)["risk_spread"] == 0).all()
    assert trained.predict(lacking, draws=1, steps=5)["risk_spread"].isna().sum() == 20


def test_part_cosines_are_means_over_the_rows_that_own_both(cohort, trained):
    first, second = cohort.modalities
    mixed = cohort.where(has=[first, second]).without(second, np.arange(140) < 60)
    found = trained.part_cosines(mixed, batch_size=33)
    with torch.inference_mode():
        parts = trained.system.encode(trained.preprocessor.transform(mixed).batch()).parts
    vectors = {
        f"whole {first}": parts["whole"][:, 0],
        f"specific {second}": parts["specific"][:, 1],
        f"shared {second}<-{first}": parts["cross"][:, 1, 0],
    }
    for one, left in vectors.items():
        for other, right in vectors.items():
            both = np.arange(140) >= (60 if second in one or second in other else 0)
            expected = torch.nn.functional.cosine_similarity(left[both], right[both]).mean().item()
            assert found.loc[one, other] == pytest.approx(expected, abs=1e-5)
    alone = trained.part_cosines(mixed.without(second))
    assert alone.loc[f"whole {first}", f"specific {first}"] == pytest.approx(
        found.loc[f"whole {first}", f"specific {first}"], abs=1e-5
    )
    assert alone[f"whole {second}"].isna().all() and alone[f"shared {first}<-{second}"].isna().all()


def several_rows() -> Cohort:
    """900 rows of 300 patients; the first modality is naturally absent from some."""
    cohort = survcore.simulate_cohort(900, seed=3, modalities=dict.fromkeys("abc", "panel"), missing={"a": 0.2})
    return replace(cohort, patient_ids=np.array([f"q{i // 3}" for i in range(900)]))


def test_one_modality_is_taken_from_a_share_of_whole_patients():
    cohort = several_rows()
    taken = {share: taken_at_training(cohort, share, 7) for share in (0.2, 0.5)}
    for share, lost in taken.items():
        table = pd.DataFrame(lost, columns=list("abc")).groupby(cohort.patient_ids).max()
        assert table.sum(axis=1).max() == 1
        assert table.any(axis=1).mean() == pytest.approx(share, abs=0.08)
        assert table.sum().min() > 0.6 * table.sum().mean()
        assert not (lost & ~cohort.availability).any()
        assert (cohort.availability & ~lost).any(axis=1).all()
        for name, column in zip("abc", lost.T, strict=True):
            # A patient that loses a modality loses it in every row that has another one.
            patients = set(cohort.patient_ids[column])
            own = np.isin(cohort.patient_ids, list(patients)) & cohort.modalities[name].present
            assert (column == own)[cohort.availability.sum(axis=1) > 1].all()
    assert not (taken[0.2] & ~taken[0.5]).any()
    assert not np.array_equal(taken[0.5], taken_at_training(cohort, 0.5, 8))
    some = cohort.select(np.arange(300, 600))
    assert np.array_equal(taken_at_training(some, 0.5, 7), taken[0.5][300:600])


def test_named_modalities_are_taken_but_never_the_last():
    cohort = several_rows()
    lost = taken_at_training(cohort, {"b": 0.9, "a": 0.9, "c": 0.9}, 0)
    left = cohort.availability & ~lost
    assert left.any(axis=1).all() and not (lost & ~cohort.availability).any()
    lost = taken_at_training(cohort, {"b": 0.5}, 0)
    assert not lost[:, [0, 2]].any() and lost[:, 1].mean() == pytest.approx(0.5, abs=0.08)
    alone = cohort.without("a").without("c")
    assert not taken_at_training(alone, {"b": 0.9}, 0).any() and not taken_at_training(alone, 0.9, 0).any()
    folded = replace(cohort, fold=np.arange(900) // 3 % 2)
    shown = shown_at_training(folded, lost, 1)
    assert np.array_equal(shown.availability[folded.fold == 1], cohort.availability[folded.fold == 1])
    assert np.array_equal(shown.availability[folded.fold == 0], (cohort.availability & ~lost)[folded.fold == 0])


@pytest.mark.parametrize("missing", [0, 1, -0.1, True, "half", {"a": 1.2}])
def test_shares_outside_their_range_are_refused(missing):
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        taken_at_training(several_rows(), missing, 0)


def test_shares_are_read_from_texts():
    assert read_training_missing([]) is None
    assert read_training_missing(["0.2"]) == 0.2
    assert read_training_missing(["slide=0.2", "omics=.5"]) == {"slide": 0.2, "omics": 0.5}
    with pytest.raises(DataError, match="no modality 'slide'"):
        taken_at_training(several_rows(), {"slide": 0.2}, 0)
    for entries in (["0.2", "slide=0.2"], ["some"], ["slide=some"]):
        with pytest.raises(ValueError, match="training-missing"):
            read_training_missing(entries)


def test_evaluate_with_modalities_missing_at_training(cohort, tmp_path):
    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    first, second = cohort.modalities
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=TINY, training_missing={second: 0.5})
    lost = taken_at_training(cohort, {second: 0.5}, 0)[:, 1]
    for fold in (0, 1):
        counts = result.facts["taken_at_training"][fold]
        assert counts == {"patients": 75, "taken": {first: 0, second: int(lost[cohort.fold != fold].sum())}}
        model = survcore.load(tmp_path / "models" / f"fold_{fold}" / f"must_on_{second}")
        facts = model.description["training"]
        left = cohort.modalities[second].present & ~lost & (cohort.fold != fold)
        assert facts["rows"] + facts["validation_rows"] == left.sum()
        # Every test row is there with all it has.
        shown = result.metrics.query("fold == @fold and scenario == 'complete'").set_index("model")["n"]
        assert shown["must"] == 75
        assert shown[f"ridge Cox on {second}"] == shown[f"must on {second}"] == 75
    report = (tmp_path / "report.md").read_text()
    assert f"missing among the training patients: {second} in a share of 0.5" in report
    assert f"| 0 | 75 | 0 | {result.facts['taken_at_training'][0]['taken'][second]} |" in report
    assert "training_missing={" in report


def test_evaluate_without_rivals(cohort, tmp_path):
    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=TINY, rivals=False)
    assert set(result.metrics["model"]) == {"must"}
    assert sorted(path.name for path in (tmp_path / "models" / "fold_0").iterdir()) == ["must"]
    assert "rivals=False" in (tmp_path / "report.md").read_text()
