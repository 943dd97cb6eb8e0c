"""The baseline hazard and survival curves: other packages, the definition, the loss's gradient, limits, errors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import survcore
from survcore import baseline_hazard, cox_ph_loss

# --- other packages -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"weights_col": "weight"}, {"strata": ["site"]}], ids=str)
def test_lifelines(tied_patients: pd.DataFrame, options: dict[str, object]) -> None:
    """Baseline and predicted curves. lifelines' baseline is Breslow's whatever the ties, and forgets late entry."""
    from lifelines import CoxPHFitter

    extra = [value[0] if isinstance(value, list) else value for value in options.values()]
    frame = tied_patients[["a", "b", "c", "time", "event", *extra]]
    fitter = CoxPHFitter().fit(frame, "time", "event", **options)
    log_hazard = fitter.predict_log_partial_hazard(frame)
    columns = {"weights_col": "weights", "strata": "strata"}
    given = {columns[name]: frame[column] for name, column in zip(options, extra, strict=True)}
    baseline = baseline_hazard(log_hazard, frame["time"], frame["event"], ties="breslow", **given)

    # lifelines' curves are straight lines between observed times, flat before the first and after the last.
    longest = frame.groupby("site")["time"].max().min() if "strata" in options else np.inf
    times = [time for time in np.unique(frame["time"]) if time <= longest]
    expected = fitter.predict_survival_function(frame.head(20), times=times)
    of_patients = {"strata": frame["site"].head(20)} if "strata" in options else {}
    actual = baseline.survival_function(log_hazard.head(20), times, **of_patients)
    assert actual.index.name == "time"
    # lifelines orders stratified patients by stratum.
    pd.testing.assert_frame_equal(actual, expected[actual.columns], check_names=False, rtol=1e-9)
    if "strata" not in options:
        steps = fitter.baseline_cumulative_hazard_.iloc[:, 0]
        np.testing.assert_allclose(
            baseline.cumulative_hazard(0.0, steps.index.to_numpy()).iloc[:, 0], steps, rtol=1e-10, atol=1e-14
        )


def test_scikit_survival(tied_patients: pd.DataFrame) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    frame = tied_patients
    covariates = frame[["a", "b", "c"]].to_numpy()
    fitted = CoxPHSurvivalAnalysis(ties="efron").fit(covariates, Surv.from_arrays(frame["event"] == 1, frame["time"]))
    log_hazard = fitted.predict(covariates)
    baseline = baseline_hazard(log_hazard, frame["time"], frame["event"], ties="breslow")
    curves = fitted.predict_survival_function(covariates[:10])
    expected = np.stack([curve.y for curve in curves], axis=1)
    np.testing.assert_allclose(baseline.survival_function(log_hazard[:10], curves[0].x), expected, rtol=1e-8)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("columns", [{}, {"entry": "start"}, {"weight": "sample_weight"}, {"site": "strata"}], ids=str)
def test_coxdev(tied_patients: pd.DataFrame, ties: str, columns: dict[str, str]) -> None:
    """Increments of both kinds of ties."""
    import coxdev

    data = {name: tied_patients[name].to_numpy() for name in tied_patients}
    data["log_hazard"] = 0.8 * data["a"] - 0.5 * data["b"]
    theirs = {name: data[column] for column, name in columns.items() if name != "sample_weight"}
    fitted = coxdev.CoxDeviance(data["time"], data["event"], tie_breaking=ties, **theirs)
    weight = {"sample_weight": data["weight"].astype(float)} if "weight" in columns else {}
    expected = fitted.baseline_hazard(data["log_hazard"], **weight)
    names = {"start": "entry", "sample_weight": "weights", "strata": "strata"}
    ours = {names[name]: data[column] for column, name in columns.items()}
    frame = baseline_hazard(data["log_hazard"], data["time"], data["event"], ties=ties, **ours).to_frame()
    np.testing.assert_array_equal(frame["time"], expected.time)
    np.testing.assert_allclose(frame["cumulative_hazard"], expected.cumulative_hazard, rtol=1e-12)
    if "site" in columns:
        np.testing.assert_array_equal(frame["stratum"], expected.stratum)


# --- the definition -------------------------------------------------------------------------------------------------


def _problem(seed: int) -> dict[str, Tensor]:
    """Up to 25 rows with few distinct times, so that there are ties, late entries and strata without events."""
    generator = torch.Generator().manual_seed(seed)
    rows = 1 + int(torch.randint(25, (), generator=generator))

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, generator=generator, dtype=torch.float64)

    time = torch.randint(1, 7, (rows,), generator=generator).double()
    return {
        "time": time,
        "event": uniform(0, 1) < 0.6,
        "entry": time * uniform(-1, 0.99),
        "strata": torch.randint(3, (rows,), generator=generator),
        "weights": uniform(0.1, 5),
        "log_hazard": uniform(-20, 20),
    }


def _steps_by_definition(problem: dict[str, Tensor], ties: str) -> dict[tuple[int, float], tuple[float, float]]:
    """(stratum, time) -> what its events add to cumulative hazard and variance."""
    time, event, entry, strata, weights, h = (
        problem[name].tolist() for name in ("time", "event", "entry", "strata", "weights", "log_hazard")
    )
    rows = range(len(time))
    steps = {}
    for stratum, moment in sorted({(strata[i], time[i]) for i in rows if event[i]}):
        at_risk = [i for i in rows if strata[i] == stratum and entry[i] < moment <= time[i]]
        events = [i for i in at_risk if event[i] and time[i] == moment]
        total = math.fsum(weights[i] * math.exp(h[i]) for i in at_risk)
        tied = math.fsum(weights[i] * math.exp(h[i]) for i in events)
        mean_weight = math.fsum(weights[i] for i in events) / len(events)
        fractions = [number / len(events) if ties == "efron" else 0.0 for number in range(len(events))]
        denominators = [total - fraction * tied for fraction in fractions]
        steps[stratum, moment] = tuple(math.fsum(mean_weight / a**power for a in denominators) for power in (1, 2))
    return steps


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("seed", range(20))
def test_definition_and_bands(ties: str, seed: int) -> None:
    problem = _problem(seed)
    baseline = baseline_hazard(**problem, ties=ties)
    steps = _steps_by_definition(problem, ties)
    patient = 0.7
    for stratum in problem["strata"].unique().tolist():
        times = sorted(moment for label, moment in steps if label == stratum)
        hazard = np.cumsum([0.0, *(steps[stratum, moment][0] for moment in times)]) * math.exp(patient)
        error = np.sqrt(np.cumsum([0.0, *(steps[stratum, moment][1] for moment in times)])) * math.exp(patient)
        options = {"times": [0.0, *times], "strata": [stratum]}
        actual = baseline.cumulative_hazard(patient, **options)
        np.testing.assert_allclose(actual.iloc[:, 0], hazard, rtol=1e-9)
        survival = np.exp(-hazard)
        np.testing.assert_allclose(baseline.survival_function(patient, **options).iloc[:, 0], survival, rtol=1e-7)
        z = 1.6448536269514722  # 90 %
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = np.exp(z * np.where(hazard > 0, error / hazard, 0.0))
            expected = {
                "plain": (survival * (1 - z * error), survival * (1 + z * error)),
                "log": (np.exp(-hazard - z * error), np.exp(-hazard + z * error)),
                "log-log": (survival**ratio, survival ** (1 / ratio)),
            }
        for band, limits in expected.items():
            for actual, limit in zip(
                baseline.survival_band(patient, **options, level=0.9, band=band), limits, strict=True
            ):
                clipped = np.clip(np.nan_to_num(limit, nan=0.0), 0.0, 1.0)
                np.testing.assert_allclose(actual.iloc[:, 0], clipped, rtol=1e-6, atol=1e-12, err_msg=band)


@pytest.mark.parametrize("seed", range(20))
def test_gradient_of_the_loss_is_observed_minus_expected(seed: int) -> None:
    """With Breslow's ties the gradient is minus the weighted martingale residual, events less cumulative hazard."""
    problem = _problem(seed)
    baseline = baseline_hazard(**problem, ties="breslow")
    log_hazard = problem["log_hazard"].clone().requires_grad_()
    loss = cox_ph_loss(**(problem | {"log_hazard": log_hazard}), ties="breslow", reduction="sum")
    (gradient,) = torch.autograd.grad(loss, log_hazard)

    def cumulative(times: Tensor) -> np.ndarray:
        table = baseline.cumulative_hazard(problem["log_hazard"], times.clamp(min=0), strata=problem["strata"])
        return np.diag(table.to_numpy())  # each patient at the own time

    expected = cumulative(problem["time"]) - cumulative(problem["entry"])
    residual = problem["event"].numpy() - expected
    scale = 1 + np.abs(cumulative(problem["time"])).max()
    np.testing.assert_allclose(-gradient.numpy(), problem["weights"].numpy() * residual, atol=1e-9 * scale * 5)


