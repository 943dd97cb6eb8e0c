"""Bags from file to batch: read one at a time, in place and in the stored dtype, whole or by a subsample."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from survcore.batch import Bags, Batch
from survcore.data import Cohort, Preprocessor, arrays, bag_reader
from survcore.data.array_files import open_arrays, read_chunks
from survcore.data.prepared import PreparedCohort
from survcore.errors import DataError

WIDTH, PATCHES = 6, 500


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(PATCHES, WIDTH).to(torch.float16)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 20 patches, so that every read takes several."""
    monkeypatch.setattr(arrays, "_BLOCK", 20 * WIDTH)


def h5(**options):
    def write(path: Path, values: torch.Tensor) -> None:
        array = values.numpy()
        if options.get("dtype"):
            array = array.astype(options["dtype"])
        with h5py.File(path, "w", userblock_size=options.get("userblock", 0)) as file:
            file.attrs["encoder"] = "name"
            array = array[None] if options.get("one") else array
            layout = {name: options[name] for name in ("chunks", "compression") if name in options}
            file.create_dataset("features", data=array, **layout)

    return write


FILES = {
    "a.npy": lambda path, values: np.save(path, values.numpy()),
    "b.safetensors": lambda path, values: save_file({"features": values}, path),
    "c.pt": lambda path, values: torch.save({"features": values}, path),
    "d.h5": h5(),
    "user_block.h5": h5(userblock=512),
    "one.h5": h5(one=True),
    "big_endian.h5": h5(dtype=">f2"),
    "patch_chunks.h5": h5(chunks=(1, WIDTH)),
    "gzip.h5": h5(chunks=(32, 4), compression="gzip"),
    "long_chunks.h5": h5(chunks=(300, WIDTH)),
    "one_in_chunks.h5": h5(one=True, chunks=(1, 7, WIDTH)),
}
MAPPED = {"a.npy", "b.safetensors", "c.pt", "d.h5", "user_block.h5", "one.h5"}


def is_mapped(path: Path) -> bool:
    return not open_arrays(path, ("features",), in_place=True)[0].is_meta


def prepare(bags: dict, settings: dict | None = None) -> PreparedCohort:
    cohort = Cohort.from_frames({"slide": bags}, None, kinds={"slide": "bag"})
    return Preprocessor.fit(cohort, {"modalities": {"slide": settings or {}}}).transform(cohort)


def read(bag, row: int = 0, settings: dict | None = None, **options) -> torch.Tensor:
    return prepare({"p": bag}, settings).batch([0], **options).values["slide"][row]


# ---- Bags


def test_bags_read_a_row_when_it_is_asked_for():
    reads = []

    def reader(row):
        return lambda: reads.append(row) or torch.full((row + 1, 2), float(row), dtype=torch.bfloat16)

    bags = Bags([reader(0), None, reader(2)], [10, 0, 10])
    moved = bags.take(torch.tensor([2, 1, 0])).take(slice(0, 2)).to("cpu")
    assert len(bags) == 3 and len(moved) == 2 and reads == []
    assert moved[0].shape == (3, 2) and moved[0].dtype == torch.bfloat16 and reads == [2, 2]
    with pytest.raises(ValueError, match="row 1 of the batch has no bag"):
        moved[1]
    with pytest.raises(IndexError):
        moved[2]
    with pytest.raises(ValueError, match="int64 index of rows, got torch.bool"):
        bags.take(torch.tensor([True, False, True]))


def test_bags_go_to_a_device_with_their_batch():
    held = torch.randn(4, 2)
    bags = Bags.of([held, None])
    assert bags[0] is held and Bags.of([None]).device.type == "cpu"
    batch = Batch(torch.zeros(2, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool), {"slide": bags}).to("meta")
    assert batch.values["slide"].device.type == "meta" and batch.values["slide"][0].is_meta
    assert bags[0].device.type == "cpu"


def test_a_batch_holds_no_bag(tmp_path):
    files = {f"p{row}": tmp_path / f"p{row}.npy" for row in range(3)}
    for row, file in enumerate(files.values()):
        np.save(file, np.full((row + 1, 2), row, dtype=np.float16))
    bags = prepare(files).batch([2, 0]).values["slide"]
    files["p2"].unlink()
    assert bags[1].tolist() == [[0, 0]]
    with pytest.raises(DataError, match="p2.npy: no such file"):
        bags[0]


