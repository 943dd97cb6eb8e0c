"""low_rank_decompose beyond what every op is tested for: formulas row by row, availability, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from survcore.ops import LowRankDecomposition, low_rank_decompose
from survcore.reference import low_rank_decompose as reference

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(
    modalities: int,
    rows: int,
    width: int = 12,
    rank: int = 3,
    *,
    owned: float = 0.6,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    """Random inputs; `owned` is the probability that a row owns a modality."""
    generator = torch.Generator().manual_seed(17 * modalities + rows)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    availability = torch.rand(rows, modalities, generator=generator) < owned
    parts = (
        normal(modalities, rows, width),
        normal(modalities, rows, width),
        normal(modalities, modalities, rows, width),
    )
    return normal(width, rank) / width**0.5, *parts, availability


def hidden_parts(availability: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries of whole, specific [M, B] and cross [M, M, B] must not be read."""
    owned = availability.T
    pair = owned.unsqueeze(1) & owned & ~torch.eye(len(owned), dtype=torch.bool).unsqueeze(-1)
    return ~(owned & pair.any(0)), ~owned, ~pair


def by_rows(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The contract, one row and one modality after the other."""
    basis, whole, specific, cross, availability = inputs
    rows, modalities = availability.shape
    projection = basis @ basis.T
    specific_hat, cross_hat = torch.zeros_like(specific), torch.zeros_like(cross)
    for row in range(rows):
        owned = availability[row].nonzero().flatten().tolist()
        for m in owned:
            specific_hat[m, row] = specific[m, row] - projection @ specific[m, row]
            for n in owned:
                if m != n:
                    cross_hat[m, n, row] = projection @ cross[m, n, row]

    def mean_over_rows(owners: list[int], term: Callable[[int], Tensor]) -> Tensor:
        return sum(map(term, owners), whole.new_zeros(())) / max(1, len(owners))

    def distance(m: int, row: int) -> Tensor:
        others = [n for n in range(modalities) if n != m and availability[row, n]]
        held_by_others = sum(cross_hat[n, m, row] for n in others) / len(others)
        return (whole[m, row] - specific_hat[m, row] - held_by_others).square().sum()

    losses = [whole.new_zeros(()) for _ in range(3)]
    for m in range(modalities):
        accompanied = [row for row in range(rows) if availability[row, m] and availability[row].sum() > 1]
        losses[0] += mean_over_rows(accompanied, lambda row, m=m: distance(m, row))
        for n in range(m + 1, modalities):
            pairs = [
                (specific_hat[m], specific_hat[n]),
                (specific_hat[m], cross_hat[m, n]),
                (specific_hat[n], cross_hat[n, m]),
            ]
            owners = (availability[:, m] & availability[:, n]).nonzero().flatten().tolist()
            losses[1] += mean_over_rows(
                owners, lambda row, m=m, n=n: (cross_hat[m, n, row] - cross_hat[n, m, row]).square().sum()
            )
            for left, right in pairs:
                losses[2] += mean_over_rows(
                    owners,
                    lambda row, left=left, right=right: cosine_similarity(left[row], right[row], dim=0, eps=1e-8).abs(),
                )
    return specific_hat, cross_hat, losses


def scalar_of(parts: LowRankDecomposition) -> Tensor:
    """A number that depends on all five results, with different weights."""
    losses = 0.7 * parts.decomposition_loss + 1.3 * parts.shared_loss + 0.5 * parts.orthogonality_loss
    return losses + parts.specific.cos().sum() + parts.cross.sin().sum()


def gradients(function: Callable[..., tuple], inputs: Inputs) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:4]]
    parts = function(*leaves, inputs[4])
    if not isinstance(parts, LowRankDecomposition):
        parts = LowRankDecomposition(parts[0], parts[1], *parts[2])
    return list(torch.autograd.grad(scalar_of(parts), leaves))


@pytest.mark.parametrize(
    ("modalities", "rows", "owned"), [(1, 4, 0.7), (2, 9, 0.6), (3, 13, 0.6), (3, 5, 1.0), (2, 5, 0.0)]
)
def test_values_by_rows(modalities: int, rows: int, owned: float) -> None:
    inputs = make_inputs(modalities, rows, owned=owned)
    specific_hat, cross_hat, losses = by_rows(inputs)
    parts = low_rank_decompose(*inputs)
    torch.testing.assert_close(parts.specific, specific_hat, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.cross, cross_hat, rtol=0, atol=1e-12)
    torch.testing.assert_close(list(parts[2:]), losses, rtol=1e-12, atol=1e-12)


# Rows around a tile and a chunk, widths and ranks around a panel of columns, a row with more parts than a tile has.
SIZES = [(1, 5, 6, 2), (2, 33, 16, 16), (2, 200, 40, 17), (3, 40, 33, 5), (4, 21, 20, 8), (7, 5, 12, 3), (2, 0, 8, 3)]


@pytest.mark.parametrize(("modalities", "rows", "width", "rank"), SIZES)
@pytest.mark.parametrize("owned", [0.6, 1.0])
def test_gradients_are_those_of_the_reference(modalities: int, rows: int, width: int, rank: int, owned: float) -> None:
    inputs = make_inputs(modalities, rows, width, rank, owned=owned)
    expected = gradients(reference.low_rank_decompose, inputs)
    torch.testing.assert_close(gradients(low_rank_decompose, inputs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_gradcheck(modalities: int) -> None:
    inputs = make_inputs(modalities, 4, 5, 2, owned=0.8)
    leaves = [tensor.requires_grad_() for tensor in inputs[:4]]
    assert torch.autograd.gradcheck(lambda *parts: tuple(low_rank_decompose(*parts, inputs[4])), leaves)


def test_what_a_row_lacks_is_never_read() -> None:
    inputs = make_inputs(3, 30)
    poisoned = [
        tensor.masked_fill(hidden.unsqueeze(-1), torch.nan)
        for tensor, hidden in zip(inputs[1:4], hidden_parts(inputs[4]), strict=True)
    ]
    assert all(tensor.isnan().any() for tensor in poisoned)
    poisoned_inputs = (inputs[0], *poisoned, inputs[4])
    for clean, dirty in zip(low_rank_decompose(*inputs), low_rank_decompose(*poisoned_inputs), strict=True):
        assert torch.equal(clean, dirty)
    dirty_gradients = gradients(low_rank_decompose, poisoned_inputs)
    for clean, dirty in zip(gradients(low_rank_decompose, inputs), dirty_gradients, strict=True):
        assert torch.equal(clean, dirty)
    for gradient, hidden in zip(dirty_gradients[1:], hidden_parts(inputs[4]), strict=True):
        assert not gradient[hidden].any()


def test_nobody_available() -> None:
    inputs = make_inputs(2, 6, owned=0.0)
    for result in low_rank_decompose(*inputs):
        assert not result.any()
    for gradient in gradients(low_rank_decompose, inputs):
        assert not gradient.any()


def test_one_modality_has_no_losses() -> None:
    parts = low_rank_decompose(*make_inputs(1, 6, owned=1.0))
    assert parts.specific.any()
    assert not any(loss.any() for loss in parts[2:])


def test_vanishing_parts_have_cosine_and_subgradient_zero() -> None:
    basis, whole, specific, cross, availability = make_inputs(2, 3, owned=1.0)
    inputs = (basis, whole, torch.zeros_like(specific), cross, availability)
    assert low_rank_decompose(*inputs).orthogonality_loss == 0
    leaves = [tensor.requires_grad_() for tensor in inputs[:4]]
    low_rank_decompose(*leaves, availability).orthogonality_loss.backward()
    assert not any(leaf.grad.any() for leaf in leaves)


def test_orthonormal_basis_makes_the_cross_parts_orthogonal_to_the_specific_ones() -> None:
    basis, *others = make_inputs(2, 8, owned=1.0)
    parts = low_rank_decompose(torch.linalg.qr(basis).Q, *others)
    between = cosine_similarity(parts.specific[0], parts.specific[1], dim=-1).abs().mean()
    torch.testing.assert_close(parts.orthogonality_loss, between, rtol=0, atol=1e-14)


def test_each_result_alone_has_its_gradient() -> None:
    """Backward receives only the gradients that exist."""
    inputs = make_inputs(2, 7)
    for which in range(5):
        found, expected = [], []
        for function, store in ((low_rank_decompose, found), (reference.low_rank_decompose, expected)):
            leaves = [tensor.detach().requires_grad_() for tensor in inputs[:4]]
            specific_hat, cross_hat, *losses = function(*leaves, inputs[4])
            results = (specific_hat, cross_hat, *(losses if len(losses) == 3 else losses[0]))
            store += torch.autograd.grad(results[which].sum(), leaves, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_same_bits_for_any_number_of_threads() -> None:
    inputs = make_inputs(2, 300, 64, 16, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [*low_rank_decompose(*inputs), *gradients(low_rank_decompose, inputs)]
        torch.set_num_threads(2)
        together = [*low_rank_decompose(*inputs), *gradients(low_rank_decompose, inputs)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def test_half_precision_keeps_its_type_and_sums_in_float32() -> None:
    inputs = make_inputs(2, 9, dtype=torch.bfloat16)
    parts = low_rank_decompose(*inputs)
    assert (parts.specific.dtype, parts.cross.dtype, parts.shared_loss.dtype) == (torch.bfloat16,) * 2 + (
        torch.float32,
    )
    wide = low_rank_decompose(*(tensor.float() for tensor in inputs[:4]), inputs[4])
    torch.testing.assert_close(list(parts[2:]), list(wide[2:]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("position", "change", "error", "message"),
    [
        (0, lambda basis: basis[:-1], ValueError, r"basis must have shape \(12, 3\)"),
        (0, lambda basis: basis[:, :0], ValueError, r"basis must be \[D, r\] with r >= 1, got shape \(12, 0\)"),
        (2, lambda specific: specific.to("meta"), ValueError, "specific is on meta, whole on cpu"),
        (1, lambda whole: whole[0], ValueError, r"whole must be \[M, B, D\]"),
        (2, lambda specific: specific[:, :-1], ValueError, r"specific must have shape \(2, 5, 12\).*got \(2, 4, 12\)"),
        (3, lambda cross: cross[0], ValueError, r"cross must have shape \(2, 2, 5, 12\)"),
        (4, lambda availability: availability.T, ValueError, r"availability must have shape \(5, 2\)"),
        (4, lambda availability: availability.int(), TypeError, "availability must be bool, got torch.int32"),
        (2, lambda specific: specific.float(), TypeError, "specific is torch.float32, whole torch.float64"),
    ],
)
def test_errors(position: int, change: Callable[[Tensor], Tensor], error: type[Exception], message: str) -> None:
    inputs = list(make_inputs(2, 5))
    inputs[position] = change(inputs[position])
    with pytest.raises(error, match=message):
        low_rank_decompose(*inputs)
