"""The cohort: construction from frames, units, alignment, selection, availability, summary."""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
import torch

from survcore.data import Cohort
from survcore.data.endpoint import Endpoint, median_follow_up
from survcore.errors import DataError


def outcomes(count: int = 6, **columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "row_id": [f"p{row}" for row in range(count)],
            "time": np.arange(1.0, count + 1),
            "event": [row % 2 for row in range(count)],
        }
    )
    return frame.assign(**columns)


def table(rows, width: int = 3, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(len(rows), width))
    return pd.DataFrame(values, columns=[f"g{column}" for column in range(width)], index=pd.Index(rows, name="row_id"))


ALL = [f"p{row}" for row in range(6)]


def simple(**arguments) -> Cohort:
    """Six rows: rna in all, slides (bags) in p0..p2, folds 0 1 2 0 1 -1."""
    bags = {row: np.full((2 + position, 4), position, dtype=np.float16) for position, row in enumerate(ALL[:3])}
    frame = outcomes(fold=[0, 1, 2, 0, 1, None], split=["train", "train", "test", "test", None, "train"])
    return Cohort.from_frames({"rna": table(ALL), "slides": bags}, frame, time_unit="months", **arguments)


def test_rows_are_aligned_by_id_not_by_position():
    shuffled = table(["p4", "p0", "p5", "p2"])
    cohort = Cohort.from_frames({"rna": shuffled, "age": table(ALL, 1, seed=1)}, outcomes(), time_unit="months")
    rna = cohort.modalities["rna"]
    assert list(cohort.row_ids) == ALL
    assert rna.present.tolist() == [True, False, True, False, True, True]
    np.testing.assert_array_equal(rna.table[[4, 0, 5, 2]], shuffled.to_numpy(dtype=np.float32))
    assert np.isnan(rna.table[[1, 3]]).all()
    assert rna.table.dtype == np.float32
    assert rna.spec.columns == ("g0", "g1", "g2")


def test_id_as_column_or_index_and_numeric_ids_agree():
    frame = outcomes().assign(row_id=range(6))
    indexed = table(range(6)).rename_axis("row_id")
    by_column = table(range(6), seed=1).reset_index().rename(columns={"g0": "age"}).astype({"row_id": float})
    cohort = Cohort.from_frames({"a": indexed, "b": by_column}, frame, time_unit="months")
    assert list(cohort.row_ids) == ["0", "1", "2", "3", "4", "5"]
    assert cohort.availability.all()


@pytest.mark.parametrize(
    ("unit", "month"), [("days", 30.4375), ("weeks", 30.4375 / 7), ("months", 1.0), ("years", 1 / 12)]
)
def test_times_become_months(unit, month):
    frame = outcomes(entry=[0.5] * 6)
    endpoint = Cohort.from_frames({"rna": table(ALL)}, frame, time_unit=unit).endpoint()
    np.testing.assert_allclose(endpoint.time, frame["time"] / month, rtol=1e-15)
    np.testing.assert_allclose(endpoint.entry, 0.5 / month, rtol=1e-15)
    assert endpoint.time_unit == unit


def test_named_endpoints_have_their_own_units_causes_and_entries():
    frame = pd.DataFrame(
        {
            "row_id": ALL,
            "OS_time": [1.0, 2, 3, 4, 5, 6],
            "OS_event": [True, False] * 3,
            "PFI_time": [365.25] * 6,
            "PFI_event": [0.0, 1, 2, 0, 1, 2],
            "PFI_entry": [30.4375] * 6,
            "surgery_time": ["morning"] * 6,
        }
    )
    units = {"OS": "years", "PFI": "days"}
    cohort = Cohort.from_frames({"rna": table(ALL)}, frame, time_unit=units, causes={"PFI": 2})
    assert list(cohort.endpoints) == ["OS", "PFI"]
    survival, progression = cohort.endpoint("OS"), cohort.endpoint("PFI")
    assert survival.time.tolist() == [12, 24, 36, 48, 60, 72]
    assert survival.event.tolist() == [1, 0, 1, 0, 1, 0]
    assert survival.event.dtype == np.int64
    assert survival.entry is None
    assert progression.time.tolist() == [12.0] * 6
    assert progression.entry.tolist() == [1.0] * 6
    assert (progression.causes, progression.event.tolist()) == (2, [0, 1, 2, 0, 1, 2])
    only = Cohort.from_frames({"rna": table(ALL)}, frame, time_unit="years", endpoints=["OS"])
    assert list(only.endpoints) == ["OS"]
    with pytest.raises(DataError, match="several endpoints.*'OS', 'PFI'"):
        cohort.endpoint()
    with pytest.raises(DataError, match="no endpoint 'DSS'"):
        cohort.endpoint("DSS")


