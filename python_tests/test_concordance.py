"""Concordance indices against published values, R, other packages and their definitions over all pairs."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survcore.metrics import Concordance, concordance_index, concordance_index_ipcw, concordance_index_td

RealData = Callable[[str], Path]
Array = np.ndarray


# --- definitions over all n x n pairs -------------------------------------------------------------------------------


def outlives(time: Array, event: Array) -> Array:
    """[i, j]: i has an event, and j is observed longer or censored at that time."""
    return event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))


def tied_events(time: Array, event: Array) -> Array:
    """[i, j]: two patients with an event at one time."""
    return event[:, None] & event & (time[:, None] == time) & ~np.eye(len(time), dtype=bool)


def concordance_by_definition(
    time: Array,
    event: Array,
    risk: Array,
    entry: Array | None = None,
    strata: Array | None = None,
    weights: Array | None = None,
    event_weights: Array | None = None,
) -> tuple[Array, float, float]:
    """R's five counts, its value and its standard error."""
    ones = np.ones(len(time))
    weights, event_weights = (ones if given is None else given for given in (weights, event_weights))
    allowed = np.ones((len(time), len(time)), dtype=bool)
    if entry is not None:
        allowed &= entry < time[:, None]
    if strata is not None:
        allowed &= strata[:, None] == strata
    pair_weights = np.where(allowed, weights[:, None] * weights * event_weights[:, None], 0)
    comparable = outlives(time, event) * pair_weights
    both_failed = tied_events(time, event) * pair_weights / 2
    higher, equal = risk[:, None] > risk, risk[:, None] == risk
    concordant, discordant = comparable * higher, comparable * ~(higher | equal)
    pairs = [concordant, discordant, comparable * equal, both_failed * ~equal, both_failed * equal]
    counts = np.array([kind.sum() for kind in pairs])

    total = comparable.sum()
    if total == 0:
        return counts, np.nan, np.nan
    net = concordant - discordant
    somers_d = net.sum() / total
    influence = net.sum(0) + net.sum(1) - somers_d * (comparable.sum(0) + comparable.sum(1))
    return counts, (counts[0] + counts[2] / 2) / total, np.sqrt((influence**2).sum()) / (2 * total)


def antolini_by_definition(time: Array, event: Array, survival: Array, times: Array, form: str) -> float:
    """pycox's two forms, with survival 1 before the grid."""
    steps = np.column_stack([np.ones(len(time)), survival])
    at_own_time = steps[:, np.searchsorted(times, time, side="right")].T  # [i, j]: S_j(T_i)
    own = at_own_time.diagonal()[:, None]
    lower, equal = own < at_own_time, own == at_own_time
    comparable = outlives(time, event)
    scores = (comparable & lower).sum()
    if form == "antolini":
        return scores / comparable.sum() if comparable.any() else np.nan
    both_failed = tied_events(time, event)
    same_time = comparable & (time[:, None] == time)
    scores = scores + (comparable & equal).sum() / 2 + (same_time & lower).sum() + (same_time & equal).sum() / 2
    scores += np.where(equal, 1.0, 0.5)[both_failed].sum()
    total = comparable.sum() + same_time.sum() + both_failed.sum()
    return scores / total if total else np.nan


def counts_of(concordance: Concordance) -> tuple[float, ...]:
    return (
        concordance.concordant,
        concordance.discordant,
        concordance.tied_risk,
        concordance.tied_time,
        concordance.tied_both,
    )


def assert_as_defined(concordance: Concordance, *columns: Array, **options: Array | None) -> None:
    counts, value, standard_error = concordance_by_definition(*columns, **options)
    np.testing.assert_allclose(counts_of(concordance), counts, rtol=1e-12, atol=0)  # 0 is exactly 0
    np.testing.assert_allclose(concordance.value, value, rtol=0, atol=1e-13)
    np.testing.assert_allclose(concordance.standard_error, standard_error, rtol=1e-10, atol=1e-12)


