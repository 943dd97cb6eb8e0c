"""Scenarios, ridge Cox, bootstrap comparison, and evaluate as a whole."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

import survcore
from survcore.data import Cohort
from survcore.errors import CheckpointError, DataError
from survcore.evaluation import run
from survcore.evaluation.comparison import FoldBootstrap, own_rows, signed
from survcore.evaluation.ridge_cox import RidgeCox
from survcore.evaluation.scenario_outputs import scenario_outputs
from survcore.evaluation.scenarios import scenarios
from survcore.evaluation.training_missing import (
    taken_at_training,
)
from survcore.training.recipe import merge

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
    limited = [s for s in scenarios(["a", "b"], max_patches=20) if s.max_patches]
    assert [(s.name, s.fill, s.absent) for s in limited] == [("complete, 20 patches", "", ())]


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
    assert interval.lower < 0.5 < interval.upper
    assert interval.lower < interval.value < interval.upper
    difference = bootstrap.interval(perfect - random)
    assert difference.lower > 0.3


def test_differences_are_written_with_their_signs():
    assert signed(0.0123, -0.0456, 0.0789) == "+0.012 (-0.046 to +0.079)"


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
    check_report(result, first, second, tmp_path)
    assert json.loads((tmp_path / "facts.json").read_text())["recipe"] == result.facts["recipe"]
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


def check_report(result: run.Evaluation, first: str, second: str, folder) -> None:
    report = (folder / "report.md").read_text()
    facts = result.facts
    assert f"150 simulated rows, {facts['events']} events of primary, 2 folds" in report
    assert f"| {first} + {second} | 140 (93.3 %) |" in report and f"| {second} | 10 (6.7 %) |" in report
    assert "leaves out the rows that it would leave with nothing" in report
    assert "not that of seeds or of training again" in report and "one in twenty misses 0 by chance" in report
    assert "cohort, recipe=..., endpoint='primary', seed=0)" in report
    shown = result.metrics.query(f"model == 'must' and scenario == 'without {second}' and fill == 'own'")
    assert shown["n"].sum() == 140
    assert f"| must | without {second} | own | 140 ({shown['events'].sum()}) |" in report
    bootstrap = FoldBootstrap.of_predictions(result.predictions)
    keys = ["model", "scenario", "fill"]
    risks = {key: rows.set_index("row_id")["risk"] for key, rows in result.predictions.groupby(keys)}
    own = ("must", f"without {second}", "own")
    for one, other, names in [
        (("must", "complete", ""), own, f"must | must, without {second} (own) | 140"),
        (own, (f"must on {first}", "complete", ""), f"must, without {second} (own) | must on {first} | 140"),
        (own, (*own[:2], "zeros"), f"must, without {second} (own) | must, without {second} (zeros) | 140"),
        (("must", "complete", ""), (f"must on {second}", "complete", ""), f"must | must on {second} | 150"),
    ]:
        found = bootstrap.difference(risks[one], risks[other])
        assert f"| {names} | {signed(found.value, found.lower, found.upper)} |" in report
    assert "patches cut" not in report and "Left out" not in report


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
    np.testing.assert_allclose(table["risk_min"], np.min(single, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table["risk_max"], np.max(single, axis=0), rtol=1e-5, atol=1e-6)
    assert (table["risk_min"][20:] == table["risk"][20:]).all() and "risk_q025" not in table
    for fill in ("zeros", "mean"):
        filled = trained.predict(lacking, fill=fill)
        assert (filled["risk_spread"] == 0).all() and (filled["risk_max"] == filled["risk"]).all()
    assert trained.predict(lacking, draws=1, steps=5)["risk_spread"].isna().sum() == 20


def test_quantiles_of_the_risk_from_forty_draws_on(cohort, trained):
    first, second = cohort.modalities
    lacking = cohort.where(has=[first, second]).without(second, np.arange(140) < 3).select(range(5))
    assert "risk_q025" not in trained.predict(lacking, draws=39, steps=2)
    table = trained.predict(lacking, draws=40, steps=2)
    drawn, others = table[:3], table[3:]
    assert (drawn["risk_min"] < drawn["risk_q025"]).all() and (drawn["risk_q025"] < drawn["risk_q975"]).all()
    assert (drawn["risk_q975"] < drawn["risk_max"]).all()
    assert (others[["risk_min", "risk_q025", "risk_q975", "risk_max"]].eq(others["risk"], axis=0)).all(axis=None)


def test_part_cosines_are_means_over_the_rows_that_own_both(cohort, trained):
    first, second = cohort.modalities
    mixed = cohort.where(has=[first, second]).without(second, np.arange(140) < 60)
    found = trained.part_cosines(trained.encode(mixed, batch_size=33))
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


def test_evaluate_with_modalities_missing_at_training(cohort, tmp_path):
    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    first, second = cohort.modalities
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=TINY, training_missing={second: 0.5})
    lost = taken_at_training(cohort, {second: 0.5}, 0)[:, 1]
    for fold in (0, 1):
        counts = result.facts["taken_at_training"][fold]
        training = cohort.fold != fold
        before = cohort.availability[training].sum(axis=0).tolist()
        count = int(lost[training].sum())
        rows = {first: [before[0], before[0]], second: [before[1], before[1] - count]}
        assert counts == {"patients": 75, "lost": count, "rows": rows}
        model = survcore.load(tmp_path / "models" / f"fold_{fold}" / f"must_on_{second}")
        facts = model.description["training"]
        left = cohort.modalities[second].present & ~lost & (cohort.fold != fold)
        assert facts["rows"] + facts["validation_rows"] == left.sum()
        # Every test row is there with all it has.
        shown = result.metrics.query("fold == @fold and scenario == 'complete'").set_index("model")["n"]
        assert shown["must"] == 75
        assert shown[f"ridge Cox on {second}"] == shown[f"must on {second}"] == 75
    report = (tmp_path / "report.md").read_text()
    assert f"of the patients who have {second} and another modality, a share of 0.5 loses {second}" in report
    counts = result.facts["taken_at_training"][0]
    (a, _), (b, c) = counts["rows"].values()
    assert f"| 0 | 75 | {counts['lost']} ({counts['lost'] / 0.75:.1f} %) | {a} -> {a} | {b} -> {c} |" in report
    assert "training_missing={" in report


def test_a_broken_off_evaluation_leaves_no_tables_of_other_models(cohort, tmp_path, monkeypatch):
    names = ["metrics.csv", "predictions.csv", "report.md", "cosines.csv", "cosines.png", "kaplan_meier.png"]
    for name in names:
        (tmp_path / name).write_text("of an earlier run")

    def broken_off(*arguments, **options):
        raise KeyboardInterrupt

    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    with pytest.raises(DataError, match="no modality 'mri'"):
        survcore.evaluate("must", cohort, out=tmp_path, changes=TINY, training_missing={"mri": 0.2})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    monkeypatch.setattr(run, "fit", broken_off)
    with pytest.raises(KeyboardInterrupt):
        survcore.evaluate("must", cohort, out=tmp_path, changes=TINY)
    assert not list(tmp_path.iterdir())


def test_folders_of_models_do_not_collide():
    models = ["must", *(f"must on {name}" for name in ("rna", "my rna", "my_rna", "my-rna", "on a", "on_a"))]
    assert len({run.model_folder("out", 0, model) for model in models}) == len(models)
    assert run.model_folder("out", 0, "must on rna").name == "must_on_rna"


def test_what_cannot_be_filled_in_is_left_out_and_said(cohort, tmp_path):
    first, second = cohort.modalities
    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    changes = {**TINY, "stages": {**TINY["stages"], "diffusion": {"epochs": 0}}}
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=changes, rivals=False)
    shown = result.metrics.groupby(["scenario", "fill"], sort=False)["n"].sum().to_dict()
    assert shown == {("complete", ""): 140, (f"without {first}", "zeros"): 150, (f"without {second}", "zeros"): 140}
    assert list(result.facts["left_out"]) == [
        "must", *(f"must, without {name} ({fill})" for name in (first, second) for fill in ("own", "mean"))
    ]  # fmt: skip
    report = (tmp_path / "report.md").read_text()
    assert "| must | complete |  | 140 (" in report
    assert f"- must: the rows that lack a modality; '{first}' is absent in 5 rows and cannot be filled in" in report
    assert f"- must, without {second} (own): '{second}' is absent in" in report
    thirds = np.arange(len(cohort)) % 3
    lacking = replace(cohort.without(second, thirds == 1), fold=thirds)
    with pytest.raises(DataError, match="must, test rows of fold 1: .* cannot be filled in"):
        survcore.evaluate("must", lacking.select(lacking.availability.any(axis=1)), changes=changes, rivals=False)


def test_own_rows_are_complete_or_filled_in_by_the_system():
    table = pd.DataFrame({"model": ["a", "a", "a", "b"], "fill": ["", "own", "zeros", ""], "value": range(4)})
    assert list(own_rows(table, "a")["value"]) == [0, 1]


def test_encoded_rows_give_what_the_cohort_gives(cohort, trained):
    first, second = cohort.modalities
    mixed = cohort.without(second, (np.arange(150) < 60) & cohort.availability[:, 0])
    encoded = trained.encode(mixed, batch_size=64)
    for fill in ("own", "zeros", "mean"):
        options = {"fill": fill, "draws": 3, "steps": 4, "seed": 2}
        pd.testing.assert_frame_equal(
            trained.predict(encoded, **options), trained.predict(mixed, batch_size=64, **options), check_exact=True
        )
    pd.testing.assert_frame_equal(
        trained.part_cosines(encoded), trained.part_cosines(trained.encode(mixed, batch_size=64)), check_exact=True
    )
    for option in ("max_patches", "batch_size"):
        with pytest.raises(ValueError, match=f"{option} is an option of encode"):
            trained.outputs(encoded, **{option: 3})
    with pytest.raises(ValueError, match="max_patches must be a whole number"):
        trained.encode(mixed, max_patches=-1)
    with pytest.raises(DataError, match="no modality"):
        trained.encode(mixed.without(first))


def test_rows_are_encoded_once_for_all_fills(cohort, trained, monkeypatch):
    calls = []
    encode = trained.system.encode
    monkeypatch.setattr(trained.system, "encode", lambda batch: calls.append(len(batch)) or encode(batch))
    found = list(scenario_outputs(trained, cohort, scenarios(list(cohort.modalities)), 0))
    assert len(found) == 7 and calls == [150, 150, 140]
    for tested in found:
        expected = trained.predict(tested.rows, fill=tested.scenario.fill or "own")
        assert np.array_equal(tested.outputs.heads["risk"], expected["risk"])
        assert np.array_equal(tested.outputs.risk_spread, expected["risk_spread"])


def test_what_a_limit_on_patches_costs(tmp_path):
    cohort = survcore.simulate_cohort(40, seed=2, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    cohort = replace(cohort, fold=np.arange(40) % 2).without("slide", np.arange(40) < 6)
    stages = {"warm_up": {"epochs": 0}, "joint": {"epochs": 1}, "diffusion": {"epochs": 1, "steps_per_epoch": 2}}
    changes = {"model": {**TINY["model"], "landmarks": 4}, "stages": stages}
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=changes, max_patches=20, rivals=False)
    limited = result.predictions.query("scenario == 'complete, 20 patches'")
    model = survcore.load(tmp_path / "models" / "fold_1" / "must", dtype="float32")
    expected = model.predict(cohort.where(fold=1), max_patches=20)
    assert np.array_equal(limited.query("model == 'must' and fold == 1")["risk"], expected["risk"])
    sizes = [item.shape[0] for item in cohort.modalities["slide"].items if item is not None]
    assert result.facts["test_bags"] == {"all": 34, "cut": sum(size > 20 for size in sizes)}
    bootstrap = FoldBootstrap.of_predictions(result.predictions)
    whole = result.predictions.query("model == 'must' and scenario == 'complete'").set_index("row_id")["risk"]
    difference = bootstrap.difference(limited.query("model == 'must'").set_index("row_id")["risk"], whole)
    report = (tmp_path / "report.md").read_text()
    written = signed(difference.value, difference.lower, difference.upper)
    assert f"| must, complete, 20 patches | must | 40 | {written} |" in report
    assert (
        f"The limit of 20 patches cut {result.facts['test_bags']['cut']} (" in report
        and "rivals=False, max_patches=20)" in report
    )
    with pytest.raises(ValueError, match="max_patches must be a whole number"):
        survcore.evaluate("must", cohort, max_patches=-1)


def test_evaluate_without_rivals(cohort, tmp_path):
    cohort = replace(cohort, fold=np.arange(len(cohort)) % 2)
    result = survcore.evaluate("must", cohort, out=tmp_path, changes=TINY, rivals=False)
    assert set(result.metrics["model"]) == {"must"}
    assert sorted(path.name for path in (tmp_path / "models" / "fold_0").iterdir()) == ["must"]
    assert "rivals=False" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 1, "resume": True}, CheckpointError, "fold_0/must/model holds the model of another run"),
        ({"changes": merge(TINY, {"model": {"rank": 99}})}, ValueError, "rank must lie in 1"),
        ({"changes": merge(TINY, {"model": {"timesteps": 20}})}, ValueError, "'timesteps' must be at least 50"),
        ({"training_missing": {}}, ValueError, "training_missing names no modality"),
    ],
)
def test_a_refused_evaluation_leaves_the_finished_one_alone(cohort, tmp_path, options, error, message):
    folded = replace(cohort, fold=np.arange(150) % 2)
    survcore.evaluate("must", folded, out=tmp_path, changes=TINY, rivals=False)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with pytest.raises(error, match=message):
        survcore.evaluate("must", folded, out=tmp_path, rivals=False, **{"changes": TINY} | options)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    assert "150 simulated rows" in (tmp_path / "report.md").read_text()


def test_a_modality_that_a_fold_cannot_train_is_named_before_any_training(cohort, monkeypatch):
    second = list(cohort.modalities)[1]
    folds = np.arange(150) % 5
    rare = replace(cohort, fold=folds).without(second, (folds != 3) & cohort.availability[:, 0])
    rare = rare.select(rare.availability[:, 0])
    monkeypatch.setattr(run, "fit", lambda *arguments, **options: pytest.fail("trained"))
    with pytest.raises(DataError, match=f"the training part of fold 3: .*{second}"):
        survcore.evaluate("must", rare, changes=TINY, rivals=False)


def test_a_modality_of_three_rows_is_trained_and_filled_in(cohort):
    first, second = cohort.modalities
    rare = cohort.select(cohort.availability.all(axis=1))
    rare = rare.without(second, np.arange(len(rare)) >= 6)
    model = survcore.fit("must", rare, changes=TINY, seed=1)
    table = model.predict(rare, steps=4)
    assert np.isfinite(table["risk"]).all()
    assert (table["completed"] == second).sum() == len(rare) - 6


def test_features_that_overflow_are_refused_by_name(cohort, trained):
    complete = cohort.select(cohort.availability.all(axis=1)).select(range(5))
    model = survcore.Predictor(copy.deepcopy(trained.system), trained.preprocessor, trained.description)
    with torch.no_grad():
        next(model.system.head.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match=f"risk of row {str(complete.row_ids[0])!r} is not a number"):
        model.outputs(complete)


@pytest.mark.parametrize(
    ("option", "value"),
    [("draws", 2.5), ("draws", True), ("steps", 12.5), ("batch_size", 0), ("seed", "x"), ("seed", 1.5)],
)
def test_numbers_that_are_not_whole_are_named(cohort, trained, option, value):
    part = cohort.without(list(cohort.modalities)[1], cohort.availability[:, 0])
    with pytest.raises(ValueError, match=f"{option} must be a whole number"):
        trained.predict(part.select(range(1, 4)), **{option: value})