def test_censoring_columns_are_turned_into_events_when_said():
    frame = outcomes().rename(columns={"event": "censorship", "time": "survival_months"})
    chosen = {"time_unit": "months", "time_column": "survival_months", "event_column": "censorship"}
    cohort = Cohort.from_frames({"rna": table(ALL)}, frame, **chosen, censored_value=1)
    assert cohort.endpoint().name == "primary"
    assert cohort.endpoint().event.tolist() == [1, 0, 1, 0, 1, 0]
    words = outcomes(event=["dead", "alive"] * 3)
    cohort = Cohort.from_frames({"rna": table(ALL)}, words, time_unit="months", censored_value="alive")
    assert cohort.endpoint().event.tolist() == [1, 0, 1, 0, 1, 0]


def test_high_event_rate_only_warns():
    with pytest.warns(UserWarning, match="100 % of 6 rows have an event"):
        Cohort.from_frames({"rna": table(ALL)}, outcomes(event=1), time_unit="months")


def test_prediction_only_cohort_takes_the_rows_of_all_modalities():
    cohort = Cohort.from_frames({"rna": table(["b", "a"]), "age": table(["c", "a"], 1)}, None)
    assert list(cohort.row_ids) == ["b", "a", "c"]
    assert cohort.availability.tolist() == [[True, False], [True, True], [False, True]]
    with pytest.raises(DataError, match="no outcomes"):
        cohort.endpoint()


def test_missing_entries_stay_and_a_row_of_nothing_but_nan_is_absent():
    rna = table(ALL)
    rna.iloc[1] = np.nan
    rna.iloc[2, 0] = np.nan
    cohort = Cohort.from_frames({"rna": rna, "age": table(ALL, 1)}, outcomes(), time_unit="months")
    assert cohort.modalities["rna"].present.tolist() == [True, False, True, True, True, True]
    assert cohort.modalities["rna"].missing_entries == 1


def test_nullable_boolean_and_object_columns_are_numbers():
    frame = pd.DataFrame(
        {
            "row_id": ALL,
            "nullable": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
            "flag": [True, False] * 3,
            "object": np.array([1, 2.5, None, True, "4", 5], dtype=object),
        }
    )
    values = Cohort.from_frames({"clinical": frame}, outcomes(), time_unit="months").modalities["clinical"].table
    expected = [[1, np.nan, 3, 4, 5, 6], [1, 0, 1, 0, 1, 0], [1, 2.5, np.nan, 1, 4, 5]]
    np.testing.assert_array_equal(values.T, np.array(expected, dtype=np.float32))


def test_every_kind_is_declared_and_read_back():
    stack = {row: torch.ones(2, 3, 8, 8) for row in ALL}
    volume = {row: np.zeros((1, 4, 5, 6), dtype=np.int16) for row in ALL}
    tokens = {row: np.ones((position + 1, 5), dtype=np.float32) for position, row in enumerate(ALL)}
    sources = {
        "vector": table(ALL),
        "panel": table(ALL).gt(0).astype(float),
        "grouped": table(ALL),
        "tokens": tokens,
        "bag": {row: {"features": np.ones((1, 3, 4)), "coords": np.ones((1, 3, 2), dtype=np.int64)} for row in ALL},
        "images": stack,
        "volume": volume,
        "text": pd.DataFrame({"row_id": ALL, "report": ["a", " ", None, "d", "e", "f"]}),
        "embedding": {row: np.arange(7.0) for row in ALL},
    }
    kinds = {name: name for name in sources if name not in ("grouped", "bag")}
    groups = {"grouped": {"first": ["g0", "g1"], "second": ["g1", "g2"]}}
    cohort = Cohort.from_frames(sources, outcomes(), time_unit="months", kinds=kinds, groups=groups)
    specs = {name: (modality.spec.kind, modality.spec.width) for name, modality in cohort.modalities.items()}
    assert specs == {
        "vector": ("vector", 3),
        "panel": ("panel", 3),
        "grouped": ("tokens", 3),
        "tokens": ("tokens", 5),
        "bag": ("bag", 4),
        "images": ("images", 3),
        "volume": ("volume", 1),
        "text": ("text", 0),
        "embedding": ("embedding", 7),
    }
    assert cohort.modalities["grouped"].spec.groups == (("first", ("g0", "g1")), ("second", ("g1", "g2")))
    assert cohort.modalities["tokens"].shape(4) == (5, 5)
    assert cohort.modalities["tokens"].value(4).shape == (5, 5)
    bag = cohort.modalities["bag"]
    assert (bag.value(0).shape, bag.coords(0).shape, bag.coords(0).dtype) == ((3, 4), (3, 2), torch.int64)
    assert cohort.modalities["volume"].value(2).dtype == torch.int16
    assert cohort.modalities["text"].value(0) == "a"
    assert cohort.modalities["text"].present.tolist() == [True, False, False, True, True, True]
    assert cohort.modalities["embedding"].value(3).tolist() == list(range(7))
    with pytest.raises(DataError, match="'text' is absent"):
        cohort.modalities["text"].value(1)


