"""Nystrom attention over a bag on a GPU without gradients: its own kernels against the CPU, and what they promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from survcore.nn import Attention, BagCrossAttentionPooling, ClassTokenAttention, TransMIL
from survcore.nn.nystrom import NystromLayer
from survcore.nn.patches import Patches, lay_out
from survcore.ops import _nystrom

pytest.importorskip("triton", reason="triton is not installed")

WIDTH, HEADS, LANDMARKS = 256, 8, 128
# How the layer is run: type of its weights and tokens, type of autocast.
WAYS = {
    "float32": (torch.float32, None),
    "autocast": (torch.float32, torch.bfloat16),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernels were called for: that they serve is part of each test."""
    made: list[str] = []
    for name in ("landmark_means", "attend_to_bag", "mix_landmarks"):
        original = getattr(_nystrom.FusedKernels, name)

        def seen(self, *arguments, original=original, name=name):
            made.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(_nystrom.FusedKernels, name, seen)
    return made


def layer_of(dtype: torch.dtype = torch.float32, width: int = WIDTH, heads: int = HEADS, landmarks: int = LANDMARKS):
    torch.manual_seed(0)
    layer = NystromLayer(width, heads, landmarks).eval()
    layer.norm.weight.uniform_(0.5, 1.5)
    layer.norm.bias.normal_(0, 0.3)
    return layer.cuda().to(dtype)


def rows_of(count: int, dtype: torch.dtype = torch.float32, width: int = WIDTH) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(count)
    return (torch.randn(count, width, device="cuda", generator=generator) * 1.3 + 0.5).to(dtype)


def run(layer: NystromLayer, pieces: list[Tensor], autocast: torch.dtype | None = None, **options) -> Tensor:
    with torch.autocast("cuda", autocast, enabled=autocast is not None):
        return torch.cat(layer([piece.clone() for piece in pieces], **options))


def exact(layer: NystromLayer, rows: Tensor) -> Tensor:
    """In float64, on the CPU, from the weights and rows as they are."""
    copy = NystromLayer(rows.shape[1], layer.heads, layer.landmarks).eval()
    copy.load_state_dict(layer.state_dict())
    return copy.double()([rows.cpu().double()])[0]


