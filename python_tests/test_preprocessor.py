from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from survcore.batch import dense
from survcore.data import Cohort, Preprocessor
from survcore.data.leaks import outcome_columns
from survcore.data.table_scaler import signed_log
from survcore.errors import DataError


def make_cohort(rows: int = 60, seed: int = 0, **changes) -> Cohort:
    """Tokens that ask for the signed log, a vector with gaps that some rows lack, and a panel."""
    generator = np.random.default_rng(seed)
    ids = [f"p{number}" for number in range(rows)]
    slide = pd.DataFrame(generator.normal(0, 100, (rows, 4)), index=ids, columns=list("abcd"))
    blood = pd.DataFrame(generator.normal(3, 2, (rows, 3)), index=ids, columns=["x", "y", "z"])
    blood["z"] = 0.1
    blood.loc[ids[5::7], "x"] = np.nan
    blood = blood.drop(index=ids[3::10])
    panel = pd.DataFrame(
        generator.integers(0, 2, (rows, 5)), index=ids, columns=[f"gene{number}" for number in range(5)]
    )
    outcomes = pd.DataFrame(
        {"time": generator.exponential(20, rows), "event": generator.integers(0, 2, rows)}, index=ids
    )
    settings = {
        "modalities": {"slide": slide, "blood": blood, "panel": panel},
        "outcomes": outcomes,
        "time_unit": "months",
        "kinds": {"slide": "tokens", "panel": "panel"},
        "groups": {"slide": {"left": ["a", "b"], "right": ["b", "c", "d"]}},
        "transforms": {"slide": "signed_log"},
    }
    return Cohort.from_frames(**{**settings, **changes})


def imputed_entries(prepared) -> dict[str, int]:
    return {name: int(counts.sum()) for name, counts in prepared.imputed.items()}


def test_signed_log_keeps_sign_zero_and_gaps():
    values = np.array([-3.0, 0.0, 3.0, np.nan])
    np.testing.assert_allclose(signed_log(values), [-np.log(4), 0, np.log(4), np.nan])


def test_standard_scaling_uses_training_rows_that_have_the_modality():
    cohort = make_cohort()
    training, test = cohort.select(np.arange(40)), cohort.select(np.arange(40, 60))
    preprocessor = Preprocessor.fit(training, {"clip": None})
    blood = training.modalities["blood"]
    values = blood.table[blood.present].astype(np.float64)
    mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    other = test.modalities["blood"]
    expected = (other.table[other.present].astype(np.float64) - mean)[:, 1] / spread[1]
    got = preprocessor.transform(test).batch().values["blood"].numpy()
    np.testing.assert_allclose(got[other.present, 1], expected, rtol=1e-5)
    assert (got[~other.present] == 0).all()

    slide = training.modalities["slide"].table.astype(np.float64)
    scaled = preprocessor.transform(training).tables["slide"].numpy()
    logged = np.sign(slide) * np.log1p(np.abs(slide))
    np.testing.assert_allclose(scaled, (logged - logged.mean(0)) / logged.std(0), rtol=1e-4, atol=1e-5)


def test_held_out_rows_do_not_move_the_statistics():
    cohort = make_cohort()
    training = cohort.select(np.arange(40))
    wild = make_cohort(seed=9)
    state = Preprocessor.fit(training).state()
    assert json.dumps(Preprocessor.fit(training).state()) == json.dumps(state)
    Preprocessor.fit(training).transform(wild)
    assert json.dumps(Preprocessor.fit(training).state()) == json.dumps(state)
    assert json.dumps(Preprocessor.fit(wild).state()) != json.dumps(state)


def test_constant_columns_become_zero_and_clipping_holds():
    cohort = make_cohort()
    prepared = Preprocessor.fit(cohort, {"clip": 1.5}).transform(cohort)
    blood = prepared.tables["blood"]
    assert (blood[:, 2] == 0).all()
    assert torch.isfinite(blood).all()
    assert blood.abs().max() == 1.5