def test_without_covariates_it_is_nelson_and_aalen(tied_patients: pd.DataFrame) -> None:
    data = {name: tied_patients[name].to_numpy() for name in ("time", "event")}
    zero = np.zeros(len(data["time"]))
    breslow, efron = (baseline_hazard(zero, data["time"], data["event"], ties=ties) for ties in ("breslow", "efron"))
    at_risk, plain, one_by_one = len(zero), [0.0], [0.0]
    for moment in np.unique(data["time"]):
        here = data["time"] == moment
        events = int(data["event"][here].sum())
        if events:
            plain.append(plain[-1] + events / at_risk)
            one_by_one.append(one_by_one[-1] + sum(1 / (at_risk - number) for number in range(events)))
        at_risk -= int(here.sum())
    np.testing.assert_allclose(breslow.to_frame()["cumulative_hazard"], plain[1:], rtol=1e-12)
    np.testing.assert_allclose(efron.to_frame()["cumulative_hazard"], one_by_one[1:], rtol=1e-12)


# --- what a user meets ----------------------------------------------------------------------------------------------

TIME = [5.0, 3.0, 3.0, 8.0, 1.0]
EVENT = [1, 1, 0, 0, 1]


def test_written_out() -> None:
    """Nobody differs: 1/5 at 1, 1/4 at 3, 1/2 at 5, nothing known beyond 8."""
    baseline = baseline_hazard([0.0] * 5, TIME, EVENT)
    assert repr(baseline) == "BaselineHazard(3 event times, known up to 8)"
    frame = baseline.to_frame()
    np.testing.assert_allclose(frame["hazard"], [1 / 5, 1 / 4, 1 / 2])
    np.testing.assert_allclose(frame["survival"], np.exp(-np.cumsum([1 / 5, 1 / 4, 1 / 2])))
    curve = baseline.survival_function([0.0, math.log(2)], [0, 0.999, 1, 8, 8.001])
    assert list(curve.index) == [0, 0.999, 1, 8, 8.001] and list(curve.columns) == [0, 1]
    np.testing.assert_allclose(curve[0], [1, 1, math.exp(-0.2), math.exp(-0.95), math.nan])
    np.testing.assert_allclose(curve[1], [1, 1, math.exp(-0.4), math.exp(-1.9), math.nan])
    lower, upper = baseline.survival_band([0.0], [0, 1, 9])
    np.testing.assert_allclose(lower[0], [1, math.exp(-0.2 - 1.959963984540054 * 0.2), math.nan])
    np.testing.assert_allclose(upper[0], [1, 1, math.nan])


