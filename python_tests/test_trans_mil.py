"""TransMIL on bags: its plain definition, whatever the pieces; what is overwritten; memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from survcore.nn import (
    Attention,
    BagCrossAttentionPooling,
    ClassTokenAttention,
    PatchProjection,
    TransMIL,
    grid_positions,
    nystrom,
    pieces,
)
from survcore.nn.grid_convolution import depthwise_convolution
from survcore.nn.patches import Patches, grid_side, lay_out
from survcore.reference.trans_mil import trans_mil

WIDTH, HEADS, LANDMARKS = 32, 4, 16
SIZES = (1, 2, 3, 5, 9, 15, 16, 17, 100, 129, 260, 700)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def block() -> TransMIL:
    torch.manual_seed(0)
    return TransMIL(WIDTH, HEADS, LANDMARKS).double().eval()


@pytest.fixture(params=[5, 64, 2048])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(pieces._PIECE, "cpu", request.param)
    return request.param


def bag_of(size: int, width: int = WIDTH) -> Tensor:
    return torch.randn(size, width, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


def patches_of(bag: Tensor) -> Patches:
    return lay_out(len(bag), bag.device, lambda start, stop: bag[start:stop])


def plain(block: TransMIL, bag: Tensor) -> tuple[Tensor, Tensor]:
    return trans_mil(bag, dict(block.named_parameters()), heads=HEADS, landmarks=LANDMARKS)


@pytest.mark.parametrize("size", SIZES)
def test_is_its_plain_definition(block: TransMIL, piece: int, size: int) -> None:
    bag = bag_of(size)
    with torch.no_grad():
        expected, expected_tokens = plain(block, bag)
        output, updated = block(patches_of(bag))
        alone = block.pool(patches_of(bag))
    torch.testing.assert_close(output[0], expected)
    torch.testing.assert_close(updated.tokens(), expected_tokens)
    torch.testing.assert_close(alone[0], expected)
    assert len(updated) == grid_side(size) ** 2 >= size


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("size", [1, 3, 17, 700])
def test_gradients_are_those_of_the_plain_definition(
    block: TransMIL, piece: int, size: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nystrom, grid_positions):
        monkeypatch.setattr(module, "RECOMPUTE_ABOVE", 0 if again else 10**9)
    bag = bag_of(size).requires_grad_()
    leaves = [bag, *block.parameters()]

    def gradients(output: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output.sum() + tokens.square().sum(), leaves)

    expected = gradients(*plain(block, bag))
    output, updated = block(patches_of(bag))
    for found, wanted in zip(gradients(output[0], updated.tokens()), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 32), (20, 33), (2, 100), (1, 300)])
@pytest.mark.parametrize("size", [(7, 7), (1, 33), (5, 1)])
def test_the_gradient_of_a_depthwise_convolution_is_pytorchs(height: int, width: int, size: tuple[int, int]) -> None:
    image = torch.randn(5, height + size[0] - 1, width + size[1] - 1, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(5, *size, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    outputs = (
        torch.nn.functional.conv2d(image[None], kernel[:, None], bias, groups=5)[0],
        depthwise_convolution(image, kernel, bias),
    )
    torch.testing.assert_close(outputs[1], outputs[0])
    upstream = torch.randn_like(outputs[0])
    expected, found = (torch.autograd.grad(output, (image, kernel, bias), upstream) for output in outputs)
    torch.testing.assert_close(found, expected)


def test_a_depthwise_convolution_is_differentiated_as_pytorch_does() -> None:
    image = torch.randn(4, 9, 12, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 7, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(depthwise_convolution, (image, kernel, bias))
    assert torch.autograd.gradgradcheck(depthwise_convolution, (image, kernel, bias))
    strided = image.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    torch.testing.assert_close(depthwise_convolution(strided, kernel, None), depthwise_convolution(image, kernel, None))

    def total(image: Tensor, kernel: Tensor) -> Tensor:
        return depthwise_convolution(image, kernel, None).square().sum()

    images = torch.randn(3, 4, 9, 12, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(total, argnums=(0, 1)), in_dims=(0, None))(images, kernel.detach())
    for index, one in enumerate(images):
        for part, expected in zip(found, torch.func.grad(total, argnums=(0, 1))(one, kernel.detach()), strict=True):
            torch.testing.assert_close(part[index], expected)


def test_a_depthwise_convolution_stays_in_its_kernels_type_under_autocast() -> None:
    leaves = [torch.randn(4, 9, 12), torch.randn(4, 7, 7), torch.randn(4)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    narrow = leaves[0].to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = depthwise_convolution(narrow, *leaves[1:])
    wanted = depthwise_convolution(narrow.float(), *leaves[1:])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), leaves), torch.autograd.grad(wanted.square().sum(), leaves)
    )


def test_dropout_is_the_same_when_recomputed(block: TransMIL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pieces._PIECE, "cpu", 64)
    block.train()
    for layer in (block.first, block.second):
        layer.dropout.p = 0.3
    found = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(nystrom, "RECOMPUTE_ABOVE", threshold)
        torch.manual_seed(1)
        bag = bag_of(700).requires_grad_()
        block(patches_of(bag))[0].sum().backward()
        found.append(bag.grad)
    torch.testing.assert_close(*found)


def test_pooling_leaves_the_tokens_alone(block: TransMIL, piece: int) -> None:
    bag = bag_of(300)
    with torch.no_grad():
        patches = patches_of(bag)
        before = patches.tokens().clone()
        first, second = block.pool(patches), block.pool(patches)
        assert torch.equal(patches.tokens(), before) and torch.equal(first, second)
        assert torch.equal(block.pool(patches, overwrite=True), first)
    assert torch.equal(bag, bag_of(300))


def test_order_of_patches_matters_and_repeats_do_not_hide_it(block: TransMIL) -> None:
    bag = bag_of(50)
    with torch.no_grad():
        outputs = [block.pool(patches_of(rows)) for rows in (bag, bag.flip(0))]
    assert not torch.allclose(*outputs)


def test_grid_repeats_the_first_patches(piece: int) -> None:
    for size in SIZES:
        bag = bag_of(size)
        side = grid_side(size)
        assert (side - 1) ** 2 < size <= side**2
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                tokens = patches_of(bag).tokens()
            assert torch.equal(tokens, torch.cat((bag, bag[: side**2 - size])))
    with pytest.raises(ValueError, match="at least one patch"):
        patches_of(bag_of(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_projection_widens_stored_features(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    projection = PatchProjection(7, WIDTH).eval()
    bag = torch.randn(30, 7).to(dtype)
    with torch.no_grad():
        tokens = projection(bag).tokens()
        torch.testing.assert_close(tokens, projection(bag.float()).tokens(), rtol=0, atol=0)
        torch.testing.assert_close(tokens[:30], projection.projection(bag.float()).relu())


@pytest.mark.parametrize("context_is_bag", [False, True])
@pytest.mark.parametrize("query_is_bag", [False, True])
def test_cross_attention_is_attention_over_all_pieces(piece: int, query_is_bag: bool, context_is_bag: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS)
    pooling = TransMIL(WIDTH, HEADS, LANDMARKS) if query_is_bag else ClassTokenAttention(WIDTH, HEADS, 2)
    block = BagCrossAttentionPooling(attention, pooling).double().eval()
    sides = {"queries": (bag_of(289), query_is_bag), "context": (bag_of(324), context_is_bag)}
    given = {name: patches_of(rows) if is_bag else rows[:6].unsqueeze(0) for name, (rows, is_bag) in sides.items()}
    plain = {name: (rows if is_bag else rows[:6]).unsqueeze(0) for name, (rows, is_bag) in sides.items()}
    with torch.no_grad():
        found = block(**given)
        attended = attention(plain["queries"], plain["context"])
        expected = pooling.pool(patches_of(attended[0]) if query_is_bag else attended)
    torch.testing.assert_close(found, expected)


def test_masked_tokens_are_no_context() -> None:
    torch.manual_seed(0)
    pooling = TransMIL(WIDTH, HEADS, LANDMARKS)
    block = BagCrossAttentionPooling(Attention(WIDTH, HEADS), pooling).double().eval()
    context = bag_of(5).unsqueeze(0)
    mask = torch.tensor([[True, False, True, True, False]])
    with torch.no_grad():
        found = block(patches_of(bag_of(30)), context.masked_fill(~mask.unsqueeze(-1), torch.nan), None, mask)
        torch.testing.assert_close(found, block(patches_of(bag_of(30)), context[:, mask[0]]))


MEMORY = """
import sys, torch
from survcore.batch import Bags, Batch, ModalityInput, Target
from survcore.models.must import MUST
torch.set_num_threads(1)
patches, width, features, training = map(int, sys.argv[1:])
inputs = (ModalityInput("slide", "bag", features), ModalityInput("rna", "vector", 5))
torch.manual_seed(0)
system = MUST(inputs, 4, {"width": width, "rank": 8, "denoiser_layers": 1}).train(bool(training))
batch = Batch(
    row_key=torch.arange(1), availability=torch.ones(1, 2, dtype=torch.bool),
    values={"slide": Bags.of([torch.randn(1000, features).half().repeat(patches // 1000, 1)]), "rna": torch.ones(1, 5)},
    target=Target(torch.ones(1), torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)),
)
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
if training:
    system.losses(batch, "joint").loss.backward()
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
else:
    with torch.inference_mode():
        assert all(part.isfinite().all() for part in system.encode(batch).parts.values())
print(peak() - before)
"""


def peak_growth(folder: Path, *arguments: int) -> int:
    """Bytes that the peak memory of a process grows by, beyond the features.

    It runs in a folder of its own: in the repository it would import the source tree.
    """
    command = [sys.executable, "-c", MEMORY, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_a_bag_of_200_000_patches_needs_two_buffers_of_tokens(tmp_path: Path) -> None:
    patches, width = 200_000, 64
    buffer = patches * width * 4
    # The updated tokens, which later blocks read, the buffer of the layer in flight, and pieces.
    assert peak_growth(tmp_path, patches, width, 32, 0) < 2 * buffer + 60e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_training_memory_is_a_few_buffers_of_tokens(tmp_path: Path) -> None:
    patches, width = 40_000, 64
    buffer = patches * width * 4
    # Intermediate values that are kept take more than twice as much.
    assert peak_growth(tmp_path, patches, width, 32, 1) < 75 * buffer


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_is_the_same_without_a_gradient(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    query, key, value = (torch.randn(*leading, count, 8).to(dtype) for count in (5, 40, 40))
    expected = pieces.attend(query.double(), key.double(), value.double())
    with torch.no_grad():
        found = pieces.attend(query, key, value)
    error = 0.05 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=error, atol=error)


def test_attention_of_no_queries_is_nothing() -> None:
    with torch.no_grad():
        found, weights = pieces.attend(torch.zeros(2, 0, 8), torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    assert found.shape == (2, 0, 8) and weights.shape == (2, 0)