def test_rows_without_a_bag_have_none_to_read():
    vector = pd.DataFrame({"v": [1.0, 2.0]}, index=["a", "b"])
    cohort = Cohort.from_frames({"slide": {"b": np.ones((2, 3))}, "vector": vector}, None, kinds={"slide": "bag"})
    preprocessor = Preprocessor.fit(cohort)
    batch = preprocessor.transform(cohort.select([1, 0])).batch()
    assert batch.availability.tolist() == [[False, True], [True, True]] and batch.observed == {}
    assert batch.values["slide"][1].shape == (2, 3)
    undeclared = preprocessor.transform(cohort.only(["vector"])).batch()
    for bags in (batch.values["slide"], undeclared.values["slide"]):
        with pytest.raises(ValueError, match="row 0 of the batch has no bag"):
            bags[0]


# ---- files


@pytest.mark.parametrize("name", FILES)
def test_a_bag_comes_as_it_is_stored(tmp_path, features, name):
    FILES[name](tmp_path / name, features)
    assert is_mapped(tmp_path / name) == (name in MAPPED)
    got = read(tmp_path / name)
    assert got.dtype == torch.float16 and torch.equal(got, features)


@pytest.mark.parametrize("count", [1, 37, 499])
@pytest.mark.parametrize("name", FILES)
def test_a_subsample_is_the_same_from_every_file(tmp_path, features, name, count):
    FILES[name](tmp_path / name, features)
    assert torch.equal(read(tmp_path / name, max_patches=count, seed=4), read(features, max_patches=count, seed=4))


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.uint8, torch.float32),
    ],
)
def test_dtypes_that_models_do_not_take_become_float32(tmp_path, features, stored, given):
    values = features.abs().to(stored)
    save_file({"features": values}, tmp_path / "p.safetensors")
    for bag in (values, tmp_path / "p.safetensors"):
        for options in ({}, {"max_patches": 30}):
            got = read(bag, **options)
            assert got.dtype == given
        assert torch.equal(read(bag), values.to(given))