def patients(rows: int, decimals: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Time, event and risk; few decimals tie them."""
    generator = np.random.default_rng(seed)
    time = generator.exponential(30, rows).round(decimals)
    return time, generator.random(rows) < 0.5, generator.normal(size=rows).round(decimals)


def options_of(time: Array, names: str, seed: int = 0) -> dict[str, Array]:
    """Those of entry, strata and weights that are named; half of the entries fall on others' times."""
    generator = np.random.default_rng(seed)
    early = generator.choice(time, len(time))
    entry = np.where(early < time, early, time * generator.random(len(time)) - 1)
    weights = generator.integers(0, 4, len(time)) / 10  # 0.1 + 0.2 - 0.3 is not 0 in floating point
    everything = {"entry": entry, "strata": generator.integers(0, 3, len(time)), "weights": weights}
    return {name: everything[name] for name in names.split()}


# --- published values and R -----------------------------------------------------------------------------------------


def test_published_concordance_indices(real_data: RealData) -> None:
    """All 275 fold C-indices that MCAT's authors published, from their out-of-fold risks."""
    folder = real_data("mcat_published_risks")
    published = pd.read_csv(folder / "summary_cindex.csv").set_index(["model", "cohort", "folds"])["val_cindex"]
    risks = pd.read_csv(folder / "val_risks.csv.gz")
    computed = {
        fold: concordance_index(rows["survival_months"], 1 - rows["censorship"], rows["risk"]).value
        for fold, rows in risks.groupby(["model", "cohort", "val_fold"])
    }
    assert len(computed) == len(published) == 275
    for fold, value in computed.items():
        assert value == pytest.approx(published[fold], abs=1e-15), fold


def _r_problem(real_data: RealData, case: str) -> tuple[Array, Array, dict[str, Array]]:
    """Time, event and options of a case of R's values, as their README describes it."""
    if case.startswith("msk_chord"):
        folder = real_data("msk_chord_2024_figures")
        names = ("brca", "crc", "nsclc", "panc", "prostate")
        rows = pd.concat([pd.read_csv(folder / f"{name}.csv.gz", usecols=["entry", "stop", "dead"]) for name in names])
        return rows["stop"].to_numpy(), rows["dead"].to_numpy(), {"entry": rows["entry"].to_numpy()}
    rows = pd.read_csv(real_data("deepsurv_benchmarks") / f"{case.split()[0]}.csv.gz")
    options = {"strata": np.arange(len(rows)) % 5} if "strata" in case else {}
    return rows["time"].to_numpy(), rows["event"].to_numpy(), options


def test_r_survival(real_data: RealData) -> None:
    """Counts, value and variance of every case: ties, strata, left truncation, Uno's weights."""
    cases = json.loads((real_data("r_survival_oracle") / "oracle.json").read_text())["concordance"]
    assert len(cases) == 18
    for case in cases:
        name = f"{case['case']}, {case['predictor']}, {case['timewt']}"
        time, event, options = _r_problem(real_data, case["case"])
        risk = (7 * np.arange(len(time))) % 101 / 101 - 0.5
        if "rounded" in case["predictor"]:
            risk = risk.round(1)
        weighted = case["timewt"] == "n/G2"
        concordance = (concordance_index_ipcw if weighted else concordance_index)(time, event, risk, **options)
        expected = tuple(case["counts"][key] for key in ("concordant", "discordant", "tied.x", "tied.y", "tied.xy"))
        if weighted:
            assert counts_of(concordance) == pytest.approx(expected, rel=1e-14), name
        else:
            assert counts_of(concordance) == expected, name
            assert all(type(count) is int for count in counts_of(concordance))
        assert float(concordance) == pytest.approx(case["concordance"], abs=1e-14), name
        assert concordance.standard_error**2 == pytest.approx(case["var"], rel=1e-12), name


# --- other packages -------------------------------------------------------------------------------------------------


def test_lifelines_and_scikit_survival() -> None:
    from lifelines.utils import concordance_index as of_lifelines

    of_scikit_survival = pytest.importorskip("sksurv.metrics").concordance_index_censored
    time, event, risk = patients(300, 1)
    value = concordance_index(time, event, risk).value
    assert value == pytest.approx(of_lifelines(time, -risk, event), abs=1e-15)
    assert value == pytest.approx(of_scikit_survival(event, time, risk)[0], abs=1e-15)


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("tau", [None, 25.0])
def test_ipcw_of_scikit_survival(decimals: int, tau: float | None) -> None:
    of_scikit_survival = pytest.importorskip("sksurv.metrics").concordance_index_ipcw
    from sksurv.util import Surv

    time, event, risk = patients(300, decimals)
    train_time, train_event, _ = patients(500, decimals, seed=1)
    train_time, train_event = np.append(train_time, 1000.0), np.append(train_event, True)
    train, test = Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time)
    expected = of_scikit_survival(train, test, risk, tau)[0]
    for form in (train, (train_time, train_event)):
        value = concordance_index_ipcw(test, None, risk, train=form, tau=tau, convention="G(T)").value
        assert value == pytest.approx(expected, abs=1e-13)
    before = concordance_index_ipcw(time, event, risk, train=train, tau=tau).value
    if decimals == 12:  # events and censorings share no times
        assert before == pytest.approx(expected, abs=1e-13)
    else:
        assert abs(before - expected) > 1e-6