def test_where_selects_by_fold_split_and_availability():
    cohort = simple()
    assert list(cohort.where(fold=0).row_ids) == ["p0", "p3"]
    assert list(cohort.where(fold=[0, 2]).row_ids) == ["p0", "p2", "p3"]
    assert list(cohort.where(not_fold=0).row_ids) == ["p1", "p2", "p4", "p5"]
    assert list(cohort.where(split="test").row_ids) == ["p2", "p3"]
    assert list(cohort.where(has=["slides"]).row_ids) == ["p0", "p1", "p2"]
    assert list(cohort.where(lacks="slides", fold=1).row_ids) == ["p4"]
    assert cohort.fold.tolist() == [0, 1, 2, 0, 1, -1]
    assert cohort.split.tolist() == ["train", "train", "test", "test", "", "train"]


def test_fold_may_be_a_dict_a_series_or_a_frame():
    given = {"p5": 1, "p0": 0}
    series, frame = pd.Series(given), pd.DataFrame({"row_id": list(given), "fold": list(given.values())})
    for fold in (given, series, frame):
        assert simple(fold=fold).fold.tolist() == [0, -1, -1, -1, -1, 1]


def test_select_takes_everything_along_in_order():
    frame = outcomes(
        entry=0.25,
        strata=list("aabbcc"),
        weights=[1.0, 2, 3, 4, 5, 6],
        patient_id=list("uuvvww"),
        fold=[0, 0, 1, 1, 2, 2],
    )
    bags = {row: np.full((1, 2), position, dtype=np.float32) for position, row in enumerate(ALL)}
    cohort = Cohort.from_frames({"rna": table(ALL), "slides": bags}, frame, time_unit="months")
    picked = cohort.select([4, 0])
    assert list(picked.row_ids) == ["p4", "p0"]
    assert list(picked.patient_ids) == ["w", "u"]
    assert picked.endpoint().time.tolist() == [5.0, 1.0]
    assert picked.endpoint().entry.tolist() == [0.25, 0.25]
    assert (picked.strata.tolist(), picked.weights.tolist(), picked.fold.tolist()) == (["c", "a"], [5.0, 1.0], [2, 0])
    np.testing.assert_array_equal(picked.modalities["rna"].table, cohort.modalities["rna"].table[[4, 0]])
    assert picked.modalities["slides"].value(0).tolist() == [[4.0, 4.0]]
    mask = np.array([True, False, False, False, False, True])
    assert list(cohort.select(mask).row_ids) == ["p0", "p5"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "has no rows"),
        ([1, 1], "takes a row twice"),
        ([-1, 5], "takes a row twice"),
        ([6], "row number 6 is outside the 6 rows"),
        ([True, False], r"one entry per row \(6\)"),
        ([0.5], "expected an integer index"),
    ],
)
def test_impossible_selections(index, message):
    with pytest.raises(DataError, match=message):
        simple().select(index)


def test_without_keeps_the_modality_declared_and_the_source_unchanged():
    cohort = simple()
    mask = np.array([True, False, False, False, False, True])
    part = cohort.without("rna", mask)
    assert list(part.modalities) == ["rna", "slides"]
    assert part.modalities["rna"].present.tolist() == [False, True, True, True, True, False]
    assert np.isnan(part.modalities["rna"].table[[0, 5]]).all()
    assert not np.isnan(part.modalities["rna"].table[1:5]).any()
    assert cohort.availability[:, 0].all()
    assert not np.isnan(cohort.modalities["rna"].table).any()
    nothing = cohort.without("slides").without("rna")
    assert not nothing.availability.any()
    assert nothing.modalities["slides"].spec.width == 4
    assert list(cohort.only(["slides"]).modalities) == ["slides"]
    with pytest.raises(DataError, match="no modality 'mri'"):
        cohort.without("mri")


