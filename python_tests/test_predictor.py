"""A loaded predictor: where and how it runs, what it sets up, and patients who fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import survcore
from survcore.devices import known_device
from survcore.diffusion import packed
from survcore.errors import DataError
from survcore.inference import encoder_dtype
from survcore.inference.encoder_dtype import Encoder
from survcore.inference.encoding_cache import EncodingCache
from survcore.inference.isolation import in_parts
from survcore.inference.made_up import made_up_patients
from survcore.models.base import Encoded

QUICK = {"draws": 3, "steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a slide and genomics, trained for a moment."""
    cohort = survcore.simulate_cohort(40, seed=2, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    model = {"width": 16, "rank": 4, "heads": 2, "denoiser_layers": 1}
    changes = {"model": model, "stages": {stage: {"epochs": 1} for stage in ("warm_up", "joint", "diffusion")}}
    out = tmp_path_factory.mktemp("model")
    survcore.fit("must", cohort, changes=changes, out=out)
    return out


@pytest.fixture
def patients() -> survcore.Cohort:
    cohort = survcore.simulate_cohort(12, seed=3, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 40))
    return cohort.without("slide", np.arange(12) < 4).without("genomics", np.arange(12) >= 8)


def test_device_is_the_gpu_where_there_is_one(folder: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    for predictor in (survcore.load(folder), survcore.load(folder, "auto")):
        assert next(predictor.system.parameters()).device.type == expected
    assert next(survcore.load(folder, "cpu").system.parameters()).device.type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "", None])
def test_devices_that_are_not_there(name: str | None, folder: Path) -> None:
    with pytest.raises(ValueError, match="auto, cpu or cuda:N|CUDA devices"):
        known_device(name)
    with pytest.raises(ValueError, match="auto, cpu or cuda:N|CUDA devices"):
        survcore.load(folder, name)