@pytest.mark.parametrize("form", ["antolini", "adjusted"])
@pytest.mark.parametrize("decimals", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_td_of_pycox(form: str, decimals: int) -> None:
    of_pycox = pytest.importorskip("pycox.evaluation").EvalSurv
    time, event, _ = patients(200, decimals)
    time += 1
    grid = np.array([0.5, 2, 5, 10, 11, 30, 60])
    curves = np.sort(np.random.default_rng(1).random((200, len(grid))).round(decimals + 1))[:, ::-1]
    frame = pd.DataFrame(curves.T, index=grid)
    expected = of_pycox(frame, time, event.astype(int)).concordance_td("adj_" * (form == "adjusted") + "antolini")
    assert concordance_index_td(time, event, frame, form=form).value == pytest.approx(expected, abs=1e-15)
    assert concordance_index_td(time, event, curves, grid, form=form).value == pytest.approx(expected, abs=1e-15)


# --- the definitions ------------------------------------------------------------------------------------------------

# Few distinct values make ties; the rest of the floats makes near ties and extreme ranges.
times = st.one_of(st.sampled_from([0.0, 1.0, 1.5, 3.0]), st.floats(0, 1e300))
risks = st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 2.0]), st.floats(allow_nan=False))
cohorts = st.lists(st.tuples(times, st.booleans(), risks), max_size=60)


def columns_of(rows: list[tuple[float, bool, float]]) -> tuple[Array, Array, Array]:
    time, event, risk = (np.array([row[column] for row in rows], dtype=kind) for column, kind in enumerate("d?d"))
    return time, event, risk


@settings(max_examples=200, deadline=None)
@given(cohorts)
def test_by_definition(rows: list[tuple[float, bool, float]]) -> None:
    columns = columns_of(rows)
    concordance = concordance_index(*columns)
    assert all(type(count) is int for count in counts_of(concordance))
    assert_as_defined(concordance, *columns)


OPTIONS = ["", "entry", "strata", "weights", "entry strata", "entry weights", "strata weights", "entry strata weights"]


@settings(max_examples=200, deadline=None)
@given(cohorts, st.sampled_from(OPTIONS), st.integers(0, 9))
def test_options_by_definition(rows: list[tuple[float, bool, float]], names: str, seed: int) -> None:
    columns = columns_of(rows)
    if "entry" in names and len(rows):
        columns = (columns[0] + 1, *columns[1:])
    options = options_of(columns[0], names, seed)
    assert_as_defined(concordance_index(*columns, **options), *columns, **options)


@pytest.mark.parametrize("decimals", [0, 2, 17])
@pytest.mark.parametrize("names", OPTIONS)
def test_many_rows_by_definition(names: str, decimals: int) -> None:
    """More rows than one word of the bitmap or one node of the trees holds."""
    time, event, risk = patients(1300, decimals, seed=decimals)
    options = options_of(time + 1, names)
    assert_as_defined(concordance_index(time + 1, event, risk, **options), time + 1, event, risk, **options)


def test_neighbouring_numbers_are_told_apart() -> None:
    """Values that agree in their leading bits: one far outlier leaves few bits for the others."""
    generator = np.random.default_rng(3)
    time = np.append(1000 * (1 + 2.0**-52 * generator.integers(0, 8, 200)), 0.0)
    risk = np.append(1 + 2.0**-52 * generator.integers(0, 8, 200), 1e300)
    event = generator.random(201) < 0.7
    assert_as_defined(concordance_index(time, event, risk), time, event, risk)


def test_standard_error_is_the_jackknife_of_the_weights() -> None:
    """The root of sum_i (w_i dC / dw_i)^2, by differences."""
    time, event, risk = patients(60, 0)
    options = options_of(time + 1, "entry strata weights")
    options["weights"] += 0.1

    def value(row: int, change: float) -> float:
        weights = options["weights"].copy()
        weights[row] *= 1 + change
        return concordance_index(time + 1, event, risk, **options | {"weights": weights}).value

    changes = np.array([(value(row, 1e-5) - value(row, -1e-5)) / 2e-5 for row in range(60)])
    standard_error = concordance_index(time + 1, event, risk, **options).standard_error
    assert standard_error == pytest.approx(np.sqrt((changes**2).sum()), rel=1e-8)


def _censoring_survival(time: Array, event: Array, at: Array, convention: str) -> Array:
    """G from the definition: the product over censoring times before t, or up to t, with events gone first."""
    survival = np.ones(len(at))
    for now in np.unique(time[~event]):
        censored = (~event & (time == now)).sum()
        factor = 1 - censored / ((time > now).sum() + censored)
        survival[(at > now) if convention == "G(T-)" else (at >= now)] *= factor
    return survival