def test_require_events_names_fold_and_endpoint():
    cohort = Cohort.from_frames({"rna": table(ALL)}, outcomes(fold=[0, 1, 0, 1, 0, 1]), time_unit="months")
    cohort.where(fold=1).require_events()
    with pytest.raises(DataError, match="test fold 0: none of 3 rows has an event of endpoint 'primary'"):
        cohort.where(fold=0).require_events(what="test fold 0")


def test_median_follow_up_is_the_reverse_kaplan_meier_median():
    random = np.random.default_rng(3)
    time = np.ceil(random.exponential(20, size=200))
    event = random.integers(0, 2, size=200)
    entry = np.maximum(time - random.integers(1, 30, size=200), -1.0)
    for delayed in (None, entry):
        ours = median_follow_up(Endpoint("primary", time, event, delayed))
        curve = lifelines.KaplanMeierFitter().fit(time, event == 0, entry=delayed)
        assert ours == curve.median_survival_time_
    assert np.isnan(median_follow_up(Endpoint("primary", np.array([1.0, 2.0]), np.array([1, 1]))))


def test_summary_states_what_is_there():
    text = simple(name="pilot").summary()
    for fact in (
        "pilot: 6 rows, 6 patients",
        "slides    bag     4      3 (50.0 %)",
        "3 (50.0 %)  rna + slides",
        "endpoint primary: 3 (50.0 %) with an event",
        "folds: none: 1, 0: 2, 1: 2, 2: 1",
        "splits: none: 1, test: 2, train: 3",
    ):
        assert fact in text, text
    assert repr(simple()) == "Cohort('cohort', 6 rows; rna: vector[3] in 6; slides: bag[4] in 3; primary: 3 events)"


def test_fingerprint_follows_ids_outcomes_and_availability():
    cohort = simple()
    changed = [
        cohort.select([1, 0, 2, 3, 4, 5]),
        cohort.without("rna"),
        cohort.only(["rna"]),
        simple(time_column="event"),
    ]
    prints = {cohort.fingerprint(), *(other.fingerprint() for other in changed)}
    assert len(prints) == 5
    assert simple().fingerprint() == cohort.fingerprint()
    assert len(cohort.fingerprint()) == 16


def test_fingerprint_follows_the_values_of_bags():
    def mark(**changed) -> str:
        features = np.random.default_rng(0).random((3000, 40), dtype=np.float32)
        coords = np.arange(6000).reshape(3000, 2)
        for place, value in changed.get("features", {}).items():
            features[place] = value
        for place, value in changed.get("coords", {}).items():
            coords[place] = value
        bag = {"features": features.astype(changed.get("dtype", np.float32)), "coords": coords}
        bag = {name: part[: changed.get("rows", 3000)] for name, part in bag.items()}
        return Cohort.from_frames({"slide": {"p": bag, "q": np.ones((2, 40))}}, None).fingerprint()

    changes = [
        {},
        {"features": {(0, 3): 2}},
        {"features": {(1500, 0): 2}},
        {"features": {(2999, 39): 2}},
        {"coords": {(0, 1): 7}},
        {"dtype": np.float16},
        {"rows": 2999},
    ]
    assert len({mark(**change) for change in changes}) == len(changes)
    assert mark() == mark()


def test_a_large_cohort_is_made_without_a_loop_over_rows():
    count = 100_000
    rows = np.char.add("r", np.arange(count).astype(str))
    frame = pd.DataFrame({"row_id": rows, "time": 1.0, "event": np.arange(count) % 2, "fold": np.arange(count) % 5})
    values = pd.DataFrame(np.ones((count, 4), dtype=np.float32), index=rows[::-1], columns=list("abcd"))
    cohort = Cohort.from_frames({"clinical": values}, frame, time_unit="months")
    assert len(cohort.where(fold=3)) == count // 5


def test_summary_names_columns_that_no_token_reads():
    table = pd.DataFrame(np.ones((2, 3)), index=["a", "b"], columns=["x", "y", "z"])
    outcomes = pd.DataFrame({"row_id": ["a", "b"], "time": [1.0, 2.0], "event": [1, 0]})
    cohort = Cohort.from_frames({"rna": table}, outcomes, time_unit="months", groups={"rna": {"only": ["x"]}})
    assert "rna: 2 columns in no token, not read by models: 'y', 'z'" in cohort.summary()
