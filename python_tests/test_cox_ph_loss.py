"""The Cox partial likelihood against R, lifelines and its definition, its invariances, and errors that name the row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import survcore
from survcore import RiskSets, cox_ph_loss
from survcore.losses import CoxPHLoss
from survcore.reference.cox_ph_loss import cox_ph_loss as reference
from survcore.reference.cox_risk_sets import CoxPlan

RealData = Callable[[str], Path]
TIME = torch.tensor([5.0, 3.0, 3.0, 8.0, 1.0, 3.0])
EVENT = torch.tensor([1, 1, 0, 0, 1, 1])
LOG_HAZARD = torch.tensor([0.3, -1.0, 0.5, 0.1, 0.9, -0.2], dtype=torch.float64)


def value_and_gradient(log_hazard: Tensor, *arguments: Tensor | RiskSets, **options: object) -> tuple[Tensor, Tensor]:
    log_hazard = log_hazard.detach().requires_grad_()
    loss = cox_ph_loss(log_hazard, *arguments, **options)
    return loss.detach(), torch.autograd.grad(loss, log_hazard)[0]


# --- oracles --------------------------------------------------------------------------------------------------------


def _r_problem(real_data: RealData, case: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Time, event and options of a case of R's values, as their README describes it."""
    if case.startswith("msk_chord"):
        folder = real_data("msk_chord_2024_figures")
        names = ("brca", "crc", "nsclc", "panc", "prostate")
        parts = [pd.read_csv(folder / f"{name}.csv.gz", usecols=["entry", "stop", "dead"]) for name in names]
        rows = pd.concat([part.assign(cancer=number) for number, part in enumerate(parts)], ignore_index=True)
        options = {"entry": torch.tensor(rows["entry"].to_numpy(dtype=float))}
        if "strata" in case:
            options["strata"] = torch.tensor(rows["cancer"].to_numpy())
        return torch.tensor(rows["stop"].to_numpy(dtype=float)), torch.tensor(rows["dead"].to_numpy()), options
    rows = pd.read_csv(real_data("deepsurv_benchmarks") / f"{case.split()[0]}.csv.gz")
    time = torch.tensor(rows["time"].to_numpy(dtype=float))
    index = torch.arange(len(rows))
    options = {}
    if "rounded to 30" in case:
        time = (time / 30).round() * 30 + 1
    if "weights" in case:
        options["weights"] = 1 + (index % 3).double() / 2
    if "strata" in case:
        options["strata"] = index % 5
    return time, torch.tensor(rows["event"].to_numpy()), options


def test_r_survival(real_data: RealData) -> None:
    """Log-likelihood and gradient of every case: ties, weights, strata, left truncation, large linear predictors."""
    cases = json.loads((real_data("r_survival_oracle") / "oracle.json").read_text())["cox"]
    assert len(cases) == 36
    for case in cases:
        time, event, options = _r_problem(real_data, case["case"])
        assert (len(time), int(event.sum())) == (case["n"], case["events"])
        log_hazard = case["lp_scale"] * ((7 * torch.arange(len(time)) % 101).double() / 101 - 0.5)
        loss, gradient = value_and_gradient(log_hazard, time, event, **options, ties=case["ties"], reduction="sum")
        name = f"{case['case']}, {case['ties']}, {case['lp_scale']}"
        assert -loss.item() == pytest.approx(case["loglik"], rel=1e-12), name
        expected = torch.tensor(case["grad"], dtype=torch.float64)
        torch.testing.assert_close(-gradient[case["grad_index"]], expected, rtol=1e-10, atol=1e-10, msg=name)
        assert gradient.square().sum().item() == pytest.approx(case["grad_sumsq"], rel=1e-10), name


def _lifelines_fit(frame: pd.DataFrame, **options: object) -> tuple[np.ndarray, float]:
    from lifelines import CoxPHFitter

    columns = [value[0] if isinstance(value, list) else value for value in options.values()]
    fitter = CoxPHFitter().fit(
        frame[["a", "b", "c", "time", "event", *columns]],
        "time",
        "event",
        **options,
        fit_options={"precision": 1e-12},
    )
    return fitter.params_.to_numpy(), fitter.log_likelihood_