def test_a_contiguous_h5_file_is_mapped_and_never_written(tmp_path):
    values = torch.zeros(2**13, 256)
    h5(userblock=1024)(tmp_path / "p.h5", values)
    prepared = prepare({"p": tmp_path / "p.h5"})
    tracemalloc.start()
    bag = prepared.batch().values["slide"][0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 < bag.nbytes
    bag[0, 0] = 1
    assert prepared.batch().values["slide"][0][0, 0] == 0


def test_number_formats_that_numpy_lacks_are_read_not_mapped(tmp_path):
    """A 16-bit type with the exponent of float32, which h5py gives as a larger dtype."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_precision(16)
    kind.set_ebias(127)
    values = np.array([[1.0, 2.5], [-3.0, 0.5]], dtype=np.float32)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        h5py.h5d.create(file.id, b"features", kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    assert not is_mapped(tmp_path / "p.h5")
    assert read(tmp_path / "p.h5").tolist() == values.tolist()


def test_only_chunks_with_chosen_patches_are_read(tmp_path, features):
    path = tmp_path / "p.h5"
    h5(chunks=(10, WIDTH), compression="gzip")(path, features)
    with h5py.File(path) as file:
        place = file["features"].id.get_chunk_info_by_coord((200, 0))
    with path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    index = np.array([3, 4, 199, 210, 499])
    blocks = list(read_chunks(path, index, 20))
    np.testing.assert_array_equal(np.concatenate([numbers for numbers, _ in blocks]), index)
    assert torch.equal(torch.cat([values for _, values in blocks]), features[index])
    with pytest.raises(DataError, match="p.h5: cannot be read as h5"):
        list(read_chunks(path, np.array([3, 200]), 20))
    with pytest.raises(DataError, match="p.h5: cannot be read as h5"):
        open_arrays(path)


@pytest.mark.parametrize(("name", "whole", "part"), [("d.h5", 1, 1), ("gzip.h5", 1, 2)])
def test_an_h5_file_is_not_opened_over_and_over(tmp_path, features, monkeypatch, name, whole, part):
    FILES[name](tmp_path / name, features)
    prepared = prepare({"p": tmp_path / name})
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *given, **options: opened.append(given) or original(*given, **options))
    for most, times in ((0, whole), (30, part)):
        opened.clear()
        prepared.batch(max_patches=most).values["slide"][0]
        assert len(opened) == times


def test_an_unchanged_file_is_looked_through_once(tmp_path, features, monkeypatch):
    np.save(tmp_path / "p.npy", features.numpy())
    prepared = prepare({"p": tmp_path / "p.npy"})
    looks = []
    original = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda values: looks.append(len(values)) or original(values))
    for _ in range(3):
        prepared.batch().values["slide"][0]
    assert sum(looks) == PATCHES and max(looks) == 20
    features[300, 2] = torch.inf
    np.save(tmp_path / "again.npy", features.numpy())
    (tmp_path / "again.npy").replace(tmp_path / "p.npy")
    with pytest.raises(DataError, match=r"'slide', row 'p'.*infinite value at index \[300, 2\]"):
        prepared.batch().values["slide"][0]


# ---- missing and infinite values


def with_gaps(features: torch.Tensor, share: float) -> list[int]:
    """Puts a NaN into some entry of a share of the patches; the numbers of the others."""
    gaps = torch.randperm(len(features))[: round(share * len(features))]
    features[gaps, torch.randint(0, WIDTH, gaps.shape)] = torch.nan
    return sorted(set(range(len(features))) - set(gaps.tolist()))


@pytest.mark.parametrize("name", ["a.npy", "gzip.h5", None])
def test_patches_with_a_missing_entry_are_dropped(tmp_path, features, name):
    kept = with_gaps(features, 0.4)
    if name:
        FILES[name](tmp_path / name, features)
    prepared = prepare({"p": tmp_path / name if name else features})
    # As many as there are whole ones, or more: all of them.
    for most in (0, len(kept), len(kept) + 1, PATCHES - 1, PATCHES):
        got = prepared.batch(max_patches=most).values["slide"][0]
        assert got.dtype == torch.float16 and torch.equal(got, features[kept])
        assert prepared.dropped_patches().tolist() == [PATCHES - len(kept)]
        assert not prepared.subsampled(most).any()


@pytest.mark.parametrize("name", ["a.npy", "gzip.h5", None])
@pytest.mark.parametrize(("most", "share"), [(1, 0.9), (3, 0.5), (40, 0.9), (150, 0.6), (400, 0.01)])
def test_a_subsample_walks_on_past_missing_entries(tmp_path, features, name, most, share):
    kept = set(with_gaps(features, share))
    if name:
        FILES[name](tmp_path / name, features)

    def whole_of(count: int) -> list[int]:
        """Those without a gap of the first ``count`` that are drawn."""
        bag = torch.arange(PATCHES, dtype=torch.float32)[:, None]
        return sorted(kept.intersection(chosen(read(bag, max_patches=count, seed=3))))

    count = next(count for count in range(most, PATCHES) if len(whole_of(count)) == most)
    prepared = prepare({"p": tmp_path / name if name else features})
    got = prepared.batch(max_patches=most, seed=3).values["slide"][0]
    assert got.dtype == torch.float16 and torch.equal(got, features[whole_of(count)])
    assert prepared.dropped_patches().tolist() == [count - most]
    assert prepared.subsampled(most).all()


def test_a_subsample_reads_no_more_than_it_takes(monkeypatch):
    features = torch.zeros(40 * PATCHES, WIDTH)
    features[::2, 0] = torch.nan
    prepared = prepare({"p": features})
    read = []
    original = bag_reader.missing_rows
    monkeypatch.setattr(bag_reader, "missing_rows", lambda *block: read.extend(block[1]) or original(*block))
    assert len(prepared.batch(max_patches=100).values["slide"][0]) == 100
    assert 150 < len(set(read)) < 350


def test_a_bag_of_missing_entries_alone_is_refused():
    for most in (0, 7):
        with pytest.raises(DataError, match="'slide', row 'p': all 30 instances hold missing entries"):
            read(torch.full((30, WIDTH), torch.nan), max_patches=most)


@pytest.mark.parametrize("name", ["a.npy", "patch_chunks.h5", "gzip.h5"])
@pytest.mark.parametrize("options", [{}, {"max_patches": 499}])
def test_an_infinite_value_is_named_by_its_place_in_the_file(tmp_path, features, name, options):
    features[10, 1] = torch.nan
    features[401, 4] = -torch.inf
    FILES[name](tmp_path / name, features)
    with pytest.raises(DataError, match=rf"'slide', row 'p' \(.*{name}\): infinite value at index \[401, 4\]"):
        read(tmp_path / name, **options)


def test_a_value_beyond_float32_is_infinite(tmp_path):
    np.save(tmp_path / "p.npy", np.array([[1.0, 2.0], [3.0, 1e300]]))
    with pytest.raises(DataError, match=r"infinite value at index \[1, 1\]"):
        read(tmp_path / "p.npy")


# ---- transform and order


@pytest.mark.parametrize("name", ["a.npy", "gzip.h5"])
def test_the_signed_log_is_float32(tmp_path, features, name):
    features[17, 0] = torch.nan
    FILES[name](tmp_path / name, features)
    got = read(tmp_path / name, settings={"transform": "signed_log"})
    expected = features[torch.arange(PATCHES) != 17].double()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected.sign() * expected.abs().log1p(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stored", [True, False])
def test_patches_in_the_order_of_their_coords(tmp_path, features, stored):
    features[40, 3] = torch.nan
    coords = torch.randint(0, 20, (PATCHES, 2))
    bag = {"features": features, "coords": coords}
    if stored:
        save_file(bag, tmp_path / "p.safetensors")
        bag = tmp_path / "p.safetensors"
    order = sorted(range(PATCHES), key=lambda patch: (coords[patch, 1].item(), coords[patch, 0].item(), patch))
    order.remove(40)
    assert torch.equal(read(bag, settings={"order": "coords"}), features[order])
    some = {row.numpy().tobytes() for row in read(bag, max_patches=80)}
    expected = [patch for patch in order if features[patch].numpy().tobytes() in some]
    assert torch.equal(read(bag, settings={"order": "coords"}, max_patches=80), features[expected])


def test_an_order_by_coords_needs_coords(features):
    with pytest.raises(DataError, match="'slide', row 'p'.*order of coords.*no coords"):
        read(features, settings={"order": "coords"})


def test_the_order_is_part_of_the_stored_state():
    bags = {"p": {"features": np.eye(3, dtype=np.float32), "coords": np.array([[0, 2], [5, 0], [4, 0]])}}
    cohort = Cohort.from_frames({"slide": bags, "blood": pd.DataFrame({"v": [1.0]}, index=["p"])}, None)
    for settings in ({"order": "coords"}, {"modalities": {"slide": {"order": "coords"}}}):
        preprocessor = Preprocessor.fit(cohort, settings)
        again = Preprocessor.from_state(json.loads(json.dumps(preprocessor.state())))
        assert again.state() == preprocessor.state()
        assert again.transform(cohort).batch().values["slide"][0].argmax(1).tolist() == [2, 1, 0]
    exception = {"order": "coords", "modalities": {"slide": {"order": "file"}}}
    assert Preprocessor.fit(cohort, exception).orders == {"slide": "file"}

    old = Preprocessor.fit(cohort).state()
    del old["orders"], old["settings"]["order"]
    assert Preprocessor.from_state(old).transform(cohort).batch().values["slide"][0].argmax(1).tolist() == [0, 1, 2]


# ---- subsamples


def numbered(rows: int = 2) -> dict[str, np.ndarray]:
    return {f"p{row}": np.arange(PATCHES, dtype=np.float32)[:, None] for row in range(rows)}


def chosen(bag: torch.Tensor) -> list[int]:
    return bag[:, 0].long().tolist()


def test_a_subsample_keeps_order_and_follows_seed_row_and_modality():
    bags = numbered()
    cohort = Cohort.from_frames({"slide": bags, "stain": bags}, None)
    prepared = Preprocessor.fit(cohort).transform(cohort)
    batch = prepared.batch([1, 0], max_patches=100, seed=5)
    first = chosen(batch.values["slide"][1])
    assert len(set(first)) == 100 and first == sorted(first)
    assert chosen(batch.values["slide"][1]) == first
    assert chosen(prepared.batch([0], max_patches=100, seed=5).values["slide"][0]) == first
    alone = prepare({"p0": bags["p0"]})
    assert chosen(alone.batch(max_patches=100, seed=5).values["slide"][0]) == first
    others = [
        batch.values["slide"][0],
        batch.values["stain"][1],
        prepared.batch([0], max_patches=100, seed=6).values["slide"][0],
    ]
    for other in map(chosen, others):
        assert 5 < len(set(other) & set(first)) < 45


def test_a_subsample_takes_every_patch_as_often():
    prepared = prepare(numbered(1))
    counts = np.zeros(PATCHES)
    for seed in range(400):
        counts[chosen(prepared.batch(max_patches=50, seed=seed).values["slide"][0])] += 1
    assert counts.sum() == 400 * 50
    # Binomial(400, 0.1): mean 40, standard deviation 6.
    assert 10 < counts.min() and counts.max() < 75 and abs(counts[: PATCHES // 2].mean() - 40) < 1.5


def test_equal_draws_are_settled_by_the_order_of_the_file(monkeypatch):
    monkeypatch.setattr(bag_reader, "row_uniform", lambda seed, keys, count: torch.tensor([[0.5, 0.1, 0.5, 0.5, 0.2]]))
    values = torch.arange(5.0)[:, None]
    assert chosen(read(values, max_patches=3)) == [0, 1, 4]


def test_a_bag_that_is_small_enough_is_whole():
    prepared = prepare(numbered(1))
    for most in (0, PATCHES, 10**9):
        assert len(prepared.batch(max_patches=most, seed=1).values["slide"][0]) == PATCHES