@pytest.mark.parametrize("convention", ["G(T-)", "G(T)"])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("tau", [None, 20.0])
def test_ipcw_by_definition(convention: str, stratified: bool, trained: bool, tau: float | None) -> None:
    time, event, risk = patients(200, 0)
    train_time, train_event, _ = patients(400, 0, seed=1) if trained else (time, event, risk)
    last = np.full(3, 1000.0)
    labels, train_labels = np.arange(200) % 3, np.arange(len(train_time)) % 3
    if trained or convention == "G(T)":  # a last event in each stratum: G stays above 0
        train_time, train_event = np.append(train_time, last), np.append(train_event, last > 0)
        train_labels = np.append(train_labels, np.arange(3))
    names = np.array(["a", "b", "c"])
    options = {"strata": names[labels], "train_strata": names[train_labels]} if stratified else {}
    concordance = concordance_index_ipcw(
        time, event, risk, train=(train_time, train_event), tau=tau, convention=convention, **options
    )
    survival = np.ones(200)
    for stratum in range(3):
        own = train_labels == stratum if stratified else np.ones(len(train_time), dtype=bool)
        rows = labels == stratum
        survival[rows] = _censoring_survival(train_time[own], train_event[own], time[rows], convention)
    event_weights = np.where(time < (tau or np.inf), survival**-2.0, 0)
    assert_as_defined(
        concordance, time, event, risk, strata=labels if stratified else None, event_weights=event_weights
    )
    if not trained and convention == "G(T-)":
        options.pop("train_strata", None)
        assert concordance_index_ipcw(time, event, risk, tau=tau, **options) == concordance


survivals = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), survivals, survivals, survivals), max_size=40),
    st.sampled_from(["antolini", "adjusted"]),
)
def test_td_by_definition(rows: list[tuple[int, bool, float, float, float]], form: str) -> None:
    """Times before, on, between and beyond the grid; curves need not even fall."""
    table = np.array(rows, dtype=float).reshape(-1, 5)
    time, event, survival = table[:, 0], table[:, 1] > 0, table[:, 2:]
    grid = np.array([1.0, 2.5, 4.0])
    concordance = concordance_index_td(time, event, survival, grid, form=form)
    expected = antolini_by_definition(time, event, survival, grid, form)
    assert concordance.value == pytest.approx(expected, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("form", ["antolini", "adjusted"])
@pytest.mark.parametrize("decimals", [0, 3])
def test_td_of_many_rows_by_definition(form: str, decimals: int) -> None:
    time, event, _ = patients(1300, decimals)
    grid = np.arange(0.0, 90, 3)
    survival = np.random.default_rng(1).random((1300, len(grid))).round(2)
    concordance = concordance_index_td(time, event, survival, grid, form=form)
    assert concordance.value == pytest.approx(antolini_by_definition(time, event, survival, grid, form), abs=1e-14)


def test_td_of_proportional_curves_is_harrells() -> None:
    """Curves that never cross order patients as their hazards do, pair by pair."""
    time, event, risk = patients(400, 1)
    grid = np.unique(time)
    survival = np.exp(-np.exp(risk)[:, None] * (grid + 1) / 100)
    concordance = concordance_index_td(time, event, survival, grid)
    assert counts_of(concordance) == counts_of(concordance_index(time, event, risk))


# --- what leaves the index alone ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OPTIONS))
def test_order_of_rows_and_scale_of_risk_do_not_matter(seed: int, names: str) -> None:
    time, event, risk = patients(50, 0, seed)
    time += 1
    options = options_of(time, names, seed)
    concordance = concordance_index(time, event, risk, **options)
    rows = np.random.default_rng(seed).permutation(50)
    shuffled = {name: column[rows] for name, column in options.items()}
    moved = concordance_index(time[rows], event[rows], np.exp(risk[rows]) - 5, **shuffled)
    assert counts_of(moved) == pytest.approx(counts_of(concordance), rel=1e-13)
    assert moved.standard_error == pytest.approx(concordance.standard_error, rel=1e-10, nan_ok=True)
    weighted = concordance_index_ipcw(time, event, risk)
    moved = concordance_index_ipcw(time[rows], event[rows], 3 * risk[rows])
    assert counts_of(moved) == pytest.approx(counts_of(weighted), rel=1e-13)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OPTIONS))
def test_a_duplicated_cohort_has_the_same_value(seed: int, names: str) -> None:
    time, event, risk = patients(50, 0, seed)
    time += 1
    options = options_of(time, names, seed)
    curves, grid = np.random.default_rng(seed).random((50, 4)).round(1), np.array([1.0, 10, 20, 50])
    twice = {name: np.tile(column, 2) for name, column in options.items()}
    columns, double = (time, event, risk), tuple(np.tile(column, 2) for column in (time, event, risk))
    same = {"nan_ok": True, "rel": 1e-13}
    assert concordance_index(*double, **twice).value == pytest.approx(
        concordance_index(*columns, **options).value, **same
    )
    assert concordance_index_ipcw(*double).value == pytest.approx(concordance_index_ipcw(*columns).value, **same)
    assert concordance_index_td(*double[:2], np.tile(curves, (2, 1)), grid).value == pytest.approx(
        concordance_index_td(time, event, curves, grid).value, **same
    )