def test_after_a_warmup_nothing_is_packed_and_nothing_else(
    folder: Path, patients: survcore.Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = survcore.load(folder, "cpu").predict(patients, **QUICK)
    predictor, made = survcore.load(folder, "cpu"), []
    original = packed.pack_denoiser
    monkeypatch.setattr(
        packed, "pack_denoiser", lambda *given, **options: made.append(1) or original(*given, **options)
    )
    predictor.warmup(**QUICK)
    assert len(made) == 2
    pd.testing.assert_frame_equal(predictor.predict(patients, **QUICK), expected)
    assert len(made) == 2


def test_warmup_refuses_what_predict_refuses(folder: Path) -> None:
    with pytest.raises(ValueError, match="solver"):
        survcore.load(folder, "cpu").warmup(solver="euler")


# ---- patients who fail


@pytest.fixture
def stored(patients: survcore.Cohort, tmp_path: Path) -> survcore.Cohort:
    """The patients out of a folder; the slide file of the sixth was cut short after the folder was read."""
    patients.to_folder(tmp_path / "stored", arrays="safetensors")
    cohort = survcore.Cohort.from_folder(tmp_path / "stored")
    file = tmp_path / "stored" / "slide" / f"{cohort.row_ids[5]}.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    return cohort


@pytest.mark.parametrize("kept_encodings", [0, 8])
def test_a_damaged_slide_is_the_error_of_its_patient(
    kept_encodings: int, folder: Path, patients: survcore.Cohort, stored: survcore.Cohort
) -> None:
    predictor = survcore.load(folder, "cpu", kept_encodings=kept_encodings)
    with pytest.warns(UserWarning, match="1 of 12 patients could not be predicted"):
        table = predictor.predict(stored, **QUICK)
    others = np.arange(12) != 5
    assert list(table.index) == list(patients.row_ids)
    assert list(table["error"] != "") == list(~others)
    assert str(stored.row_ids[5]) in table["error"].iloc[5]
    assert table.iloc[5][["risk", "risk_spread", "risk_min", "survival_12", "median_survival"]].isna().all()
    assert table.iloc[5]["completed"] == "" and table.iloc[5]["available"] == "slide+genomics"
    expected = predictor.predict(patients.select(others), **QUICK)
    pd.testing.assert_frame_equal(table[others], expected, rtol=1e-5)


def test_the_first_failing_patient_is_raised_where_asked(folder: Path, stored: survcore.Cohort) -> None:
    predictor = survcore.load(folder, "cpu")
    for call in (predictor.predict, predictor.predict_survival_function, predictor.encode):
        options = {"errors": "raise"} if call == predictor.predict else {}
        with pytest.raises(DataError, match=str(stored.row_ids[5])):
            call(stored, **options)
    with pytest.raises(ValueError, match="errors must be raise or report, got 'ignore'"):
        predictor.predict(stored, errors="ignore")
    encoded = predictor.encode(stored, errors="report")
    with pytest.raises(DataError, match=str(stored.row_ids[5])):
        predictor.outputs(encoded)
    assert list(predictor.outputs(encoded, errors="report", **QUICK).errors) == [5]
    curves = predictor.predict_survival_function(stored, errors="report", **QUICK)
    assert list(curves.columns[curves.isna().any()]) == [stored.row_ids[5]]


def test_a_patient_with_nothing_and_one_beyond_all_numbers(folder: Path, patients: survcore.Cohort) -> None:
    predictor = survcore.load(folder, "cpu")
    bare = np.arange(12) == 7
    odd = patients.without("slide", bare).without("genomics", bare)
    items = odd.modalities["slide"].items
    items[6] = replace(items[6], features=torch.full_like(items[6].features, 1e30))
    with pytest.warns(UserWarning, match="2 of 12"):
        table = predictor.predict(odd, **QUICK)
    assert table["error"].iloc[0] == ""
    assert list(np.flatnonzero(table["error"] != "")) == [6, 7]
    assert "is not a number" in table["error"].iloc[6] and "no modality" in table["error"].iloc[7]
    assert np.isfinite(table["risk"].drop(table.index[[6, 7]])).all()
    with pytest.warns(UserWarning, match="1 of 1"):
        assert predictor.predict(odd.select([7]))["risk"].isna().all()


@pytest.mark.parametrize("failing", [(), (0,), (3, 4), (6,), tuple(range(7))])
def test_failing_rows_are_found_and_the_others_served_once(failing: tuple[int, ...]) -> None:
    served: list[int] = []

    def call(rows: torch.Tensor) -> int:
        if bad := set(rows.tolist()) & set(failing):
            raise DataError(f"bad {min(bad)}")
        served.extend(rows.tolist())
        return len(rows)

    failures: dict[int, str] = {}
    parts = in_parts(call, torch.arange(7), failures)
    assert failures == {row: f"bad {row}" for row in failing}
    assert served == [row for row in range(7) if row not in failing]
    assert [int(row) for rows, _ in parts for row in rows] == served
    if failing:
        with pytest.raises(DataError):
            in_parts(call, torch.arange(7), None)


@pytest.mark.parametrize("error", [TypeError("defect"), RuntimeError("shapes cannot be multiplied")])
def test_a_defect_is_no_error_of_a_patient(error: Exception) -> None:
    def call(rows: torch.Tensor) -> None:
        raise error

    with pytest.raises(type(error)):
        in_parts(call, torch.arange(3), {})


def test_want_of_memory_is_an_error_of_the_row_that_is_too_large() -> None:
    def call(rows: torch.Tensor) -> None:
        if 1 in rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    failures: dict[int, str] = {}
    in_parts(call, torch.arange(3), failures)
    assert list(failures) == [1]


def test_records_and_tables_of_patients(folder: Path, patients: survcore.Cohort) -> None:
    predictor = survcore.load(folder, "cpu")
    expected = predictor.predict(patients, **QUICK)
    records = [
        {
            "row_id": str(row_id),
            **{name: m.value(row) for name, m in patients.modalities.items() if m.present[row]},
        }
        for row, row_id in enumerate(patients.row_ids)
    ]
    pd.testing.assert_frame_equal(predictor.predict(records, **QUICK), expected, rtol=1e-5)
    alone = predictor.predict(records[2], **QUICK)
    pd.testing.assert_frame_equal(alone, expected.iloc[[2]], rtol=1e-5)
    records[1] = {"row_id": "odd", "genomic": [1.0]}
    with pytest.warns(UserWarning, match="genomic"):
        table = predictor.predict(records, **QUICK)
    assert list(table.index) == [records[0]["row_id"], "odd", *expected.index[2:]]
    assert table["error"].iloc[1] != "" and np.isnan(table["risk"].iloc[1])
    pd.testing.assert_frame_equal(table.drop("odd"), expected.drop(expected.index[1]), rtol=1e-5)
    with pytest.warns(UserWarning, match="1 of 1"):
        nobody = predictor.predict(records[1])
    assert list(nobody.columns) == list(expected.columns) and nobody["risk"].isna().all()
    with pytest.raises(DataError, match="genomic"):
        predictor.predict(records, errors="raise")


def test_the_time_of_a_call_is_told(folder: Path, patients: survcore.Cohort) -> None:
    table = survcore.load(folder, "cpu").predict(patients, **QUICK)
    assert 0 < table.attrs["latency_ms"] < 60_000


# ---- encodings that are kept


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that is encoded."""
    seen: list[int] = []
    original = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda self, batch: seen.append(len(batch)) or original(self, batch))
    return seen


def test_slides_are_encoded_once(folder: Path, patients: survcore.Cohort, counted: list[int]) -> None:
    predictor = survcore.load(folder, "cpu")
    expected = survcore.load(folder, "cpu", kept_encodings=0).predict(patients, **QUICK)
    counted.clear()
    first = predictor.predict(patients, **QUICK)
    assert counted == [4, *8 * [1]]
    counted.clear()
    again = predictor.predict(patients, **QUICK)
    assert counted == [4]
    pd.testing.assert_frame_equal(first, expected, rtol=1e-5)
    pd.testing.assert_frame_equal(again, first)


def test_a_kept_encoding_is_known_by_the_whole_row(folder: Path, counted: list[int]) -> None:
    predictor = survcore.load(folder, "cpu")
    slide, genes = torch.randn(30, 32), torch.randn(48)
    other = slide.clone()
    other[29, 31] += 1e-3

    def encoded(**record: object) -> int:
        counted.clear()
        predictor.predict(record, draws=1, steps=1)
        return len(counted)

    assert encoded(row_id="a", slide=slide, genomics=genes) == 1
    assert encoded(row_id="b", slide=slide.clone(), genomics=genes) == 0
    assert encoded(row_id="b", slide=other, genomics=genes) == 1
    assert encoded(row_id="b", slide=slide) == 1
    assert encoded(row_id="b", slide=slide, genomics=-genes) == 1
    assert encoded(row_id="b", slide=slide.double(), genomics=genes) == 0
    assert encoded(row_id="b", slide=slide.half(), genomics=genes) == 1


def test_the_cache_is_bounded_and_forgets_with_the_weights() -> None:
    cache, made = EncodingCache(2), []

    def encode(batch: torch.Tensor) -> Encoded:
        made.append(1)
        bag = batch.values["slide"][0]
        return Encoded({"sum": bag.sum().reshape(1)}, batch.availability, batch.row_key)

    def look(value: float, weights: object = 0) -> float:
        row = next(row for row in made_up_patients(_Slides()))
        bags = type(row.values["slide"]).of([torch.full((2, 3), value)])
        return float(cache.encode(replace(row, values={"slide": bags}), encode, weights).parts["sum"])

    assert [look(value) for value in (1, 2, 1, 3, 1)] == [6, 12, 6, 18, 6]
    assert len(made) == 3 and len(cache) == 2
    look(2)  # went when 3 came, as 1 had been asked for since
    assert len(made) == 4
    look(2, weights=1)
    assert len(made) == 5 and len(cache) == 1


class _Slides:
    inputs = (survcore.batch.ModalityInput("slide", "bag", 3),)


# ---- threads and types


def test_any_number_of_threads_gives_the_same(folder: Path, patients: survcore.Cohort) -> None:
    before = torch.get_num_threads()
    some = patients.select([0, 5, 11])
    tables = [survcore.load(folder, "cpu", threads=threads).predict(some, **QUICK) for threads in (1, 2, 3, None)]
    assert torch.get_num_threads() == before
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-5)
    for threads in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="threads must be a whole number"):
            survcore.load(folder, "cpu", threads=threads)


def test_one_predictor_serves_several_threads(folder: Path, patients: survcore.Cohort) -> None:
    predictor = survcore.load(folder, "cpu", kept_encodings=3)
    expected = predictor.predict(patients, **QUICK)
    with ThreadPoolExecutor(4) as threads:
        rows = [np.roll(np.arange(12), shift)[:5] for shift in range(16)]
        tables = threads.map(lambda chosen: predictor.predict(patients.select(chosen), **QUICK), rows)
        for chosen, table in zip(rows, tables, strict=True):
            pd.testing.assert_frame_equal(table, expected.iloc[chosen], rtol=1e-5)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned enough for risks to differ."""
    cohort = survcore.simulate_cohort(50, seed=2, modalities={"slide": "bag", "genomics": "tokens"}, patches=(10, 20))
    model = {"width": 32, "rank": 8, "heads": 2, "denoiser_layers": 1, "landmarks": 8}
    epochs = {"warm_up": {"epochs": 1}, "joint": {"epochs": 3, "learning_rate": 2e-3}, "diffusion": {"epochs": 1}}
    changes = {"model": model, "stages": epochs}
    out = tmp_path_factory.mktemp("wide")
    survcore.fit("must", cohort, changes=changes, out=out)
    return out


def test_bfloat16_moves_no_risk_by_a_hundredth(wide: Path, patients: survcore.Cohort) -> None:
    whole = survcore.load(wide, "cpu", "float32").predict(patients, **QUICK)
    lower = survcore.load(wide, "cpu", "bfloat16").predict(patients, **QUICK)
    assert whole["risk"].std() > 0.02
    moved = (lower["risk"] / whole["risk"] - 1).abs()
    assert 0 < moved.max() < 1e-2


def test_matrices_are_lowered_once_and_encodings_are_float32(wide: Path) -> None:
    predictor = survcore.load(wide, "cpu", "bfloat16")
    assert predictor.dtype == torch.bfloat16
    batch = next(made_up_patients(predictor.system))
    encode = Encoder(predictor.system, torch.bfloat16)
    with torch.inference_mode():
        lowered = [encode(batch).parts, encode._lowered(), encode._lowered()]
    assert {part.dtype for part in lowered[0].values()} == {torch.float32}
    assert lowered[1] is lowered[2]
    assert lowered[1].encoder.tokenizers[0].projection.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in predictor.system.parameters()} == {torch.float32}
    with torch.no_grad():
        predictor.system.encoder.tokenizers[0].projection.weight.mul_(2.0)
    assert encode._lowered() is not lowered[1]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[torch.dtype, tuple[float, list[float]]]]:
    """Seconds and risks that trials find on a processor with bfloat16."""
    found = {torch.float32: (1.0, [-2.0, -3.0]), torch.bfloat16: (0.5, [-2.01, -3.0])}
    monkeypatch.setattr(encoder_dtype, "native_bfloat16", lambda device: True)
    monkeypatch.setattr(encoder_dtype, "_trial", lambda encoder: found[encoder.dtype])
    yield found