def test_inputs_of_every_kind() -> None:
    """Lists, tensors that need a gradient, half precision, columns and Series; a Series names the patients."""
    names = ["p1", "p2", "p3", "p4", "p5"]
    column = torch.tensor([[0.5], [0.25], [0.0], [1.0], [-0.5]], requires_grad=True)
    expected = baseline_hazard(column.flatten().tolist(), TIME, EVENT).survival_function([0.5]).to_numpy()
    for log_hazard, time, event in (
        (column, torch.tensor(TIME), torch.tensor(EVENT)),
        (column.half(), torch.tensor(TIME, dtype=torch.float64), torch.tensor(EVENT).bool()),
        (pd.Series(column.flatten().tolist(), index=names), pd.Series(TIME, index=names), np.array(EVENT)),
    ):
        baseline = baseline_hazard(log_hazard, time, event)
        np.testing.assert_allclose(
            baseline.survival_function(log_hazard)[[0] if torch.is_tensor(log_hazard) else ["p1"]], expected
        )
    assert list(baseline.survival_function(log_hazard).columns) == names
    assert list(baseline.survival_function(log_hazard).index) == [1.0, 3.0, 5.0]


def test_log_hazards_of_ten_thousand() -> None:
    """The baseline itself is e^-10000 here; the curves of patients are as without the shift."""
    log_hazard = np.array([0.3, -1.0, 0.5, 0.1, 0.9])
    plain = baseline_hazard(log_hazard, TIME, EVENT).survival_function(log_hazard)
    shifted = baseline_hazard(log_hazard + 1e4, TIME, EVENT)
    pd.testing.assert_frame_equal(shifted.survival_function(log_hazard + 1e4), plain, rtol=1e-10)
    assert (shifted.to_frame()["cumulative_hazard"] == 0).all()
    lower, upper = shifted.survival_band(log_hazard + 2e4, band="log-log")
    assert (lower == 0).all(None) and (upper == 0).all(None)
    assert (shifted.survival_function([-np.inf]) == 1).all(None)