def test_whole_weights_are_repeated_rows() -> None:
    time, event, risk = patients(80, 1)
    weights = np.arange(80) % 4
    repeated = [np.repeat(column, weights) for column in (time, event, risk)]
    weighted, alike = concordance_index(time, event, risk, weights=weights), concordance_index(*repeated)
    assert weighted.concordant == alike.concordant
    assert weighted.discordant == alike.discordant
    assert weighted.tied_risk == alike.tied_risk
    assert weighted.tied_time == alike.tied_time
    assert isinstance(weighted.concordant, float)


def test_ipcw_asks_no_weight_for_events_that_nobody_outlives() -> None:
    """The last event is later than the longest training follow-up and in no pair."""
    assert counts_of(concordance_index_ipcw([1, 5], [1, 1], [2, 1], train=([1, 4], [1, 0]))) == (1, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="row 1, time 5.0: .*longest training"):
        concordance_index_ipcw([1, 5, 5], [1, 1, 0], [2, 1, 3], train=([1, 4], [1, 0]))
    columns = ([1, 5, 1, 6], [1, 1, 1, 0], [2, 1, 2, 3])
    options = {"train": ([1, 4, 2, 9], [1, 0, 1, 0]), "train_strata": list("aabb")}
    assert concordance_index_ipcw(*columns, strata=list("aabb"), **options).concordant == 1
    assert concordance_index_ipcw(*columns, strata=list("acbb"), **options).discordant == 1
    with pytest.raises(ValueError, match="row 1, time 5.0"):
        concordance_index_ipcw(*columns, strata=list("aaba"), **options)


def test_ipcw_weighs_tied_last_events_where_it_can() -> None:
    columns = ([1, 2, 4, 4], [1, 0, 1, 1], [4, 1, 2, 3])
    assert concordance_index_ipcw(*columns).tied_time == pytest.approx((3 / 2) ** 2)
    assert concordance_index_ipcw(*columns, train=([3], [1])).tied_time == 0


def test_ipcw_without_censoring_is_harrells() -> None:
    time, _, risk = patients(200, 1)
    everyone = np.ones(200)
    assert counts_of(concordance_index_ipcw(time, everyone, risk)) == counts_of(concordance_index(time, everyone, risk))


# --- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "event", "counts"),
    [
        ([], [], (0, 0, 0, 0, 0)),
        ([3.0], [1], (0, 0, 0, 0, 0)),
        ([3.0, 5.0, 7.0], [0, 0, 0], (0, 0, 0, 0, 0)),
        ([3.0, 3.0, 3.0], [1, 1, 1], (0, 0, 0, 0, 3)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"strata": 0}, {"weights": 1.0}, {"entry": -np.inf}], ids=str)
def test_no_comparable_pair_is_nan(time: list[float], event: list[int], counts: tuple, options: dict) -> None:
    columns = {name: np.full(len(time), value) for name, value in options.items()}
    concordance = concordance_index(time, event, np.ones(len(time)), **columns)
    assert counts_of(concordance) == counts
    assert np.isnan(concordance.value)
    assert np.isnan(concordance.standard_error)
    if not options:
        assert np.isnan(concordance_index_ipcw(time, event, np.ones(len(time))).value)
        curves = concordance_index_td(time, event, np.ones((len(time), 2)), [1, 4])
        assert np.isnan(curves.value)
        assert counts_of(curves) == counts


def test_pairs_across_strata_or_before_entry_are_not_comparable() -> None:
    time, event, risk = [1.0, 2.0, 3.0], [1, 1, 0], [3.0, 2.0, 1.0]
    assert concordance_index(time, event, risk).concordant == 3
    assert concordance_index(time, event, risk, strata=["a", "b", "a"]).concordant == 1
    assert np.isnan(concordance_index(time, event, risk, strata=[1, 2, 3]).value)
    assert concordance_index(time, event, risk, entry=[0, 1, 1.5]).concordant == 1  # entering at 1 is after 1
    assert concordance_index(time, event, risk, entry=[0, 0.5, 2.5]).concordant == 1
    assert concordance_index(time, event, risk, weights=[0, 1, 0.5]).concordant == 0.5


def test_a_single_pair_has_no_variance() -> None:
    assert concordance_index([1, 2], [1, 0], [2, 1]).standard_error == 0


@pytest.mark.parametrize("scale", [1e308, 1e200, 1e90, 1e-90, 1e-170, 1e-308])
def test_unit_of_the_weights_does_not_matter(scale: float) -> None:
    time, event, risk = patients(60, 0)
    options = options_of(time + 1, "entry strata weights")
    plain = concordance_index(time + 1, event, risk, **options)
    options["weights"] = options["weights"] * scale
    concordance = concordance_index(time + 1, event, risk, **options)
    assert concordance.value == pytest.approx(plain.value, rel=1e-13)
    assert concordance.standard_error == pytest.approx(plain.standard_error, rel=1e-11)
    with np.errstate(over="ignore", under="ignore"):
        counts = np.array(counts_of(plain)) * scale * scale
    np.testing.assert_allclose(counts_of(concordance), counts, rtol=1e-12, atol=0)
    assert all(type(count) is float for count in counts_of(concordance))