def test_missing_entries_take_the_training_median_and_are_counted():
    cohort = make_cohort()
    modality = cohort.modalities["blood"]
    gaps = np.isnan(modality.table[:, 0]) & modality.present
    for impute, centre in (("median", np.nanmedian), ("mean", np.nanmean)):
        prepared = Preprocessor.fit(cohort, {"impute": impute}).transform(cohort)
        column = prepared.tables["blood"][:, 0].numpy()
        np.testing.assert_allclose(column[gaps], centre(column[modality.present & ~gaps]), rtol=1e-5, atol=1e-6)
        assert imputed_entries(prepared) == {"slide": 0, "blood": int(gaps.sum()), "panel": 0}
        assert prepared.imputed["blood"].tolist() == gaps.astype(int).tolist()
        assert prepared.observed == {}


def test_systems_that_take_missing_entries_get_a_mask():
    cohort = make_cohort()
    modality = cohort.modalities["blood"]
    prepared = Preprocessor.fit(cohort, imputes=False).transform(cohort)
    np.testing.assert_array_equal(prepared.observed["blood"].numpy(), ~np.isnan(modality.table))
    assert (prepared.tables["blood"].numpy()[np.isnan(modality.table)] == 0).all()
    assert imputed_entries(prepared) == {"slide": 0, "blood": 0, "panel": 0}
    batch = prepared.batch([5, 6])
    assert not batch.observed["blood"][0, 0] and batch.observed["blood"][1].all()


def test_panels_stay_as_they_are_unless_told():
    cohort = make_cohort()
    raw = cohort.modalities["panel"].table
    np.testing.assert_array_equal(Preprocessor.fit(cohort).transform(cohort).tables["panel"].dense(), raw)
    scaled = (
        Preprocessor.fit(cohort, {"modalities": {"panel": {"scale": "standard"}}}).transform(cohort).tables["panel"]
    )
    np.testing.assert_allclose(scaled.mean(0).numpy(), 0, atol=1e-6)


def test_a_column_without_any_training_value_is_filled_with_zero():
    blood = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [np.nan] * 3}, index=["a", "b", "c"])
    outcomes = pd.DataFrame({"time": [1.0, 2.0, 3.0], "event": [1, 1, 0]}, index=["a", "b", "c"])
    cohort = Cohort.from_frames({"blood": blood}, outcomes, time_unit="months")
    for scale in ("standard", "minmax", "none"):
        prepared = Preprocessor.fit(cohort, {"bins": 2, "scale": scale}).transform(cohort)
        assert (prepared.tables["blood"][:, 1] == 0).all()
        assert imputed_entries(prepared) == {"blood": 3}


def test_minmax_scales_to_the_unit_interval():
    cohort = make_cohort()
    values = Preprocessor.fit(cohort, {"scale": "minmax"}).transform(cohort).tables["slide"]
    assert values.min() == 0 and values.max() == 1


def test_inputs_name_token_columns_by_position():
    inputs = {modality.name: modality for modality in Preprocessor.fit(make_cohort()).inputs}
    assert inputs["slide"].groups == (("left", (0, 1)), ("right", (1, 2, 3)))
    assert (inputs["slide"].kind, inputs["slide"].width) == ("tokens", 4)
    assert list(inputs) == ["slide", "blood", "panel"]


def test_state_gives_back_the_same_numbers_through_json():
    cohort = make_cohort()
    preprocessor = Preprocessor.fit(cohort, {"modalities": {"blood": {"transform": "signed_log", "clip": 3}}})
    again = Preprocessor.from_state(json.loads(json.dumps(preprocessor.state(), allow_nan=False)))
    one, two = preprocessor.transform(cohort).batch(), again.transform(cohort).batch()
    for name in one.values:
        assert torch.equal(dense(one.values[name]), dense(two.values[name]))
    assert torch.equal(one.target.time_bin, two.target.time_bin)
    assert again.inputs == preprocessor.inputs and again.state() == preprocessor.state()