@pytest.mark.parametrize("event", [[0] * 5, []])
def test_no_events(event: list[int]) -> None:
    rows = len(event)
    baseline = baseline_hazard([0.0] * rows, TIME[:rows], event)
    assert len(baseline.to_frame()) == 0
    curve = baseline.survival_function([0.0, 3.0], [0.0, 8.0, 9.0])
    assert (curve.loc[0.0] == 1).all() and curve.loc[9.0].isna().all()


def test_strata_end_on_their_own() -> None:
    baseline = baseline_hazard([0.0] * 5, TIME, EVENT, strata=[7, 7, 2, 2, 2])
    assert list(baseline.strata) == [2, 7]
    assert list(baseline.to_frame()["stratum"]) == [2, 7, 7]
    curve = baseline.survival_function([0.0, 0.0], [1.0, 5.0, 8.0], strata=[7, 2])
    np.testing.assert_allclose(curve[0], [1, math.exp(-1 / 2 - 1), math.nan])
    np.testing.assert_allclose(curve[1], np.exp(-1 / 3) * np.ones(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_hazard": [0.0, math.nan, 0, 0, 0]}, "log_hazard must be finite or -inf, got nan for patient 1"),
        ({"log_hazard": [0.0] * 4}, r"time must have one entry per row of log_hazard, \[4\]"),
        ({"event": [1, 1, 0, 0, 2]}, "event must be 0 .censored. or 1, got 2 in row 4"),
        ({"time": [5.0, 3, 3, -8, 1]}, "time must be finite and at least 0, got -8.0 in row 3"),
        ({"weights": [1.0, 1, -1, 1, 1]}, "weights must be at least 0 and finite in torch.float64, got -1.0 in row 2"),
        ({"entry": [0.0, 0, 3, 0, 0]}, "entry must be before time"),
        ({"ties": "exact"}, "ties must be 'efron' or 'breslow', got 'exact'"),
        (
            {"time": pd.Series(TIME, index=list("edcba")), "event": pd.Series(EVENT, index=list("abcde"))},
            "event and time have different indexes",
        ),
    ],
)
def test_errors_of_the_estimate(arguments: dict[str, object], message: str) -> None:
    ordinary = {"log_hazard": [0.0] * 5, "time": TIME, "event": EVENT}
    with pytest.raises(ValueError, match=message):
        baseline_hazard(**(ordinary | arguments))