def plain(layer: NystromLayer, pieces: list[Tensor], autocast: torch.dtype | None, **options) -> Tensor:
    """By plain operations on the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nystrom, "fused_kernels", lambda *_: None)
        return run(layer, pieces, autocast, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [129, 256, 257, 3_000, 10_001])
def test_errs_no_more_than_plain_operations(count: int, way: str, calls: list[str]) -> None:
    dtype, autocast = WAYS[way]
    layer, rows = layer_of(dtype), rows_of(count, dtype)
    found = run(layer, [rows], autocast)
    assert calls == ["landmark_means", "attend_to_bag", "mix_landmarks"]
    other = plain(layer, [rows], autocast)
    assert found.dtype == other.dtype
    wanted = exact(layer, rows)
    floor = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[autocast or dtype]
    error, allowed = ((value.cpu().double() - wanted).abs().max() for value in (found, other))
    assert error <= 2 * allowed + floor * wanted.abs().max(), f"{error:.3g}, plain operations {allowed:.3g}"


@pytest.mark.parametrize(("width", "heads", "landmarks"), [(32, 2, 16), (64, 4, 200), (192, 6, 96), (256, 4, 128)])
@pytest.mark.parametrize("way", WAYS)
def test_other_sizes(way: str, width: int, heads: int, landmarks: int, calls: list[str]) -> None:
    dtype, autocast = WAYS[way]
    layer, rows = layer_of(dtype, width, heads, landmarks), rows_of(1_000, dtype, width)
    found, wanted = run(layer, [rows], autocast), exact(layer, rows)
    assert bool(calls) == (way != "float32" or width // heads < 64)
    tolerance = 1e-4 if (autocast or dtype) == torch.float32 else 4e-2
    assert (found.cpu().double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_pieces_and_the_first_alone(calls: list[str]) -> None:
    layer, rows = layer_of(), rows_of(5_000)
    whole = run(layer, [rows])
    assert torch.equal(run(layer, list(rows.split([1, 700, 4_299]))), whole)
    first = run(layer, list(rows.split([1, 700, 4_299])), first_only=True)
    assert first.shape == (1, WIDTH)
    torch.testing.assert_close(first, whole[:1], rtol=1e-5, atol=1e-5)
    assert len(calls) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ragged_bags_are_layers_of_their_own(dtype: torch.dtype) -> None:
    layer, counts = layer_of(dtype), [1_000, 0, 129, 3_333]
    rows, offsets = rows_of(sum(counts), dtype), torch.tensor([0, *counts], device="cuda").cumsum(0)
    kernels = _nystrom.fused_kernels([rows], layer.query.weight, HEADS, LANDMARKS)
    norm = (layer.norm.weight, layer.norm.bias)
    means, statistics = kernels.landmark_means(rows, offsets, *norm, layer.norm.eps, LANDMARKS)
    means = means.to(dtype)
    query = torch.stack([layer._query(mean) for mean in means])
    key = torch.stack([layer._key_value(mean)[0] for mean in means])
    normed, values = (statistics, *norm), kernels.new_values(rows)
    total, weight = kernels.attend_to_bag(
        query, rows, offsets, max(counts), *normed, layer.key_value.weight, None, LANDMARKS, values
    )
    assert (weight[1] == -torch.inf).all() and not total[1].any()
    total = total.to(dtype)
    value = torch.stack([layer._solved(*parts) for parts in zip(query, key, total, strict=True)])
    weights = (layer.query.weight, layer.residual.weight.squeeze(1), key, value)
    weights += (layer.output.weight, layer.output.bias)
    new = kernels.mix_landmarks(rows, values, offsets, max(counts), *normed, *weights, None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for bag, found in zip(rows.split(counts), new.split(counts), strict=True):
        if len(bag):
            alone = run(layer, [bag])
            assert (found - alone).abs().max() <= tolerance * alone.abs().max()


@pytest.mark.parametrize("queries", [1, 6, 200])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_ask_a_bag(way: str, queries: int, calls: list[str]) -> None:
    dtype, autocast = WAYS[way]
    torch.manual_seed(0)
    block = BagCrossAttentionPooling(Attention(WIDTH, HEADS), ClassTokenAttention(WIDTH, HEADS, 1)).eval()
    block = block.cuda().to(dtype)
    tokens, context = rows_of(queries, dtype)[None], rows_of(9_000, dtype)

    def outputs() -> Tensor:
        with torch.autocast("cuda", autocast, enabled=autocast is not None):
            return block(tokens, lay_out(len(context), context.device, lambda start, stop: context[start:stop]))

    found = outputs()
    assert calls == ["attend_to_bag"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nystrom, "fused_kernels", lambda *_: None)
        wanted = outputs()
    assert found.dtype == wanted.dtype
    tolerance = 1e-4 if (autocast or dtype) == torch.float32 else 4e-2
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("way", ["float32", "autocast"])
def test_ten_runs_give_the_same_bits(way: str, busy_stream) -> None:
    dtype, autocast = WAYS[way]
    layer, rows = layer_of(dtype), rows_of(7_001, dtype)
    first = run(layer, [rows], autocast)
    for number in range(9):
        junk = [torch.full_like(first, number + 0.5) for _ in range(3)]
        del junk
        assert torch.equal(run(layer, [rows], autocast), first), f"run {number + 2}"


@pytest.mark.parametrize("way", ["float32", "autocast"])
def test_replays_equal_calls(way: str) -> None:
    dtype, autocast = WAYS[way]
    layer, held, others = layer_of(dtype), rows_of(3_001, dtype), rows_of(3_001, dtype).flip(0)
    expected = [run(layer, [rows], autocast) for rows in (held, others)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(layer, [held], autocast)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(layer, [held], autocast)
    graph.replay()
    assert torch.equal(result, expected[0])
    held.copy_(others)
    graph.replay()
    assert torch.equal(result, expected[1])


def test_does_not_wait_for_the_gpu() -> None:
    layer, rows = layer_of(), rows_of(3_000)
    run(layer, [rows])
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(layer, [rows])
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("way", ["float32", "autocast"])
def test_a_bag_of_200_000_patches(way: str, calls: list[str]) -> None:
    """The whole of TransMIL, whose second layer finds its tokens in one buffer, in little more memory than tokens."""
    dtype, autocast = WAYS[way]
    torch.manual_seed(0)
    block = TransMIL(WIDTH, HEADS, LANDMARKS).eval().cuda().to(dtype)
    rows = rows_of(448**2, dtype)

    def patches() -> Patches:
        return lay_out(len(rows), rows.device, lambda start, stop: rows[start:stop])

    def outputs() -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", autocast, enabled=autocast is not None):
            token, updated = block(patches())
            return token, updated.tokens()

    found = outputs()
    assert len(calls) == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nystrom, "fused_kernels", lambda *_: None)
        wanted = outputs()
    tolerance = 1e-3 if autocast is None else 5e-2
    for one, other in zip(found, wanted, strict=True):
        assert (one.float() - other.float()).abs().max() <= tolerance * other.float().abs().max()
    del found, wanted, one, other
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(layer_of(), [rows])
    assert torch.cuda.max_memory_allocated() - before < 6 * rows.nbytes


def test_more_than_2_to_the_31_numbers() -> None:
    """The last rows of a list of bags that begins far away are those of a small one."""
    count, tail = 2**23 + 70_000, 3_000
    if torch.cuda.mem_get_info()[0] < 5 * count * WIDTH * 2:
        pytest.skip("needs 22 GB of free GPU memory")
    layer = layer_of(torch.bfloat16)
    rows = torch.zeros(count, WIDTH, device="cuda", dtype=torch.bfloat16)
    rows[-tail:] = rows_of(tail, torch.bfloat16)
    offsets = torch.tensor([0, count - tail, count], device="cuda")
    kernels = _nystrom.fused_kernels([rows], layer.query.weight, HEADS, LANDMARKS)
    norm = (layer.norm.weight, layer.norm.bias)
    means, statistics = kernels.landmark_means(rows, offsets, *norm, layer.norm.eps, LANDMARKS)
    alone, of_tail = kernels.landmark_means(
        rows[-tail:], offsets[1:] - (count - tail), *norm, layer.norm.eps, LANDMARKS
    )
    torch.testing.assert_close(means[1], alone[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(statistics[-tail:], of_tail)
    query = key = torch.randn(2, HEADS, LANDMARKS, WIDTH // HEADS, device="cuda")
    values, normed = kernels.new_values(rows), (statistics, *norm)
    found, _ = kernels.attend_to_bag(
        query, rows, offsets, count, *normed, layer.key_value.weight, None, LANDMARKS, values
    )
    weights = (layer.query.weight, layer.residual.weight.squeeze(1), key, found)
    weights += (layer.output.weight, layer.output.bias)
    new = kernels.mix_landmarks(rows, values, offsets, count, *normed, *weights, None)[-tail:]
    few, ends = rows[-tail:], torch.tensor([0, tail], device="cuda")
    normed, values = (of_tail, *norm), kernels.new_values(few)
    other, _ = kernels.attend_to_bag(
        query[1:], few, ends, tail, *normed, layer.key_value.weight, None, LANDMARKS, values
    )
    torch.testing.assert_close(found[1:], other, rtol=1e-2, atol=1e-2)
    weights = (*weights[:2], key[1:], found[1:], *weights[4:])
    torch.testing.assert_close(
        new, kernels.mix_landmarks(few, values, ends, tail, *normed, *weights, None), rtol=1e-2, atol=1e-2
    )