def test_batch_carries_rows_in_the_order_asked_for():
    cohort = make_cohort()
    prepared = Preprocessor.fit(cohort).transform(cohort)
    batch = prepared.batch(np.array([7, 3]))
    assert len(batch) == 2 and len(prepared) == 60
    assert batch.availability.tolist() == [[True, True, True], [True, False, True]]
    assert batch.values["blood"].dtype == torch.float32
    endpoint = cohort.endpoint()
    np.testing.assert_array_equal(batch.target.event.numpy(), endpoint.event[[7, 3]])
    np.testing.assert_allclose(batch.target.time.numpy(), endpoint.time[[7, 3]], rtol=1e-6)
    assert batch.target.time_bin.dtype == torch.int64
    assert torch.equal(batch.row_key, prepared.row_key[[7, 3]])


def test_prediction_cohorts_need_neither_outcomes_nor_every_modality():
    cohort = make_cohort()
    preprocessor = Preprocessor.fit(cohort)
    batch = preprocessor.transform(make_cohort(outcomes=None, time_unit=None).only(["slide"])).batch()
    assert batch.target is None
    assert batch.availability.all(0).tolist() == [True, False, False]
    assert batch.values["blood"].shape == (60, 3) and (batch.values["blood"] == 0).all()
    unfitted = Preprocessor.fit(make_cohort(outcomes=None, time_unit=None))
    assert unfitted.bins is None and unfitted.endpoint is None
    assert Preprocessor.from_state(json.loads(json.dumps(unfitted.state()))).bins is None


def test_columns_are_found_by_name():
    cohort = make_cohort()
    preprocessor = Preprocessor.fit(cohort)
    ids = cohort.row_ids
    slide = pd.DataFrame(cohort.modalities["slide"].table, index=ids, columns=list("abcd"))
    shuffled = Cohort.from_frames({"slide": slide[list("dbca")]}, None)
    assert torch.equal(preprocessor.transform(shuffled).tables["slide"], preprocessor.transform(cohort).tables["slide"])
    other = Cohort.from_frames({"slide": slide.rename(columns={"c": "surprise"})}, None)
    with pytest.raises(DataError, match="'slide'.*1 missing: 'c'; 1 unexpected: 'surprise'"):
        preprocessor.transform(other)
    with pytest.raises(DataError, match=r"never saw modality 'slides' \(nearest: 'slide'\)"):
        preprocessor.transform(Cohort.from_frames({"slides": slide}, None))


def test_unknown_columns_are_told_with_the_nearest():
    table = pd.DataFrame({"TP53": [1.0, 2.0], "KRAS": [3.0, 5.0]}, index=["a", "b"])
    cohort = Cohort.from_frames({"rna": table}, None)
    other = Cohort.from_frames({"rna": table.rename(columns={"TP53": "TP35"})}, None)
    for imputes in (True, False):
        with pytest.raises(DataError, match=r"1 unexpected: 'TP35' \(nearest: 'TP53'\)"):
            Preprocessor.fit(cohort, imputes=imputes).transform(other)


def test_a_missing_column_is_a_missing_entry_where_the_model_takes_such():
    cohort = make_cohort()
    cohort = cohort.select(cohort.modalities["blood"].present)
    narrow = pd.DataFrame(cohort.modalities["blood"].table[:, [2, 0]], index=cohort.row_ids, columns=["z", "x"])
    narrow = Cohort.from_frames({"blood": narrow}, None)
    with pytest.raises(DataError, match="1 missing: 'y'"):
        Preprocessor.fit(cohort).transform(narrow)
    masking = Preprocessor.fit(cohort, imputes=False)
    prepared, whole = masking.transform(narrow), masking.transform(cohort)
    assert not prepared.observed["blood"][:, 1].any() and (prepared.tables["blood"][:, 1] == 0).all()
    for column in (0, 2):
        assert torch.equal(prepared.tables["blood"][:, column], whole.tables["blood"][:, column])
        assert torch.equal(prepared.observed["blood"][:, column], whole.observed["blood"][:, column])