@pytest.mark.parametrize(
    ("lifelines_options", "columns"),
    [
        ({}, {}),
        ({"weights_col": "weight"}, {"weights": "weight"}),
        ({"strata": ["site"]}, {"strata": "site"}),
        ({"entry_col": "entry"}, {"entry": "entry"}),
        ({"entry_col": "entry", "strata": ["site"]}, {"entry": "entry", "strata": "site"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_linear_model_of_lifelines(
    tied_patients: pd.DataFrame, lifelines_options: dict[str, object], columns: dict[str, str]
) -> None:
    """Likelihood at lifelines' coefficients, and the same coefficients from a fit through the loss."""
    frame = tied_patients
    expected, log_likelihood = _lifelines_fit(frame, **lifelines_options)
    covariates = torch.tensor(frame[["a", "b", "c"]].to_numpy())
    time, event = (torch.tensor(frame[name].to_numpy()) for name in ("time", "event"))
    options = {name: torch.tensor(frame[column].to_numpy()) for name, column in columns.items()}
    weights = options.pop("weights", None)
    risk_sets = RiskSets.from_times(time, event, **options)

    def loss(coefficients: Tensor) -> Tensor:
        return cox_ph_loss(covariates @ coefficients, risk_sets, weights=weights, reduction="sum")

    assert -loss(torch.tensor(expected)).item() == pytest.approx(log_likelihood, rel=1e-10)

    def gradient(coefficients: Tensor) -> Tensor:
        coefficients = coefficients.clone().requires_grad_()
        return torch.autograd.grad(loss(coefficients), coefficients)[0]

    # Newton's method, with differences of the gradient as second derivatives.
    coefficients = torch.zeros(3, dtype=torch.float64)
    for _ in range(10):
        steps = 1e-5 * torch.eye(3, dtype=torch.float64)
        curvature = (
            torch.stack([gradient(coefficients + step) - gradient(coefficients - step) for step in steps]) / 2e-5
        )
        coefficients -= torch.linalg.solve(curvature, gradient(coefficients))
    np.testing.assert_allclose(coefficients, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("columns", [{}, {"entry": "start"}, {"weight": "sample_weight"}, {"site": "strata"}], ids=str)
def test_coxdev(tied_patients: pd.DataFrame, ties: str, columns: dict[str, str]) -> None:
    """Value and gradient. The deviance is twice the distance to the saturated log-likelihood."""
    import coxdev

    log_hazard = (tied_patients["a"] - tied_patients["b"]).to_numpy()
    time, event = tied_patients["time"].to_numpy(), tied_patients["event"].to_numpy()
    theirs = {name: tied_patients[column].to_numpy(dtype=float) for column, name in columns.items()}
    given = {"sample_weight": theirs.pop("sample_weight")} if "weight" in columns else {}
    expected = coxdev.CoxDeviance(time, event, tie_breaking=ties, **theirs)(log_hazard, **given)

    names = {"entry": "entry", "weight": "weights", "site": "strata"}
    options = {names[column]: torch.tensor(tied_patients[column].to_numpy()) for column in columns}
    loss, gradient = value_and_gradient(
        *(torch.tensor(values) for values in (log_hazard, time, event)), **options, ties=ties, reduction="sum"
    )
    assert loss.item() == pytest.approx(expected.deviance / 2 - expected.loglik_sat, rel=1e-12)
    np.testing.assert_allclose(gradient, expected.gradient / 2, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_scikit_survival(tied_patients: pd.DataFrame, ties: str) -> None:
    """Likelihood at fitted coefficients, where scikit-survival's gradient vanishes, and so does ours."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    covariates = tied_patients[["a", "b", "c"]].to_numpy()
    outcome = Surv.from_arrays(tied_patients["event"] == 1, tied_patients["time"])
    fitted = CoxPHSurvivalAnalysis(ties=ties, tol=1e-12).fit(covariates, outcome)
    time, event = (torch.tensor(tied_patients[name].to_numpy()) for name in ("time", "event"))
    _, gradient = value_and_gradient(torch.tensor(covariates @ fitted.coef_), time, event, ties=ties, reduction="sum")
    np.testing.assert_allclose(gradient.numpy() @ covariates, 0, atol=1e-6)


# --- the definition and its invariances -----------------------------------------------------------------------------


def loss_by_definition(problem: dict[str, Tensor], ties: str) -> float:
    """Summed loss, one event time of one stratum after the other."""
    time, event, entry, strata, weights, h = (
        problem[name].tolist() for name in ("time", "event", "entry", "strata", "weights", "log_hazard")
    )
    relative = [w * math.exp(value) for w, value in zip(weights, h, strict=True)]
    rows = range(len(time))
    loss = 0.0
    for stratum, moment in sorted({(strata[i], time[i]) for i in rows if event[i]}):
        at_risk = [i for i in rows if strata[i] == stratum and entry[i] < moment <= time[i]]
        events = [i for i in at_risk if event[i] and time[i] == moment]
        total, tied = math.fsum(relative[i] for i in at_risk), math.fsum(relative[i] for i in events)
        mean_weight = math.fsum(weights[i] for i in events) / len(events)
        for number, i in enumerate(events):
            fraction = number / len(events) if ties == "efron" else 0.0
            loss += mean_weight * math.log(total - fraction * tied) - weights[i] * h[i]
    return loss


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Tensor]:
    """Rows with few distinct times, so that there are ties, late entries and strata without events."""
    row = st.tuples(
        st.integers(1, 6),
        st.booleans(),
        st.floats(-1.0, 0.99),
        st.integers(0, 2),
        st.floats(0.1, 5.0),
        st.floats(-20, 20),
    )
    rows = draw(st.lists(row, min_size=1, max_size=25))
    time, event, share, strata, weights, log_hazard = (torch.tensor(column) for column in zip(*rows, strict=True))
    return {
        "time": time.double(),
        "event": event,
        "entry": time.double() * share.double(),
        "strata": strata,
        "weights": weights.double(),
        "log_hazard": log_hazard.double(),
    }


def _summed(problem: dict[str, Tensor], ties: str = "efron", **changes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Summed loss and its gradient."""
    arguments = problem | changes
    log_hazard = arguments.pop("log_hazard")
    return value_and_gradient(log_hazard, **arguments, ties=ties, reduction="sum")


def _close(actual: Tensor, expected: Tensor | float, scale: float = 1e-11) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=scale, atol=scale * 100)


@settings(max_examples=100, deadline=None)
@given(problems(), st.sampled_from(["efron", "breslow"]))
def test_definition(problem: dict[str, Tensor], ties: str) -> None:
    _close(_summed(problem, ties)[0], loss_by_definition(problem, ties))
    begins = problem | {"entry": torch.full_like(problem["entry"], -1.0)}
    _close(_summed(problem, ties, entry=None)[0], loss_by_definition(begins, ties))


@settings(max_examples=50, deadline=None)
@given(problems(), st.randoms(use_true_random=False), st.floats(-100, 100))
def test_permutation_and_shift_invariance(problem: dict[str, Tensor], random: object, shift: float) -> None:
    loss, gradient = _summed(problem)
    permutation = list(range(len(gradient)))
    random.shuffle(permutation)
    permuted_loss, permuted_gradient = _summed({name: value[permutation] for name, value in problem.items()})
    _close(permuted_loss, loss)
    _close(permuted_gradient, gradient[permutation])
    shifted_loss, shifted_gradient = _summed(problem, log_hazard=problem["log_hazard"] + shift)
    _close(shifted_loss, loss)
    _close(shifted_gradient, gradient)
    _close(gradient.sum(), 0.0)


@settings(max_examples=50, deadline=None)
@given(problems(), st.data())
def test_weights_are_repetitions(problem: dict[str, Tensor], data: st.DataObject) -> None:
    """Of Breslow's rule; with Efron's, repeated rows are tied events and a weighted one is not."""
    rows = len(problem["time"])
    counts = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    index = torch.repeat_interleave(counts)
    loss, gradient = _summed(problem, "breslow", weights=counts)
    repeated = {name: value[index] for name, value in problem.items()}
    repeated_loss, repeated_gradient = _summed(repeated, "breslow", weights=None)
    _close(loss, repeated_loss)
    _close(gradient, torch.zeros(rows, dtype=torch.float64).index_add(0, index, repeated_gradient))


@settings(max_examples=50, deadline=None)
@given(problems())
def test_strata_are_the_sum_of_their_parts(problem: dict[str, Tensor]) -> None:
    loss, gradient = _summed(problem)
    parts = torch.zeros_like(loss)
    for stratum in problem["strata"].unique():
        own = problem["strata"] == stratum
        part, part_gradient = _summed({name: value[own] for name, value in problem.items()}, strata=None)
        parts += part
        _close(gradient[own], part_gradient)
    _close(loss, parts)


@settings(max_examples=50, deadline=None)
@given(problems())
def test_entry_below_every_time_changes_nothing(problem: dict[str, Tensor]) -> None:
    before = torch.full_like(problem["time"], 0.5)
    for actual, expected in zip(_summed(problem, entry=before), _summed(problem, entry=None), strict=True):
        assert torch.equal(actual, expected)


def test_written_out() -> None:
    """Mean over the four events; the events at time 3 are two and share Efron's denominators."""
    e = LOG_HAZARD.exp().tolist()
    at_five = e[0] + e[3]
    at_three = at_five + e[1] + e[2] + e[5]
    logs = [math.log(at_five), math.log(at_three), math.log(at_three - (e[1] + e[5]) / 2), math.log(at_three + e[4])]
    expected = sum(logs) - (LOG_HAZARD * EVENT).sum().item()
    assert cox_ph_loss(LOG_HAZARD, TIME, EVENT).item() == pytest.approx(expected / 4, rel=1e-14)
    logs[2] = logs[1]
    expected = sum(logs) - (LOG_HAZARD * EVENT).sum().item()
    actual = cox_ph_loss(LOG_HAZARD, TIME, EVENT, ties="breslow", reduction="sum")
    assert actual.item() == pytest.approx(expected, rel=1e-14)


# --- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [None, torch.zeros(400, dtype=torch.float64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_hazards_of_ten_thousand(dtype: torch.dtype, entry: Tensor | None) -> None:
    """Finite where exp overflows; of two rows at risk the one of 10,000 makes the other's event cost 20,000."""
    generator = torch.Generator().manual_seed(1)
    log_hazard = 1e4 * (2 * torch.randint(0, 2, (400,), generator=generator) - 1).to(dtype)
    time = torch.randint(1, 50, (400,), generator=generator).double()
    event = torch.rand(400, generator=generator) < 0.5
    loss, gradient = value_and_gradient(log_hazard, time, event, entry=entry)
    assert loss.isfinite() and gradient.isfinite().all() and gradient.abs().max() < 400
    assert abs(gradient.sum().item()) < (1e-4 if dtype == torch.float32 else 1e-10)
    pair = cox_ph_loss(torch.tensor([-1e4, 1e4], dtype=dtype), torch.tensor([1.0, 2.0]), torch.tensor([1, 0]))
    assert pair.item() == pytest.approx(2e4)


@pytest.mark.parametrize("event", [[], [0], [1], [0, 0, 0]])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_too_few_events_for_a_likelihood(event: list[int], reduction: str) -> None:
    """Nobody, one row, or no event: 0 with a gradient of 0 that is connected to the graph."""
    log_hazard = torch.randn(len(event), requires_grad=True)
    loss = cox_ph_loss(
        2 * log_hazard, torch.arange(len(event)).float(), torch.tensor(event, dtype=torch.int64), reduction=reduction
    )
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(log_hazard.grad, torch.zeros(len(event)))


@pytest.mark.parametrize("entry", [False, True])
def test_float32_is_close_to_float64(entry: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    log_hazard = torch.randn(20_000, generator=generator)
    time = torch.randint(1, 3000, (20_000,), generator=generator)
    event = torch.rand(20_000, generator=generator) < 0.4
    risk_sets = RiskSets.from_times(time, event, time // 2 if entry else None)
    single, exact = (value_and_gradient(log_hazard.to(dtype), risk_sets) for dtype in (torch.float32, torch.float64))
    assert single[0].dtype == single[1].dtype == torch.float32
    assert single[0].item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert (single[1].double() - exact[1]).abs().max() < 1e-6 * exact[1].abs().max()


def test_many_late_entries() -> None:
    """Against differences of cumulative sums, which float64 allows while nobody's hazard stands out."""
    generator = torch.Generator().manual_seed(4)
    rows = 150_000
    log_hazard = torch.randn(rows, generator=generator, dtype=torch.float64)
    time = 1 + torch.randperm(rows, generator=generator).double()
    event = torch.rand(rows, generator=generator) < 0.6
    entry = time * torch.rand(rows, generator=generator) * 0.99
    loss, gradient = value_and_gradient(log_hazard, time, event, entry=entry, reduction="sum")

    h = log_hazard.clone().requires_grad_()
    later, entries = time.argsort(descending=True), entry.argsort(descending=True)
    zero = h.new_zeros(1)
    of_later, of_entries = (torch.cat((zero, h.exp()[order].cumsum(0))) for order in (later, entries))
    moments = time[event]
    at_risk = of_later[torch.searchsorted(-time[later], -moments, right=True)]
    at_risk = at_risk - of_entries[torch.searchsorted(-entry[entries], -moments, right=True)]
    expected = (at_risk.log() - h[event]).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-11)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, h)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("times", [50, 10**6])
def test_same_bits_with_any_number_of_threads(times: int, late: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    log_hazard = torch.randn(300_000, generator=generator)
    time = torch.randint(0, times, (300_000,), generator=generator)
    event = torch.rand(300_000, generator=generator) < 0.4
    entry = time * torch.rand(300_000, generator=generator) - 1 if late else None
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        plan = CoxPlan.read(RiskSets.from_times(time, event, entry).plan)
        results.append((*vars(plan).values(), *value_and_gradient(log_hazard, time, event, entry=entry)))
    for result in results[1:]:
        assert all(torch.equal(actual, expected) for actual, expected in zip(result, results[0], strict=True))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [None, 1e-20, 1e-7, 1e-5, 1.0, 1e5, 1e7, 1e20])
@pytest.mark.parametrize("span", [1.0, 15.9, 16.1, 599.9, 600.1, 3000.0])
def test_where_the_kinds_of_sums_change(span: float, scale: float | None, dtype: torch.dtype, late: bool) -> None:
    """Sums in float, in double and as pairs, on both sides of where one takes over, with weights of any size."""
    generator = torch.Generator().manual_seed(6)
    rows = 60
    log_hazard = span * torch.rand(rows, generator=generator, dtype=torch.float64)
    log_hazard[:2] = torch.tensor([0.0, span])
    time = torch.randint(1, 20, (rows,), generator=generator).double()
    event = torch.rand(rows, generator=generator) < 0.6
    entry = time * torch.rand(rows, generator=generator, dtype=torch.float64) - 0.5 if late else None
    strata = torch.randint(2, (rows,), generator=generator)
    weights = None
    if scale is not None:
        weights = (scale * (0.5 + torch.rand(rows, generator=generator, dtype=torch.float64))).to(dtype)
        weights[5] = 0
    sets = RiskSets.from_times(time, event, entry, strata)
    log_hazard = log_hazard.to(dtype)
    loss, gradient = value_and_gradient(log_hazard, sets, weights=weights)
    exact = [torch.empty(0) if weights is None else weights.double(), "efron", "mean", True]
    expected, slope = reference(log_hazard.double(), sets.plan, *exact)
    bound = 2e-6 if dtype == torch.float32 else 1e-12
    assert loss.item() == pytest.approx(expected.item(), rel=bound)
    assert (gradient - slope).abs().max() < bound * max(1.0, slope.abs().max().item())


@pytest.mark.parametrize("weight", [1e-60, 1e-150, 1e-300, 1e300])
def test_weights_near_the_ends_of_float64(weight: float) -> None:
    """Of one size they change nothing."""
    log_hazard = torch.tensor([-590.0, 0, 0, -590, 0, 0], dtype=torch.float64)
    expected = value_and_gradient(log_hazard, TIME, EVENT)
    loss, gradient = value_and_gradient(log_hazard, TIME, EVENT, weights=torch.full_like(log_hazard, weight))
    # The loss has the logarithm of the weights, each event's share of it the same.
    assert loss.item() == pytest.approx(expected[0].item() + math.log(weight), rel=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-11, atol=1e-13)


# --- torch ----------------------------------------------------------------------------------------------------------


def test_module_and_column_of_log_hazards() -> None:
    module = CoxPHLoss(ties="breslow", reduction="sum")
    expected = cox_ph_loss(LOG_HAZARD, TIME, EVENT, ties="breslow", reduction="sum")
    risk_sets = RiskSets.from_times(TIME, EVENT)
    assert torch.equal(module(LOG_HAZARD, TIME, EVENT), expected)
    assert torch.equal(module(LOG_HAZARD.unsqueeze(1), risk_sets), expected)
    assert repr(module) == "CoxPHLoss(ties='breslow', reduction='sum')"
    assert survcore.cox_ph_loss is cox_ph_loss


@pytest.mark.parametrize("weights", [None, torch.arange(1.0, 7.0)])
def test_compiles_as_one_graph(weights: Tensor | None) -> None:
    risk_sets = RiskSets.from_times(TIME, EVENT)
    for function, arguments in (
        (lambda h, time, event: cox_ph_loss(2 * h, time, event, weights=weights), (TIME, EVENT)),
        (lambda h, sets: cox_ph_loss(2 * h, sets, weights=weights), (risk_sets,)),
        (CoxPHLoss(), (TIME, EVENT)),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        results = []
        for call in (function, compiled):
            log_hazard = LOG_HAZARD.clone().requires_grad_()
            loss = call(log_hazard, *arguments)
            results.append((loss, torch.autograd.grad(loss, log_hazard)[0]))
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
        with torch.no_grad():
            assert torch.equal(compiled(LOG_HAZARD, *arguments), results[0][0])
    torch._dynamo.reset()


def test_compiled_function_refuses_invalid_times() -> None:
    """In the kernel: a graph cannot stop at a value."""
    compiled = torch.compile(cox_ph_loss, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="invalid times, events or entries"):
        compiled(LOG_HAZARD, -TIME, EVENT)
    torch._dynamo.reset()


def test_compiled_function_refuses_invalid_weights() -> None:
    compiled = torch.compile(cox_ph_loss, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="weights must be finite and at least 0"):
        compiled(LOG_HAZARD, TIME, EVENT, weights=TIME - 4)


def test_backward_again_and_changed_gradients() -> None:
    """What backward hands out is the caller's, to change as he likes."""
    log_hazard = LOG_HAZARD.clone().requires_grad_()
    loss = cox_ph_loss(log_hazard, TIME, EVENT)
    (expected,) = torch.autograd.grad(2 * loss, log_hazard, retain_graph=True)
    for _ in range(3):
        (gradient,) = torch.autograd.grad(loss, log_hazard, retain_graph=True)
        torch.testing.assert_close(gradient, expected / 2, rtol=1e-13, atol=0)
        gradient.numpy()[:] = 7
    (gradient,) = torch.autograd.grad(3 * loss, log_hazard, retain_graph=True)
    torch.testing.assert_close(gradient, 1.5 * expected, rtol=1e-13, atol=0)
    both = torch.autograd.grad(loss, log_hazard, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)[0]
    torch.testing.assert_close(both, torch.stack((expected / 2, expected)), rtol=1e-13, atol=0)


def test_forward_mode_is_refused_without_gradients_too() -> None:
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(LOG_HAZARD, torch.ones_like(LOG_HAZARD))
        with pytest.raises(NotImplementedError, match="jvp"):
            cox_ph_loss(dual, TIME, EVENT)


def test_autocast() -> None:
    """Half-precision log-hazards of a network under autocast: the loss is that of their values in float32."""
    network = torch.nn.Linear(4, 1)
    covariates = torch.randn(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        log_hazard = network(covariates)
        loss = cox_ph_loss(log_hazard, TIME, EVENT)
    assert log_hazard.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert loss.item() == cox_ph_loss(log_hazard.float(), TIME, EVENT).item()
    loss.backward()
    assert network.weight.grad.abs().sum() > 0


def test_function_transforms_and_no_grad() -> None:
    _, expected = value_and_gradient(LOG_HAZARD, TIME, EVENT)
    torch.testing.assert_close(torch.func.grad(cox_ph_loss)(LOG_HAZARD, TIME, EVENT), expected)
    with torch.no_grad():
        loss = cox_ph_loss(LOG_HAZARD.clone().requires_grad_(), TIME, EVENT)
    assert not loss.requires_grad


# --- errors ---------------------------------------------------------------------------------------------------------

SETS = RiskSets.from_times(TIME, EVENT)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"log_hazard": LOG_HAZARD.view(3, 2)},
            ValueError,
            r"log_hazard must be \[n\] or \[n, 1\], got shape \(3, 2\)",
        ),
        ({"log_hazard": EVENT}, TypeError, "log_hazard must be floating, got torch.int64"),
        ({"log_hazard": LOG_HAZARD[:5]}, ValueError, r"time must have one entry per row of log_hazard, \[5\], got"),
        ({"event": None}, TypeError, "event is missing"),
        ({"time": SETS}, TypeError, "event is part of the risk sets"),
        ({"time": SETS, "event": None, "entry": TIME}, TypeError, "entry is part of the risk sets"),
        ({"time": SETS, "event": None, "strata": EVENT}, TypeError, "strata is part of the risk sets"),
        (
            {"log_hazard": LOG_HAZARD[:5], "time": SETS, "event": None},
            ValueError,
            r"the risk sets are of 6 rows, log_hazard has 5.*risk_sets\.take\(index\)",
        ),
        ({"log_hazard": LOG_HAZARD.to("meta")}, ValueError, "risk_sets is on cpu, log_hazard on meta"),
        ({"weights": TIME.to("meta")}, ValueError, "weights is on meta, log_hazard on cpu"),
        ({"weights": TIME[:2]}, ValueError, r"weights must have one entry per row of log_hazard, \[6\], got \(2,\)"),
        (
            {"weights": torch.tensor([1.0, 2, -3, 1, -1, 1])},
            ValueError,
            "weights must be at least 0 and finite in torch.float64, got -3.0 in row 2",
        ),
        (
            {"weights": TIME.where(TIME > 2, math.nan)},
            ValueError,
            "weights must be at least 0 and finite in torch.float64, got nan in row 4",
        ),
        ({"ties": "exact"}, ValueError, "ties must be 'efron' or 'breslow', got 'exact'"),
        ({"reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum', got 'none'"),
        ({"time": -TIME}, ValueError, r"time must be finite and at least 0, got -5.0 in row 0"),
        ({"log_hazard": LOG_HAZARD.numpy()}, TypeError, "log_hazard must be a tensor, got ndarray: torch.as_tensor"),
        ({"time": TIME.tolist()}, TypeError, "time must be a tensor, got list"),
        ({"event": pd.Series(EVENT)}, TypeError, "event must be a tensor, got Series"),
        ({"strata": EVENT.numpy()}, TypeError, "strata must be a tensor, got ndarray"),
        ({"weights": [1.0] * 6}, TypeError, "weights must be a tensor, got list"),
        ({"time": None}, TypeError, "time is missing"),
        ({"weights": TIME.clone().requires_grad_()}, ValueError, "weights must be real numbers without gradient"),
        ({"weights": TIME.to(torch.complex64)}, ValueError, "weights must be real numbers"),
        ({"weights": TIME.where(TIME != 8, math.inf)}, ValueError, "finite in torch.float64, got inf in row 3"),
        (
            {"log_hazard": LOG_HAZARD.float(), "weights": TIME.double() * 1e38},
            ValueError,
            "weights must be at least 0 and finite in torch.float32, got 5e[+]38 in row 0",
        ),
    ],
)
def test_errors_say_what_was_expected_and_where(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"log_hazard": LOG_HAZARD, "time": TIME, "event": EVENT} | change
    with pytest.raises(error, match=message):
        cox_ph_loss(**arguments)


NONE = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOG_HAZARD[:5], SETS.plan, NONE, "efron", "mean"), "risk_sets are of 6 rows, log_hazard has 5"),
        ((LOG_HAZARD, SETS.plan[:20], NONE, "efron", "mean"), "risk_sets are of fewer rows than log_hazard"),
        ((LOG_HAZARD, SETS.plan, NONE.new_ones(2), "efron", "mean"), "weights must have one entry per row"),
        ((LOG_HAZARD, SETS.plan, NONE, "exact", "mean"), "ties must be 'efron' or 'breslow', got 'exact'"),
        ((LOG_HAZARD, SETS.plan, NONE, "efron", "none"), "reduction must be 'mean' or 'sum', got 'none'"),
    ],
)
def test_kernel_checks_its_arguments(arguments: tuple[object, ...], message: str) -> None:
    """Called past the public function."""
    with pytest.raises(RuntimeError, match=message):
        torch.ops.survcore.cox_ph_loss(*arguments, True)