@pytest.mark.parametrize(
    ("lower", "expected"),
    [
        ((0.5, [-2.01, -3.0]), torch.bfloat16),
        ((0.5, [-2.0, -3.04]), torch.float32),
        ((0.5, [-2.0, float("nan")]), torch.float32),
        ((1.5, [-2.01, -3.0]), torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_it_is_faster_and_close(
    lower: tuple[float, list[float]], expected: torch.dtype, wide: Path, native: dict
) -> None:
    native[torch.bfloat16] = lower
    assert survcore.load(wide, "cpu").dtype == expected
    assert survcore.load(wide, "cpu", "float32").dtype == torch.float32


def test_auto_stays_with_float32_without_bfloat16_in_the_processor(wide: Path, native: dict, monkeypatch) -> None:
    monkeypatch.setattr(encoder_dtype, "native_bfloat16", lambda device: False)
    assert survcore.load(wide, "cpu").dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, bfloat16, got 'half'"):
        survcore.load(wide, "cpu", "half")


def test_a_trial_predicts_made_up_patients(wide: Path) -> None:
    system = survcore.load(wide, "cpu", "float32").system
    seconds, risks = encoder_dtype._trial(Encoder(system, torch.float32))
    assert seconds > 0 and len(risks) == 3 and np.isfinite(risks).all()