def far_away(cohort: Cohort, distances: dict[tuple[str, int, int], float], logged: tuple[str, ...] = ()) -> Cohort:
    """The cohort with some entries (modality, row, column) so many standard deviations away from their mean."""
    modalities = dict(cohort.modalities)
    for (name, row, column), distance in distances.items():
        modality = modalities[name]
        values = cohort.modalities[name].table[cohort.modalities[name].present][:, column].astype(np.float64)
        values = signed_log(values) if name in logged else values
        entry = np.nanmean(values) + distance * np.nanstd(values)
        table = modality.table.copy()
        table[row, column] = np.copysign(np.expm1(abs(entry)), entry) if name in logged else entry
        modalities[name] = replace(modality, held=table)
    return replace(cohort, modalities=modalities)


@pytest.mark.parametrize("clip", [5.0, None, 50.0])
def test_absurd_values_are_told_and_not_changed(clip):
    cohort = make_cohort()
    own = {"slide": {"transform": "none"}, "blood": {"transform": "signed_log"}}
    preprocessor = Preprocessor.fit(cohort, {"clip": clip, "modalities": own})
    assert preprocessor.transform(cohort).extreme == {}
    distances = {
        ("blood", 2, 1): 57.2, ("blood", 2, 0): -30.0, ("blood", 4, 1): -21.0, ("blood", 6, 1): 19.0,
        ("slide", 2, 3): -25.0, ("slide", 8, 0): 19.5,
    }  # fmt: skip
    odd = far_away(cohort, distances, logged=("blood",))
    prepared = preprocessor.transform(odd)
    assert prepared.extreme == {
        2: "slide: 'd' lies 25 standard deviations from the training mean; "
        "blood: 'y' lies 57 standard deviations from the training mean (2 such entries)",
        4: "blood: 'y' lies 21 standard deviations from the training mean",
    }
    scaler = preprocessor.tables["blood"]
    present = odd.modalities["blood"].present
    expected = scaler.apply(odd.modalities["blood"].table)[present]
    got = prepared.tables["blood"].numpy()[present]
    np.testing.assert_array_equal(got[~np.isnan(expected)], expected[~np.isnan(expected)])


def test_constant_columns_and_other_scales_know_nothing_absurd():
    cohort = make_cohort()
    blood = cohort.modalities["blood"]
    table = blood.table.copy()
    table[0] = 1e4
    odd = replace(cohort, modalities={**cohort.modalities, "blood": replace(blood, held=table)})
    for scale in ("minmax", "none"):
        assert Preprocessor.fit(cohort, {"scale": scale}).transform(odd).extreme == {}
    # The third column was constant in training.
    table[0, :2] = np.nan
    assert Preprocessor.fit(cohort).transform(odd).extreme == {}
    table[0, 0] = 1e4
    assert list(Preprocessor.fit(cohort).transform(odd).extreme) == [0]


def test_token_arrays_are_padded_with_a_mask():
    tokens = {"a": np.ones((2, 3), np.float32), "b": np.full((4, 3), 2, np.float32)}
    tokens["b"][1, 0] = np.nan
    vector = pd.DataFrame({"v": [1.0, 2.0, 4.0]}, index=["a", "b", "c"])
    cohort = Cohort.from_frames({"parts": tokens, "vector": vector}, None, kinds={"parts": "tokens"})
    preprocessor = Preprocessor.fit(cohort, {"modalities": {"parts": {"transform": "signed_log"}}})
    batch = preprocessor.transform(cohort).batch([1, 0, 2])
    assert batch.values["parts"].shape == (3, 4, 3)
    assert batch.observed["parts"].tolist() == [[True, False, True, True], [True, True, False, False], [False] * 4]
    np.testing.assert_allclose(batch.values["parts"][0, 0].numpy(), np.log(3), rtol=1e-6)
    assert (batch.values["parts"][~batch.observed["parts"]] == 0).all()
    assert preprocessor.transform(cohort).batch([2]).values["parts"].shape == (1, 1, 3)
    assert preprocessor.transform(cohort.only(["vector"])).batch([0]).observed["parts"].tolist() == [[False]]
    narrow = Cohort.from_frames({"parts": {"a": np.ones((2, 2), np.float32)}}, None, kinds={"parts": "tokens"})
    with pytest.raises(DataError, match="width 3, the cohort has width 2"):
        preprocessor.transform(narrow)