@pytest.mark.parametrize("values", [["a", "b", "c", "d", "e"], np.array(TIME).astype(int).astype("timedelta64[D]")])
def test_times_that_are_no_numbers(values: object) -> None:
    with pytest.raises(TypeError, match="time must hold numbers"):
        baseline_hazard([0.0] * 5, values, EVENT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_hazard": pd.Series([0.0, math.inf], index=["a", "b"])}, "got inf for patient b"),
        ({"log_hazard": [[0.0, 1.0]]}, "expected log_hazard as a vector"),
        ({"times": [1.0, -2.0]}, r"times must be at least 0, got \[-2.0\]"),
        ({"times": [math.nan]}, "times must be at least 0, got"),
        ({"strata": None}, "strata are missing"),
        ({"strata": [2]}, r"strata must have one entry per patient, \[2\], got shape \(1,\)"),
        ({"strata": [7, 3]}, "patient 1 is of stratum 3, which the baseline hazard does not have"),
        ({"strata": [7, 9]}, "patient 1 is of stratum 9"),
        ({"level": 95}, "level must be between 0 and 1, got 95"),
        ({"level": "0.95"}, "level must be between 0 and 1, got '0.95'"),
        ({"level": 1 - 1e-16}, "level must be between 0 and 1"),
        (
            {"log_hazard": pd.Series([0.0, 1], index=["a", "b"]), "strata": pd.Series([7, 2], index=["b", "a"])},
            "strata and log_hazard have different indexes",
        ),
        ({"band": "loglog"}, "band must be one of 'log', 'log-log', 'plain', got 'loglog'"),
    ],
)
def test_errors_of_the_curves(arguments: dict[str, object], message: str) -> None:
    baseline = baseline_hazard([0.0] * 5, TIME, EVENT, strata=[7, 7, 2, 2, 2])
    ordinary = {"log_hazard": [0.0, 0.0], "times": [1.0], "strata": [7, 2]}
    with pytest.raises(ValueError, match=message):
        baseline.survival_band(**(ordinary | arguments))


def test_strata_given_in_vain() -> None:
    with pytest.raises(ValueError, match="the baseline hazard has no strata, got some"):
        baseline_hazard([0.0] * 5, TIME, EVENT).survival_function([0.0], strata=[1])


def test_many_strata_of_any_label() -> None:
    """Each its own curve, whatever the labels; nothing goes through all strata for each of them."""
    rows = 60_000
    generator = np.random.default_rng(2)
    log_hazard, time = generator.normal(size=rows), generator.integers(1, 50, rows)
    event, site = (
        generator.random(rows) < 0.5,
        np.array([f"site {number:05}" for number in generator.integers(0, 20_000, rows)]),
    )
    baseline = baseline_hazard(log_hazard, time, event, strata=site)
    assert len(baseline.strata) == len(np.unique(site))
    for name in (site[0], site[-1]):
        own = site == name
        expected = baseline_hazard(log_hazard[own], time[own], event[own]).survival_function(log_hazard[own])
        actual = baseline.survival_function(log_hazard[own], expected.index, strata=site[own])
        pd.testing.assert_frame_equal(actual, expected, rtol=1e-12)


def test_a_small_step_behind_a_large_one() -> None:
    """The difference of the sums would be 0, and of sums beyond float64, NaN."""
    arguments = {"time": [1.0, 2.0, 3.0], "event": [1, 1, 0], "entry": [0.0, 1.0, 1.0]}
    log_hazard = np.array([-20.0, 20.0, 20.0])
    frame = baseline_hazard(log_hazard, **arguments).to_frame()
    np.testing.assert_allclose(frame["hazard"], [math.exp(20), math.exp(-20) / 2], rtol=1e-12)
    frame = baseline_hazard(log_hazard - 800, **arguments).to_frame()
    assert np.isinf(frame["hazard"]).all() and (frame["survival"] == 0).all()


def test_columns_as_pandas_holds_them() -> None:
    expected = baseline_hazard([0.0] * 5, TIME, EVENT).to_frame()
    time, event = np.array(TIME), pd.Series(EVENT, dtype=object)
    time.flags.writeable = False
    pd.testing.assert_frame_equal(baseline_hazard([0.0] * 5, time, event).to_frame(), expected)
    nobody = baseline_hazard([], [], [], strata=np.array([], dtype=int))
    assert len(nobody.to_frame()) == 0 and nobody.survival_function([], strata=[]).shape == (0, 0)


def test_names_are_public() -> None:
    assert survcore.BaselineHazard is type(baseline_hazard([0.0], [1.0], [1]))
