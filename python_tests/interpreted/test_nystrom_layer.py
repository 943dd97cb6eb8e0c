"""The kernels of Nystrom attention, each one and in their modules, against plain definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from survcore.kernels import nystrom_layer as kernels
from survcore.nn import Attention, BagCrossAttentionPooling, ClassTokenAttention, TransMIL
from survcore.nn.nystrom import NystromLayer
from survcore.nn.patches import lay_out
from survcore.ops import _nystrom
from survcore.reference.trans_mil import _layer
from survcore.testing import assert_close_to_oracle

WIDTH, HEADS, LANDMARKS = 32, 2, 8
EPS = 1e-5


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bags_of(*counts: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows of bags one after the other, and where each begins."""
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return (numbers(sum(counts), WIDTH) * 1.5 + 0.7).to(dtype), offsets


def each(rows: Tensor, offsets: Tensor) -> list[Tensor]:
    return [rows[first:last] for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def check(found: Tensor, make, arguments: tuple, floor: torch.dtype, what: str) -> None:
    """Against ``make`` in float64; it may err twice as much as plain operations in the type of the products."""
    exact, plain = (
        make(*(value.to(dtype) if isinstance(value, Tensor) else value for value in arguments))
        for dtype in (torch.float64, floor)
    )
    assert_close_to_oracle(found, exact, plain, floor, what)


def norm_of_rows(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(rows, (rows.shape[1],), weight, bias, EPS)


def means_of_bag(rows: Tensor, weight: Tensor, bias: Tensor, landmarks: int) -> Tensor:
    if not len(rows):
        return rows.new_zeros(landmarks, rows.shape[1])
    padded = functional.pad(norm_of_rows(rows, weight, bias), (0, 0, -len(rows) % landmarks, 0))
    return padded.unflatten(0, (landmarks, -1)).mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("counts", "landmarks"), [((9, 0, 24), LANDMARKS), ((23, 1, 8), LANDMARKS), ((150,), 2), ((33,), 3)]
)
def test_landmark_means(counts: tuple[int, ...], landmarks: int, dtype: torch.dtype) -> None:
    rows, offsets = bags_of(*counts, dtype=dtype)
    norm = (numbers(WIDTH, seed=1, dtype=dtype), numbers(WIDTH, seed=2, dtype=dtype))
    means, statistics = kernels.landmark_means(rows, offsets, *norm, EPS, landmarks)
    for number, (found, bag) in enumerate(zip(means, each(rows, offsets), strict=True)):
        check(found, means_of_bag, (bag, *norm, landmarks), torch.float32, f"bag {number}")
    exact = rows.double()
    inverse = (exact.var(1, correction=0) + EPS).rsqrt()
    torch.testing.assert_close(statistics.double(), torch.stack((exact.mean(1), inverse), 1), rtol=1e-5, atol=1e-5)


def attended_bag(query: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, zeros: int) -> tuple[Tensor, Tensor]:
    """Values [H, Q, d] and the log of summed weights [H, Q]."""
    both = functional.linear(rows, weight, bias).unflatten(1, (2, query.shape[0], -1)).permute(1, 2, 0, 3)
    key, value = functional.pad(both, (0, 0, zeros, 0))
    scores = query @ key.mT
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


@pytest.mark.parametrize(
    ("queries", "dtype"), [(1, torch.float32), (6, torch.float32), (6, torch.float16), (130, torch.float32)]
)
def test_queries_ask_bags(queries: int, dtype: torch.dtype) -> None:
    """With biases and without a norm; a bag's rows are shared out over several programs."""
    rows, offsets = bags_of(*((70,) if queries > 64 else (150, 0, 1, 64)), dtype=dtype)
    bags = len(offsets) - 1
    query = numbers(bags, HEADS, queries, WIDTH // HEADS, seed=3, dtype=dtype) * 0.5
    weight, bias = numbers(2 * WIDTH, WIDTH, seed=4, dtype=dtype) * 0.2, numbers(2 * WIDTH, seed=5, dtype=dtype)
    values, log_weight = kernels.attend_to_bag(query, rows, offsets, 150, None, None, None, weight, bias, dtype)
    assert values.dtype == log_weight.dtype == torch.float32
    for number, bag in enumerate(each(rows, offsets)):
        if not len(bag):
            assert (values[number] == 0).all() and (log_weight[number] == -math.inf).all()
            continue
        for position, found in enumerate((values[number], log_weight[number])):
            arguments = (query[number], bag, weight, bias, 0, position)
            check(found, lambda *given: attended_bag(*given[:-1])[given[-1]], arguments, dtype, f"bag {number}")


@pytest.mark.parametrize("count", [9, 16, 100])
def test_zero_rows_in_front_are_keys(count: int) -> None:
    rows, offsets = bags_of(count)
    norm = (numbers(WIDTH, seed=1), numbers(WIDTH, seed=2))
    weight = numbers(2 * WIDTH, WIDTH, seed=4) * 0.2
    query = numbers(1, HEADS, LANDMARKS, WIDTH // HEADS, seed=3)
    _, statistics = kernels.landmark_means(rows, offsets, *norm, EPS, LANDMARKS)
    made = torch.full((count, WIDTH), torch.nan)
    values, _ = kernels.attend_to_bag(
        query, rows, offsets, count, statistics, *norm, weight, None, torch.float32, LANDMARKS, made
    )

    def plain(query: Tensor, rows: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor) -> Tensor:
        return attended_bag(query, norm_of_rows(rows, norm_weight, norm_bias), weight, None, -count % LANDMARKS)[0]

    check(values[0], plain, (query[0], rows, *norm, weight), torch.float32, "values")
    torch.testing.assert_close(made, norm_of_rows(rows, *norm) @ weight[WIDTH:].T, rtol=1e-5, atol=1e-5)


def test_infinite_and_missing_numbers() -> None:
    """What is infinite gives what softmax gives; rows of other bags stay unread."""
    rows, offsets = bags_of(70, 20)
    weight = numbers(2 * WIDTH, WIDTH, seed=4) * 0.2
    query = numbers(2, HEADS, 3, WIDTH // HEADS, seed=3)
    plain = kernels.attend_to_bag(query, rows, offsets, 70, None, None, None, weight, None, torch.float32)
    rows[66] = torch.nan
    found = kernels.attend_to_bag(query, rows, offsets, 70, None, None, None, weight, None, torch.float32)
    assert all(value[0].isnan().all() for value in found)
    assert all(torch.equal(value[1], other[1]) for value, other in zip(found, plain, strict=True))


def weights_of(layer: NystromLayer, dtype: torch.dtype) -> dict[str, Tensor]:
    return {f"layer.{name}": value.detach().to(dtype) for name, value in layer.named_parameters()}


def expected(layer: NystromLayer, rows: Tensor, dtype: torch.dtype) -> Tensor:
    weights = weights_of(layer, dtype)
    return _layer(rows.to(dtype), weights, "layer", layer.heads, layer.landmarks)


def layer_of(
    dtype: torch.dtype = torch.float32, *, width: int = WIDTH, heads: int = HEADS, landmarks: int = LANDMARKS
) -> NystromLayer:
    torch.manual_seed(0)
    layer = NystromLayer(width, heads, landmarks).eval()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.normal_(0, 0.3)
        layer.query.weight.mul_(3)
    return layer.to(dtype)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Tensors on the CPU are taken for such on a device; the shapes that the kernels got."""
    asked: list[tuple[int, ...]] = []
    attend = kernels.attend_to_bag

    def seen(query: Tensor, *arguments):
        asked.append(tuple(query.shape))
        return attend(query, *arguments)

    monkeypatch.setattr(_nystrom, "_on_device", lambda value: True)
    monkeypatch.setattr(kernels, "attend_to_bag", seen)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("count", [9, 80])
@torch.no_grad()
def test_layer(count: int, dtype: torch.dtype, fused: list) -> None:
    layer = layer_of(dtype=dtype)
    rows, _ = bags_of(count, dtype=dtype)
    exact, plain = (expected(layer, rows, kind) for kind in (torch.float64, dtype))
    (whole,) = layer([rows.clone()])
    assert fused == [(1, HEADS, LANDMARKS, WIDTH // HEADS)]
    assert whole.dtype == dtype
    assert_close_to_oracle(whole, exact, plain, dtype, "layer")
    sizes = [1, 6, count - 7]
    pieces = list(rows.clone().split(sizes))
    found = layer(pieces)
    assert [len(piece) for piece in found] == sizes and torch.equal(torch.cat(found), whole)
    first = layer([pieces[0], *(piece.clone() for piece in pieces[1:])], first_only=True)
    assert len(first) == 1
    torch.testing.assert_close(first[0], whole[:1])
    assert torch.equal(torch.cat(pieces), rows)


@torch.no_grad()
def test_layer_of_other_sizes(fused: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strided rows of a width that is no power of two; landmarks of several blocks; tiles that are not held."""
    rows = numbers(90, 2 * 48)[:, ::2]
    layer = layer_of(landmarks=35, width=48, heads=3)
    exact, plain = (expected(layer, rows, kind) for kind in (torch.float64, torch.float32))
    assert_close_to_oracle(layer([rows])[0], exact, plain, torch.float32, "float32")
    monkeypatch.setattr(kernels, "MOST_HELD", 16)
    layer, rows = layer_of(torch.float16, width=48, heads=3), rows[:50].half()
    exact, plain = (expected(layer, rows, kind) for kind in (torch.float64, torch.float16))
    assert_close_to_oracle(layer([rows])[0], exact, plain, torch.float16, "float16")
    assert len(fused) == 2


@torch.no_grad()
def test_layer_of_wide_heads(fused: list) -> None:
    rows, layer = numbers(66, 64).half(), layer_of(torch.float16, width=64, heads=1, landmarks=33)
    exact, plain = (expected(layer, rows, kind) for kind in (torch.float64, torch.float16))
    assert_close_to_oracle(layer([rows])[0], exact, plain, torch.float16, "layer")
    layer.float()([rows.float()])
    assert len(fused) == 1


@torch.no_grad()
def test_ragged_bags_are_layers_of_their_own(kept: int = 20) -> None:
    """Three bags of unequal size, products in float16 of float32 rows; some rows of each, or all."""
    layer = layer_of()
    for dot_dtype in (torch.float32, torch.float16):
        rows, offsets = bags_of(70, 17, 34)
        norm = (layer.norm.weight, layer.norm.bias)
        means, statistics = kernels.landmark_means(rows, offsets, *norm, layer.norm.eps, LANDMARKS)
        query, key = zip(*((layer._query(mean), layer._key_value(mean)[0]) for mean in means), strict=True)
        query, key = torch.stack(query), torch.stack(key)
        normed = (statistics, *norm)
        values = torch.empty_like(rows, dtype=dot_dtype)
        total, _ = kernels.attend_to_bag(
            query, rows, offsets, 70, *normed, layer.key_value.weight, None, dot_dtype, LANDMARKS, values
        )
        value = torch.stack([layer._solved(*parts) for parts in zip(query, key, total, strict=True)])
        weights = (layer.query.weight, layer.residual.weight.squeeze(1), key, value)
        weights += (layer.output.weight, layer.output.bias)
        new, few = (
            kernels.mix_landmarks(rows, values, offsets, 70, *normed, *weights, count, dot_dtype)
            for count in (None, kept)
        )
        for number, bag in enumerate(each(rows, offsets)):
            exact, plain = (expected(layer, bag, kind) for kind in (torch.float64, dot_dtype))
            found = each(new, offsets)[number]
            assert_close_to_oracle(found, exact, plain, dot_dtype, f"bag {number}")
            there = min(kept, len(bag))
            assert torch.equal(few[number, :there], found[:there]) and not few[number, there:].any()


@pytest.mark.parametrize("query_is_bag", [False, True])
@torch.no_grad()
def test_tokens_ask_a_bag(query_is_bag: bool, fused: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bag of queries is left to plain operations where it is large."""
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS)
    pooling = TransMIL(WIDTH, HEADS, LANDMARKS) if query_is_bag else ClassTokenAttention(WIDTH, HEADS, 1)
    block = BagCrossAttentionPooling(attention, pooling).eval()
    context, tokens = numbers(121, WIDTH), numbers(16, WIDTH, seed=1)
    monkeypatch.setattr(_nystrom, "MOST_QUERIES", 6)

    def patches(rows: Tensor):
        return lay_out(len(rows), rows.device, lambda start, stop: rows[start:stop])

    given = patches(tokens) if query_is_bag else tokens[None, :6]
    found = block(given, patches(context))
    assert ((1, HEADS, 6, WIDTH // HEADS) in fused) == (not query_is_bag)
    monkeypatch.undo()
    torch.testing.assert_close(found, block(given, patches(context)), rtol=1e-5, atol=1e-5)


def test_what_is_left_to_plain_operations(fused: list) -> None:
    rows, _ = bags_of(40)
    layer = layer_of()
    layer([rows])  # a gradient may come
    with torch.no_grad():
        layer([rows[:LANDMARKS].clone()])
        layer.double()([rows.double()])
        dropping = NystromLayer(WIDTH, HEADS, LANDMARKS, dropout=0.5)
        dropping([rows])
        assert not fused
        dropping.eval()([rows])
    assert len(fused) == 1
    assert not kernels.supports(torch.float32, torch.float32, 1024, 8)
    assert not kernels.supports(torch.float16, torch.bfloat16, 64, 2)
    assert not kernels.supports(torch.float32, torch.float32, 48, 5)


def test_pieces_of_one_buffer_are_joined_without_a_copy() -> None:
    buffer = numbers(40, WIDTH)
    pieces = list(buffer[3:].split([1, 20, 16]))
    rows = _nystrom.joined(pieces)
    assert rows.data_ptr() == pieces[0].data_ptr() and torch.equal(rows, buffer[3:])
    others = [pieces[0].clone(), *pieces[1:]]
    assert _nystrom.joined(others).data_ptr() != others[0].data_ptr()
    assert torch.equal(_nystrom.joined([pieces[1], pieces[0]]), torch.cat([pieces[1], pieces[0]]))
    assert _nystrom.offsets_of_one(rows).tolist() == [0, 37]
    assert _nystrom.offsets_of_one(rows[:0]).tolist() == [0, 0]