def test_images_of_one_shape_are_stacked():
    images = {"a": np.ones((2, 1, 4, 4), np.float32), "b": np.zeros((2, 1, 4, 4), np.float32)}
    cohort = Cohort.from_frames({"scan": images}, None, kinds={"scan": "images"})
    preprocessor = Preprocessor.fit(cohort)
    assert preprocessor.transform(cohort).batch().values["scan"].shape == (2, 2, 1, 4, 4)
    images["b"] = np.zeros((2, 1, 5, 4), np.float32)
    with pytest.raises(DataError, match=r"row 'b'.*\(2, 1, 5, 4\)"):
        preprocessor.transform(Cohort.from_frames({"scan": images}, None, kinds={"scan": "images"})).batch()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"binz": 4}, "unknown preprocessing setting: 'binz'"),
        ({"bins": 0}, "at least 1, got 0"),
        ({"binning": "even"}, "unknown binning: 'even'"),
        ({"scale": "robust"}, "unknown scale: 'robust'"),
        ({"clip": -1}, "positive number"),
        ({"modalities": {"mri": {}}}, "unknown modality in the preprocessing settings: 'mri'"),
        ({"modalities": {"slide": {"log": True}}}, "unknown setting of modality 'slide': 'log'"),
        ({"modalities": {"slide": {"transform": "log"}}}, "unknown transform: 'log'"),
        ({"order": "size"}, "unknown order: 'size'; expected one of file, coords"),
        ({"modalities": {"slide": {"order": "file"}}}, "'slide' holds a table and takes .*; got 'order'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocessor.fit(make_cohort(), settings)


def test_arrays_take_few_settings():
    arrays = {"p": np.ones((2, 3))}
    cohort = Cohort.from_frames({"slide": arrays, "parts": arrays}, None, kinds={"slide": "bag", "parts": "tokens"})
    for name, setting, message in (
        ("slide", {"scale": "none"}, "'slide' holds bags and takes the settings transform, order; got 'scale'"),
        ("slide", {"order": "y"}, "unknown order: 'y'"),
        ("parts", {"order": "file"}, "'parts' holds arrays and takes the settings transform; got 'order'"),
    ):
        with pytest.raises(ValueError, match=message):
            Preprocessor.fit(cohort, {"modalities": {name: setting}})


def test_a_modality_that_no_training_row_has_is_refused():
    with pytest.raises(DataError, match="'blood': none of the 60 training rows"):
        Preprocessor.fit(make_cohort().without("blood"))


def test_equidistant_bins_reach_to_the_longest_training_time():
    cohort = make_cohort()
    bins = Preprocessor.fit(cohort, {"binning": "equidistant", "bins": 20}).bins
    assert len(bins) == 20 and bins.edges[-1] == cohort.endpoint().time.max()


def test_names_that_carry_the_outcome_are_recognised():
    leaks = [
        "os",
        "os_time",
        "PFI.1",
        "pfi_time_1",
        "AGE_AT_DEATH",
        "AGE_AT_LAST_CONTACT",
        "progressed",
        "stop_drug",
        "dead_5y",
    ]
    leaks += [
        "vital_status",
        "death_days_to",
        "new_tumor_event_type",
        "censorship",
        "survival_months",
        "event",
        "OS_event",
    ]
    assert outcome_columns(leaks) == leaks
    features = [
        "OS9_rnaseq",
        "TIMELESS_rnaseq",
        "DEDD_cnv",
        "EVENTIN",
        "age",
        "AREA (MM2) OF [TUMOR] IN [TISSUE]_HE",
        "stage",
    ]
    assert outcome_columns(features) == []
