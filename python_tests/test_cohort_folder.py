"""Cohort folders: every kind round-trips bit for bit, values are read late, writing is all or nothing."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from survcore.data import Cohort, simulate_cohort
from survcore.data.arrays import ArrayItem
from survcore.errors import DataError

ROWS = ["001", "NA", "a/b", ".hidden", "a%2Fb", "é", "last.one"]


def full_cohort() -> Cohort:
    """Seven rows with awkward ids; every modality lacks some rows, tables lack entries."""
    random = np.random.default_rng(0)

    def table(rows, width, **columns):
        frame = pd.DataFrame(random.normal(size=(len(rows), width)), columns=[f"g {column}" for column in range(width)])
        frame.iloc[0, 0] = np.nan
        return frame.assign(row_id=rows, **columns)

    def arrays(rows, dtype, *shape):
        return {row: torch.randn(position + 1, *shape).to(dtype) for position, row in enumerate(rows)}

    def bag(rows, dtype):
        coords = {row: torch.randint(0, 100_000, (position + 1, 2)) for position, row in enumerate(rows)}
        return {row: {"features": value, "coords": coords[row]} for row, value in arrays(rows, dtype, 4).items()}

    torch.manual_seed(0)
    volumes = {row: torch.randint(0, 255, (1, 2, 3, 4), dtype=torch.uint8) for row in ROWS[1:5]}
    panel = pd.DataFrame({"row_id": ROWS, "TP53": [0, 1, None, 1, 0, 0, 1], "KRAS": [1, 0, 0, 0, None, 0, 1]})
    texts = {row: f'report "{row}",\nsecond line\r\n NaN ' for row in ROWS[2:]}
    outcomes = pd.DataFrame(
        {
            "row_id": ROWS,
            "patient_id": ["007", "007", "1e5", "None", "x", "y", "z"],
            "time": random.exponential(1000, size=7),
            "event": [0, 1, 2, 0, 1, 0, 2],
            "entry": [0.1] * 7,
            "OS_time": random.exponential(3, size=7),
            "OS_event": [0, 1] * 3 + [0],
            "fold": [0, 0, 2, 0, 1, 2, None],
            "split": ["train", None, "test", "train", "train", "test", "NA"],
            "strata": ["1", "1", "2", "2", "01", "1", "NULL"],
            "weights": random.uniform(size=7),
        }
    )
    return Cohort.from_frames(
        {
            "vector": table(ROWS[:5], 3),
            "panel": panel,
            "gene tokens": table(ROWS[2:], 4),
            "tokens": arrays(ROWS[:3], torch.float32, 6),
            "bag_half": bag(ROWS[1:4], torch.float16),
            "bag_brain": bag(ROWS[3:], torch.bfloat16),
            "images": arrays(ROWS[:2], torch.float64, 3, 2, 2),
            "volume": volumes,
            "text": texts,
            "embedding": table(ROWS[4:], 5),
        },
        outcomes,
        time_unit={"primary": "days", "OS": "years"},
        causes={"primary": 2},
        kinds={"tokens": "tokens", "images": "images", "volume": "volume", "embedding": "embedding", "panel": "panel"},
        groups={"gene tokens": {"b": ["g 3", "g 0"], "a": ["g 0", "g 1"]}},
        transforms={"gene tokens": "signed_log"},
        name='a "quoted" \\ näme\n',
    )


def assert_same(read: Cohort, written: Cohort) -> None:
    for part in ("row_ids", "patient_ids", "fold", "split", "strata", "weights"):
        ours, theirs = getattr(read, part), getattr(written, part)
        assert (ours is None) == (theirs is None), part
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs, err_msg=part)
            assert ours.dtype.kind == theirs.dtype.kind, part
    assert read.name == written.name
    assert list(read.endpoints) == list(written.endpoints)
    for name, endpoint in written.endpoints.items():
        again = read.endpoints[name]
        assert again.causes == endpoint.causes
        assert again.time.tobytes() == endpoint.time.tobytes()
        assert again.event.tolist() == endpoint.event.tolist()
        assert (again.entry is None) == (endpoint.entry is None)
        if endpoint.entry is not None:
            assert again.entry.tobytes() == endpoint.entry.tobytes()
    assert [modality.spec for modality in read.modalities.values()] == [m.spec for m in written.modalities.values()]
    for name, modality in written.modalities.items():
        again = read.modalities[name]
        np.testing.assert_array_equal(again.present, modality.present, err_msg=name)
        if modality.table is not None:
            np.testing.assert_array_equal(again.table, modality.table, err_msg=name)
            continue
        for row in np.flatnonzero(modality.present):
            ours, theirs = again.value(row), modality.value(row)
            if isinstance(theirs, str):
                assert ours == theirs
                continue
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
            assert (again.coords(row) is None) == (modality.coords(row) is None)
            if modality.coords(row) is not None:
                assert again.coords(row).dtype == modality.coords(row).dtype
                assert torch.equal(again.coords(row), modality.coords(row))
    assert read.fingerprint() == written.fingerprint()


@pytest.mark.parametrize("tables", ["parquet", "csv"])
@pytest.mark.parametrize("arrays", [None, "pt"])
def test_every_kind_round_trips(tmp_path, tables, arrays):
    cohort = full_cohort()
    cohort.to_folder(tmp_path / "cohort", tables=tables, arrays=arrays)
    read = Cohort.from_folder(tmp_path / "cohort")
    assert_same(read, cohort)
    read.to_folder(tmp_path / "again", tables=tables)
    assert_same(Cohort.from_folder(tmp_path / "again"), cohort)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_says_that_patients_are_simulated(tmp_path):
    simulate_cohort(5, seed=1).to_folder(tmp_path / "a")
    assert Cohort.from_folder(tmp_path / "a").simulated
    replace(simulate_cohort(5, seed=1), simulated=False).to_folder(tmp_path / "b")
    assert not Cohort.from_folder(tmp_path / "b").simulated


@pytest.mark.parametrize("arrays", ["h5", "npy"])
def test_other_array_files_round_trip_what_they_can_hold(tmp_path, arrays):
    cohort = full_cohort().only(["images", "tokens", "volume", "vector"] + (["bag_half"] if arrays == "h5" else []))
    cohort = cohort.select(cohort.availability.any(axis=1))
    cohort.to_folder(tmp_path / "cohort", arrays=arrays)
    assert_same(Cohort.from_folder(tmp_path / "cohort"), cohort)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_large_bags_have_one_fingerprint_in_memory_and_in_every_file(tmp_path, dtype):
    features = torch.randn(3000, 40).to(dtype)
    coords = torch.randint(0, 100_000, (3000, 2))
    cohort = Cohort.from_frames({"slides": {"p": {"features": features, "coords": coords}}}, None)
    types = ["safetensors", "pt"] if dtype == torch.bfloat16 else ["safetensors", "pt", "h5"]
    for arrays in types:
        cohort.to_folder(tmp_path / arrays, arrays=arrays)
        assert Cohort.from_folder(tmp_path / arrays).fingerprint() == cohort.fingerprint()
    if "h5" not in types:
        return
    file = tmp_path / "h5" / "slides" / "p.h5"
    for chunks in ((7, 40), (1, 500, 3)):
        with h5py.File(file, "w") as written:
            array = features.numpy() if len(chunks) == 2 else features.numpy()[None]
            written.create_dataset("features", data=array, chunks=chunks, compression="gzip")
            written.create_dataset("coords", data=coords.numpy(), chunks=(100, 2))
        assert Cohort.from_folder(tmp_path / "h5").fingerprint() == cohort.fingerprint()
    with h5py.File(file, "r+") as written:
        written["features"][0, 1500] = features[1500].numpy() + 1
    assert Cohort.from_folder(tmp_path / "h5").fingerprint() != cohort.fingerprint()


def test_a_fingerprint_reads_little_of_a_slide(tmp_path, monkeypatch):
    values = np.zeros((1000, 1024), dtype=np.float32)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("features", data=values, chunks=(10, 1024))
    cohort = Cohort.from_frames({"slides": {"p": tmp_path / "p.h5"}}, None, kinds={"slides": "bag"})
    read = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: read.append(key[0]) or original(self, key))
    cohort.fingerprint()
    assert {(part.start // 100, (part.stop - 1) // 100) for part in read} <= {(0, 0), (4, 4), (4, 5), (5, 5), (9, 9)}
    assert sum(part.stop - part.start for part in read) < 100


def test_images_in_chunks_have_the_fingerprint_of_images_in_memory(tmp_path):
    images = {"p": np.random.default_rng(0).random((9, 3, 80, 80))}
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("features", data=images["p"][None], chunks=(1, 2, 3, 7, 80), compression="gzip")
    prints = {
        Cohort.from_frames({"scan": given}, None, kinds={"scan": "images"}).fingerprint()
        for given in (images, {"p": tmp_path / "p.h5"})
    }
    assert len(prints) == 1


def test_rows_and_modalities_that_were_taken_away_round_trip(tmp_path):
    cohort = full_cohort().without("vector").without("bag_half").without("text").only(["vector", "bag_half", "text"])
    cohort.to_folder(tmp_path / "cohort", tables="csv")
    assert_same(Cohort.from_folder(tmp_path / "cohort"), cohort)


def test_a_cohort_for_prediction_round_trips(tmp_path):
    bags = {"b": np.ones((2, 3), dtype=np.float32), "a": np.zeros((1, 3), dtype=np.float32)}
    cohort = Cohort.from_frames({"slides": bags}, None)
    cohort.to_folder(tmp_path / "cohort")
    assert_same(Cohort.from_folder(tmp_path / "cohort"), cohort)
    (tmp_path / "cohort" / "outcomes.parquet").unlink()
    assert sorted(Cohort.from_folder(tmp_path / "cohort").row_ids) == ["a", "b"]


def test_arrays_are_not_read_before_they_are_asked_for(tmp_path, monkeypatch):
    full_cohort().to_folder(tmp_path / "cohort")
    reads = []
    original = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda values: reads.append(values.shape) or original(values))
    cohort = Cohort.from_folder(tmp_path / "cohort")
    assert cohort.modalities["bag_half"].shape(2) == (2, 4)
    assert all(isinstance(item, ArrayItem | None) for item in cohort.modalities["bag_half"].items)
    cohort.select([2]).without("vector").summary()
    assert reads == []
    cohort.modalities["bag_half"].value(2)
    assert reads == [(2, 4)]


def test_an_npy_file_is_mapped_not_loaded(tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((2**14, 256), dtype=np.float32))
    tracemalloc.start()
    cohort = Cohort.from_frames({"slides": {"p": tmp_path / "large.npy"}}, None, kinds={"slides": "bag"})
    value = cohort.modalities["slides"].value(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 < value.nbytes
    value[0, 0] = 1
    assert cohort.modalities["slides"].value(0)[0, 0] == 0


@pytest.mark.parametrize("arrays", ["safetensors", "pt"])
def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path, arrays):
    cohort = Cohort.from_frames({"slides": {"p": torch.arange(400_000.0).reshape(-1, 4)[5:7]}}, None)
    cohort.to_folder(tmp_path / "cohort", arrays=arrays)
    assert_same(Cohort.from_folder(tmp_path / "cohort"), cohort)
    assert (tmp_path / "cohort" / "slides" / f"p.{arrays}").stat().st_size < 10_000


def test_one_embedding_per_file_becomes_a_table(tmp_path):
    write_manifest(tmp_path, '[modalities.slide]\nkind = "embedding"\n')
    (tmp_path / "slide").mkdir()
    torch.save(torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), tmp_path / "slide" / "a.pt")
    np.save(tmp_path / "slide" / "b.npy", np.array([3, 4]))
    assert Cohort.from_folder(tmp_path).modalities["slide"].table.tolist() == [[1, 2], [3, 4]]


def write_manifest(folder, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "cohort.toml").write_text(text)


def test_a_folder_made_by_hand_with_files_of_slide_pipelines(tmp_path):
    write_manifest(
        tmp_path,
        """
        [endpoints.OS]
        time_unit = "days"
        event = "OS_censored"
        censored_value = 1
        [modalities.slides]
        kind = "bag"
        [modalities.rna]
        kind = "tokens"
        transform = "signed_log"
        """,
    )
    (tmp_path / "outcomes.csv").write_text(
        "row_id,OS_time,OS_censored\n01,30.4375,1\n02,60.875,0\n03,365.25,1\n04,1,0\n"
    )
    (tmp_path / "rna.csv").write_text("row_id,TP53,KRAS\n02,1.5,\n04,-1,2\n")
    (tmp_path / "rna.groups.csv").write_text("token,column\nx,TP53\nx,KRAS\ny,KRAS\n")
    slides = tmp_path / "slides"
    slides.mkdir()
    features, coords = (
        np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32),
        np.arange(10).reshape(1, 5, 2),
    )
    with h5py.File(slides / "01.h5", "w") as file:
        file.create_dataset("features", data=features)
        file.create_dataset("coords", data=coords)
    torch.save(torch.from_numpy(features[0]), slides / "02.pt")
    np.save(slides / "03.npy", features[0].astype(">f4"))
    save_file({"anything": torch.from_numpy(features[0])}, slides / "04.safetensors")
    cohort = Cohort.from_folder(tmp_path)
    assert cohort.endpoint("OS").time.tolist() == pytest.approx([1, 2, 12, 1 / 30.4375], rel=1e-15)
    assert cohort.endpoint().event.tolist() == [0, 1, 0, 1]
    for row in range(4):
        assert torch.equal(cohort.modalities["slides"].value(row), torch.from_numpy(features[0]))
    assert cohort.modalities["slides"].coords(0).tolist() == coords[0].tolist()
    assert cohort.modalities["slides"].coords(1) is None
    rna = cohort.modalities["rna"]
    assert rna.spec.groups == (("x", ("TP53", "KRAS")), ("y", ("KRAS",)))
    np.testing.assert_array_equal(rna.table[1], np.array([1.5, np.nan], dtype=np.float32))
    assert cohort.availability.tolist() == [[True, False], [True, True], [True, False], [True, True]]
    assert cohort.name == tmp_path.name


def test_a_legacy_pt_file_is_read(tmp_path):
    torch.save(torch.ones(3, 2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    cohort = Cohort.from_frames({"slides": {"p": tmp_path / "old.pt"}}, None, kinds={"slides": "bag"})
    assert torch.equal(cohort.modalities["slides"].value(0), torch.ones(3, 2))


def test_writing_over_a_cohort_needs_a_word_and_nothing_else_is_replaced(tmp_path):
    cohort = full_cohort()
    cohort.to_folder(tmp_path / "cohort")
    with pytest.raises(DataError, match="exists already; pass overwrite=True"):
        cohort.to_folder(tmp_path / "cohort")
    stored = Cohort.from_folder(tmp_path / "cohort")
    stored.to_folder(tmp_path / "cohort", overwrite=True)
    assert_same(stored, cohort)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="it holds no cohort, so it is left alone"):
        cohort.to_folder(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("arrays", "message"), [("npy", "npy files cannot hold"), ("h5", "h5 files cannot hold bfloat16")]
)
def test_a_failed_write_leaves_nothing_new_and_the_old_folder_whole(tmp_path, arrays, message):
    cohort = full_cohort()
    with pytest.raises(DataError, match=message):
        cohort.to_folder(tmp_path / "new", arrays=arrays)
    assert list(tmp_path.iterdir()) == []
    cohort.to_folder(tmp_path / "old")
    with pytest.raises(DataError, match=message):
        cohort.to_folder(tmp_path / "old", arrays=arrays, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert_same(Cohort.from_folder(tmp_path / "old"), cohort)
