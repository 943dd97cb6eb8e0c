"""What the generic tests of kernels do not reach in those of deephit_loss: rows in many tiles, programs that take
several, sums merged in a pass of their own, double precision, strides."""

from __future__ import annotations

import pytest
import torch

from survcore.kernels import _launch
from survcore.kernels import deephit_loss as kernels
from survcore.reference import deephit_loss as reference
from survcore.testing import assert_close_to_oracle, convert
from survcore.testing.deephit_loss import CASE, deephit_arguments
from survcore.testing.op_case import Arguments

# Entries of a tile, parts merged by each program, entries for which that is done, parts at most.
MANY_TILES = {
    "direct": {"TILE": 4},
    "direct_in_steps": {"TILE": 4, "DIRECT_PARTS": 2},
    "merged": {"TILE": 4, "DIRECT_ENTRIES": 0, "MOST_PARTS": 128},
    "merged_in_steps": {"TILE": 4, "DIRECT_ENTRIES": 0, "MOST_PARTS": 2},
}
SAMPLES = ("weighted", "two_causes", "steeper")


@pytest.fixture
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MANY_TILES[request.param].items():
        monkeypatch.setattr(kernels, name, value)


def _check(arguments: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = arguments[0].dtype
    computed = torch.promote_types(dtype, torch.float32)
    found = kernels.deephit_loss(*arguments)
    oracle = reference.deephit_loss_over_pairs(*convert(arguments, torch.float64))
    plain = reference.deephit_loss_over_pairs(*convert(arguments, computed))
    for what, value, expected, same_dtype in zip(("loss", "gradient"), found, oracle, plain, strict=True):
        assert value.dtype == computed
        assert_close_to_oracle(value, expected, same_dtype, computed, what)
    return found


@pytest.mark.parametrize("tiles", ["direct", "merged_in_steps"], indirect=True)
@pytest.mark.parametrize("name", CASE.extremes(torch.float32))
def test_extremes_in_many_tiles(name: str, tiles: None) -> None:
    """One row in each tile: what a row brings in meets the others in the merged sums."""
    _check(CASE.extremes(torch.float32)[name])


@pytest.mark.parametrize("tiles", MANY_TILES, indirect=True)
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_in_many_tiles(name: str, tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", 256)
    _check(CASE.samples(torch.float32)[name])


@pytest.mark.parametrize("name", CASE.extremes(torch.float64))
def test_extremes_in_double_precision(name: str) -> None:
    _check(CASE.extremes(torch.float64)[name])


@pytest.mark.parametrize("tiles", ["direct", "merged_in_steps"], indirect=True)
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_in_double_precision(name: str, tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", 512)
    _check(CASE.samples(torch.float64)[name])


# With 32 columns a tile that is alone has 128 rows, others have 32.
@pytest.mark.parametrize(("rows", "launches"), [(127, 1), (128, 1), (129, 2), (160, 2), (2048, 2), (2049, 3)])
def test_rows_around_tiles(rows: int, launches: int) -> None:
    arguments = deephit_arguments(torch.float32, rows, 20, weighted=True)
    with _launch.recorded() as recorded:
        kernels.deephit_loss(*arguments)
    assert len(recorded) == launches
    if rows < 2048:
        _check(arguments)


@pytest.mark.parametrize(("bins", "causes"), [(9, 0), (10, 2), (12, 3), (16, 0)])
def test_alignments_of_rows(bins: int, causes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", 256)
    _check(deephit_arguments(torch.float32, 40, bins, causes))


@pytest.mark.parametrize("tile", [128, kernels.TILE])
def test_strided_inputs(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", tile)
    logits, time_bin, event, weights, *options = deephit_arguments(torch.float32, 80, 6, 2, weighted=True)
    strided = logits.flip(0).permute(2, 0, 1).contiguous().permute(1, 2, 0)[::2]
    assert not strided.is_contiguous()
    arguments = (strided, time_bin[::2], event[::2], weights[1::2], *options)
    found = _check(arguments)
    packed = kernels.deephit_loss(*(value.contiguous() for value in arguments[:4]), *options)
    assert all(torch.equal(one, other) for one, other in zip(found, packed, strict=True))
    assert found[1].is_contiguous()
    _check((logits, time_bin, event, weights[:1].expand(80), *options))


@pytest.mark.parametrize("tile", [128, kernels.TILE])
def test_loss_alone(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", tile)
    *arguments, _ = deephit_arguments(torch.float32, 70, 5, 2)
    loss, _ = kernels.deephit_loss(*arguments, True)
    without, none = kernels.deephit_loss(*arguments, False)
    assert torch.equal(loss, without)
    assert none.shape == (0, 2, 5) and none.dtype == torch.float32


def test_half_precision_logits_with_weights_of_another_type() -> None:
    logits, time_bin, event, weights, *options = deephit_arguments(torch.float16, 40, 5, weighted=True)
    weights = weights.float() + 1e-4  # which half precision cannot hold
    arguments = (logits, time_bin, event, weights, *options)
    loss, gradient = kernels.deephit_loss(*arguments)
    oracle = reference.deephit_loss_over_pairs(*convert(arguments, torch.float64))
    torch.testing.assert_close((loss.double(), gradient.double()), oracle, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64])
def test_types_of_events(dtype: torch.dtype) -> None:
    logits, time_bin, event, *rest = deephit_arguments(torch.float32, 30, 4, 2)
    plain = kernels.deephit_loss(logits, time_bin, event, *rest)
    found = kernels.deephit_loss(logits, time_bin, event.to(dtype), *rest)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


def test_event_codes_beyond_32_bits_are_invalid() -> None:
    logits, time_bin, event, *rest = deephit_arguments(torch.float32, 5, 4)
    event[2] = 2**32 + 1
    loss, gradient = _check((logits, time_bin, event, *rest))
    assert loss.isnan() and gradient[2].isnan().all()


@pytest.mark.parametrize("tile", [4, kernels.TILE])
@pytest.mark.parametrize("sigma", [0.1, 0.01, 0.001, 1e-5])
def test_sharp_rankings_stay_in_range(sigma: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event precedes rows of less F: exponentials of 1 / sigma alone would be 0 or infinite."""
    monkeypatch.setattr(kernels, "TILE", tile)
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [-3.0, 0.0, 3.0], [-3.0, -3.0, 5.0]], dtype=torch.float64)
    time_bin, event = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 1])
    arguments = (logits, time_bin, event, torch.empty(0), 0.5, sigma, True)
    loss, gradient = _check(arguments)
    assert loss.isfinite() and gradient.isfinite().all()


def test_too_many_columns_are_left_to_the_reference() -> None:
    assert kernels.deephit_loss(*deephit_arguments(torch.float32, 2, 2049, 2)) is NotImplemented
    assert kernels.deephit_loss(*deephit_arguments(torch.float32, 2, 1025, 3)) is NotImplemented


def test_as_many_columns_as_a_tile_has() -> None:
    _check(deephit_arguments(torch.float32, 1, 2048, 2))


@pytest.mark.parametrize("shape", [(0, 4), (0, 2, 4)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    none = torch.empty(0, dtype=torch.int64)
    loss, gradient = kernels.deephit_loss(torch.empty(shape).half(), none, none, torch.empty(0), 0.2, 0.1, True)
    assert loss.item() == 0.0 and loss.dtype == torch.float32 and gradient.shape == shape