def test_pairs_that_vanish_beside_a_weight() -> None:
    """A heavy patient in no comparable pair: the pair of the others counts, or is refused."""
    columns = ([1, 2, 3], [1, 0, 0], [2, 1, 0])
    options = {"strata": [0, 0, 1]}
    assert concordance_index(*columns, **options, weights=[1e-100, 1e-100, 1e150]).value == 1
    assert concordance_index(*columns, **options, weights=[1e-200, 1e-200, 1e50]).value == 1
    with pytest.raises(ValueError, match="pairs vanish beside the largest weight"):
        concordance_index(*columns, **options, weights=[1e-300, 1e-300, 1e300])
    assert np.isnan(concordance_index(*columns, weights=[0, 0, 1e300]).value)


@pytest.mark.parametrize("heavy", [0, 1e-9, 1e9, 1e17, 1e100])
def test_heavy_patients_who_leave_take_no_digits_along(heavy: float) -> None:
    """Whoever enters after all events is in no pair, whatever the weight, also where light patients share the risk."""
    columns = ([9, 9, 1, 2, 4], [0, 0, 1, 1, 1], [1, 1, 2, 0, 3])
    weights = np.array([heavy, 0.3, 0.2, 0.7, 0.5])
    concordance = concordance_index(*columns, entry=[6, -1, -1, -1, -1], weights=weights)
    counts, value, standard_error = concordance_by_definition(*(np.array(c)[1:] for c in columns), weights=weights[1:])
    assert value == pytest.approx(0.346534653, abs=1e-9)
    assert concordance.value == pytest.approx(value, rel=1e-14)
    assert counts_of(concordance) == pytest.approx(counts, rel=1e-14)
    assert concordance.standard_error == pytest.approx(standard_error, rel=1e-12)


@pytest.mark.parametrize("heavy", [0, 1e9, 1e17, 1e100])
def test_heavy_events_before_entry_take_no_digits_along(heavy: float) -> None:
    """An event at whose time nobody else had entered is in no pair: the others' standard error does without it."""
    time, event, risk = patients(40, 0)
    columns = (np.append(time + 2, 1), np.append(event, True), np.append(risk, 0.0))
    weights = np.append(np.arange(1, 41) / 10, heavy)
    entry = np.append(time % 3 / 3 + 1, 0)
    concordance = concordance_index(*columns, entry=entry, weights=weights)
    assert_as_defined(concordance, *(c[:-1] for c in columns), entry=entry[:-1], weights=weights[:-1])


def test_direction_and_infinite_risk() -> None:
    assert concordance_index([1, 2, 3], [1, 1, 0], [9, 5, 1]).value == 1
    assert concordance_index([1, 2, 3], [1, 1, 0], [-np.inf, 5, np.inf]).value == 0
    falling = np.array([[0.3, 0.1], [0.6, 0.4], [0.9, 0.8]])
    assert concordance_index_td([1, 2, 3], [1, 1, 0], falling, [1, 2]).value == 1


def test_crossing_curves_are_compared_at_the_event() -> None:
    curves = np.array([[0.9, 0.2], [0.8, 0.6], [0.95, 0.5]])  # the first starts above the second and ends below
    assert counts_of(concordance_index_td([1, 3, 4], [1, 0, 0], curves, [1, 2])) == (1, 1, 0, 0, 0)
    assert counts_of(concordance_index_td([2, 3, 4], [1, 0, 0], curves, [1, 2])) == (2, 0, 0, 0, 0)
    assert counts_of(concordance_index_td([0.5, 3, 4], [1, 0, 0], curves, [1, 2])) == (0, 0, 2, 0, 0)


def test_tau_leaves_out_events_from_it_on() -> None:
    time, event, risk = [1, 2, 3, 4], [1, 1, 1, 0], [1, 2, 3, 4]
    assert concordance_index_ipcw(time, event, risk, tau=2.5).discordant == 5
    assert concordance_index_ipcw(time, event, risk, tau=2).discordant == 3
    assert np.isnan(concordance_index_ipcw(time, event, risk, tau=1).value)


def test_copies_are_numbers_only() -> None:
    time, event, risk = patients(50, 1)
    for concordance in (concordance_index(time, event, risk), concordance_index_ipcw(time, event, risk)):
        pickled = pickle.loads(pickle.dumps(concordance))
        assert pickled == copy.deepcopy(concordance) == concordance
        assert pickled.standard_error == concordance.standard_error
        assert len(pickle.dumps(concordance)) < 1000


class _Rows:
    """Rows whose standard error another reader computes first, or that fail once."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile: Callable[[], object] | None = meanwhile

    def standard_error(self) -> float:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return 0.25


def test_standard_error_by_two_readers_at_once() -> None:
    seen = []
    concordance = Concordance(0.5, 1, 1, 0, 0, 0, _Rows(lambda: seen.append(concordance.standard_error)))
    assert concordance.standard_error == 0.25
    assert seen == [0.25]
    assert "_rows" not in vars(concordance)


def test_standard_error_after_a_failure() -> None:
    def fail() -> None:
        raise MemoryError

    concordance = Concordance(0.5, 1, 1, 0, 0, 0, _Rows(fail))
    with pytest.raises(MemoryError):
        _ = concordance.standard_error
    assert concordance.standard_error == 0.25


def test_repr_and_equality() -> None:
    columns = ([1, 2, 3], [1, 1, 0], [3, 1, 2])
    one, other = concordance_index(*columns), concordance_index(*columns)
    _ = one.standard_error
    assert one == other
    assert hash(one) == hash(other)
    assert one != concordance_index([1, 2, 3], [1, 1, 0], [3, 2, 1])
    assert repr(one) == repr(other)
    assert repr(one).startswith("Concordance(value=0.666") and "tied_both=0)" in repr(one)


def test_standard_error_of_inputs_that_changed_afterwards() -> None:
    time, event, risk = patients(50, 1)
    options = options_of(time + 1, "entry weights")
    expected = concordance_index(time + 1, event, risk, **options).standard_error
    later = time + 1
    concordance = concordance_index(later, event, risk, **options)
    for column in (later, event, risk, *options.values()):
        column[:] = 0
    assert concordance.standard_error == expected


# --- inputs and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.tensor, list])
@pytest.mark.parametrize("event_type", [bool, int, float])
def test_input_types(kind: Callable, event_type: type) -> None:
    time, risk = kind([1.0, 2.0, 3.0, 4.0]), kind([3.0, 2.0, 4.0, 1.0])
    event = kind([event_type(value) for value in (1, 0, 1, 1)])
    assert counts_of(concordance_index(time, event, risk)) == (3, 1, 0, 0, 0)
    options = {"entry": kind([0.0, 1, 1, 1]), "strata": kind([1, 1, 1, 1]), "weights": kind([1.0, 1, 1, 2])}
    assert counts_of(concordance_index(time, event, risk, **options)) == (2, 0, 0, 0, 0)
    stratified = concordance_index_ipcw(time, event, risk, strata=options["strata"])
    assert stratified == concordance_index_ipcw(time, event, risk, train=(time, event))
    curves = kind([[0.2], [0.4], [0.1], [0.5]]) if kind is not pd.Series else pd.DataFrame([[0.2, 0.4, 0.1, 0.5]])
    grid = None if kind is pd.Series else kind([0.0])
    assert counts_of(concordance_index_td(time, event, curves, grid)) == (3, 1, 0, 0, 0)


def test_structured_outcomes() -> None:
    outcomes = np.array([(True, 1.0), (False, 2.0), (True, 3.0)], dtype=[("event", bool), ("time", float)])
    assert concordance_index(outcomes, None, [3, 2, 1]).concordant == 2
    assert concordance_index_ipcw(outcomes, None, [3, 2, 1]).concordant == 2
    assert concordance_index_td(outcomes, None, np.array([[0.1], [0.2], [0.3]]), [0]).concordant == 2


def test_tensors_with_gradient_half_precision_and_strides() -> None:
    risk = torch.tensor([[3.0, 0], [2, 0], [4, 0], [1, 0]], dtype=torch.bfloat16, requires_grad=True)[:, 0]
    assert concordance_index(torch.arange(4), torch.ones(4), risk).discordant == 2
    time = np.arange(8.0)[::2]
    time.setflags(write=False)
    assert concordance_index(time, np.ones(4), time).value == 0


def test_inputs_are_left_alone() -> None:
    time, event, risk = patients(50, 1)
    time += 1
    curves, grid = np.random.default_rng(0).random((50, 3)), np.array([0.0, 10, 20])
    options = options_of(time, "entry strata weights")
    given = [time, event, risk, curves, grid, *options.values()]
    copies = [values.copy() for values in given]
    _ = concordance_index(time, event, risk, **options).standard_error
    _ = concordance_index_ipcw(time, event, risk, strata=options["strata"]).standard_error
    concordance_index_td(time, event, curves, grid)
    for values, earlier in zip(given, copies, strict=True):
        np.testing.assert_array_equal(values, earlier)


@pytest.mark.parametrize(
    ("time", "event", "risk", "message"),
    [
        ([1, 2, 3], [1, 0], [1, 2, 3], "event as a vector of 3 values like time, got shape \\(2,\\)"),
        ([1, 2, 3], [1, 0, 1], [1, 2], "expected 3 values of risk, one per time, got 2"),
        ([1, 2, 3], [1, 0, 1], [[1], [2], [3]], "risk as a vector, got shape \\(3, 1\\)"),
        ([1, np.nan, 3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got nan at row 1"),
        ([1, 2, -3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got -3.0 at row 2"),
        ([np.inf, 2, 3], [1, 0, 1], [1, 2, 3], "finite time of at least 0, got inf at row 0"),
        ([1, 2, 3], [1, 0, 1], [1, 2, np.nan], "risk is NaN at row 2"),
        ([1, 2, 3], [1, 0, 2], [1, 2, 3], "0 \\(censored\\) or 1 \\(event\\), got 2 at row 2; of several causes"),
        ([1, 2, 3], [1, np.nan, 0], [1, 2, 3], "got nan at row 1"),
        ([1, 0, 1], [12.5, 3.0, 7.0], [1, 2, 3], "time holds only 0 and 1 and event 3 different values.*exchanged"),
        ([True, False, True], [12.5, 3.0, 7.0], [1, 2, 3], "time is a vector of True and False.*exchanged"),
    ],
)
@pytest.mark.parametrize("function", [concordance_index, concordance_index_ipcw])
def test_errors_name_what_is_wrong(function: Callable, time: list, event: list, risk: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(time, event, risk)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (concordance_index, {"entry": [0, 2, 1, 1]}, "entry before time, got entry 2.0 and time 2.0 at row 1"),
        (concordance_index, {"entry": [0, np.nan, 1, 1]}, "got entry nan and time 2.0 at row 1"),
        (concordance_index, {"strata": [0, 1]}, "strata as a vector of 4 labels, got shape \\(2,\\)"),
        (concordance_index, {"weights": [1, 1, -1, 1]}, "weights of at least 0, got -1.0 at row 2"),
        (concordance_index_ipcw, {"entry": [0, 0, 0, 0]}, "takes no entry: under left truncation"),
        (concordance_index_ipcw, {"convention": "G"}, "expected convention 'G\\(T-\\)' or 'G\\(T\\)', got 'G'"),
        (concordance_index_ipcw, {"tau": 0}, "expected tau above 0, got 0"),
        (concordance_index_ipcw, {"train": ([1, 2], [1, 1])}, "row 2, time 3.0: .*longest training.*smaller tau"),
        (concordance_index_ipcw, {"train": ([1, 3], [0, 0]), "convention": "G(T)"}, "row 2, time 3.0.*G = 0.*tau"),
        (concordance_index_ipcw, {"train": ([1, 2], [1, -1])}, "expected train event to be 0"),
        (concordance_index_ipcw, {"strata": [0, 0, 1, 1], "train": ([9], [1])}, "expected train_strata"),
        (
            concordance_index_ipcw,
            {"strata": [0, 0, 1, 1], "train": ([9], [1]), "train_strata": [0]},
            "stratum 1 has no",
        ),
        (concordance_index_ipcw, {"train": ([], [])}, "expected training outcomes, got none"),
        (concordance_index_ipcw, {"train_strata": [0, 0, 1, 1]}, "train_strata are given without strata"),
        (concordance_index_ipcw, {"strata": [0] * 4, "train_strata": [0] * 4}, "train_strata are given without train"),
    ],
)
def test_errors_of_the_options(function: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function([1, 2, 3, 4], [0, 0, 1, 0], [1, 2, 3, 4], **options)


def test_ipcw_where_the_weights_exist() -> None:
    """The event at 3, outlived by a higher risk: G(3) = 1/2, a weight of 4; alone in its stratum it needs none."""
    columns = ([1, 2, 3, 4], [0, 0, 1, 0], [1, 2, 3, 4])
    found = concordance_index_ipcw(*columns, train=([1, 4], [0, 0]), convention="G(T)")
    assert counts_of(found) == (0, 4, 0, 0, 0) and found.value == 0
    alone = concordance_index_ipcw(*columns, strata=[0, 0, 1, 2], train=([9], [1]), train_strata=[0])
    assert np.isnan(alone.value)


@pytest.mark.parametrize(
    ("survival", "times", "options", "message"),
    [
        (np.ones((3, 2)), [1, 2], {"form": "uno"}, "form is 'antolini' or 'adjusted', got 'uno'"),
        (np.ones((3, 2)), None, {}, "times are missing"),
        (np.ones((2, 3)), [1, 2], {}, "survival \\[patients, times\\] = \\[3, 2\\], got shape \\(2, 3\\)"),
        (np.ones((3, 2)), [2, 1], {}, "times to rise"),
        (np.array([[1, 1], [1, 1.5], [1, 1]]), [1, 2], {}, "between 0 and 1, got 1.5 at row 1, time 2.0"),
        (np.array([[1, 1], [1, 0.5], [np.nan, 1]]), [1, 2], {}, "between 0 and 1, got nan at row 2, time 1.0"),
    ],
)
def test_errors_of_curves(survival: Array, times: list | None, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concordance_index_td([1, 2, 3], [1, 0, 1], survival, times, **options)
