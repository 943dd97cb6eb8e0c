"""info_nce: the definition row by row, masks and groups, small losses, temperature, processes, errors."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from survcore.losses import InfoNCE
from survcore.ops import info_nce

OPERATION = importlib.import_module("survcore.ops.info_nce")  # the function has its name in survcore.ops
FORMS = ["cross_modal", "nt_xent"]


def make_rows(rows: int, width: int, groups: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + 7 * width + 100 * groups)
    query, noise = torch.randn(2, *([groups] if groups else []), rows, width, generator=generator)
    return query.to(dtype), (query + noise).to(dtype)


def by_cross_entropy(query: Tensor, key: Tensor, temperature: float | Tensor, form: str) -> Tensor:
    """Both forms as their papers' code writes them."""
    query, key = normalize(query, dim=-1), normalize(key, dim=-1)
    rows = len(query)
    if form == "cross_modal":
        logits, target = query @ key.T / temperature, torch.arange(rows)
        return 0.5 * (cross_entropy(logits, target) + cross_entropy(logits.T, target))
    entries = torch.cat((query, key))
    logits = (entries @ entries.T / temperature).fill_diagonal_(-torch.inf)
    return cross_entropy(logits, (torch.arange(2 * rows) + rows) % (2 * rows))


def with_gradients(function: Callable[..., Tensor], *values: Tensor) -> list[Tensor]:
    leaves = [value.detach().clone().requires_grad_() for value in values]
    loss = function(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "width", "temperature"), [(2, 3, 0.5), (40, 12, 0.07), (40, 32, 0.01), (600, 5, 0.2)])
def test_is_the_cross_entropy_of_the_papers(rows: int, width: int, temperature: float, form: str) -> None:
    scale = torch.tensor(temperature, dtype=torch.float64)
    values = (*make_rows(rows, width), scale)
    expected = with_gradients(lambda q, k, t: by_cross_entropy(q, k, t, form), *values)
    actual = with_gradients(lambda q, k, t: info_nce(q, k, temperature=t, form=form), *values)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masked_rows_might_as_well_be_absent(form: str, dtype: torch.dtype) -> None:
    query, key = make_rows(150, 20, dtype=dtype)
    mask = torch.arange(150) % 3 > 0
    hidden = [value.masked_fill(~mask.unsqueeze(1), torch.nan) for value in (query, key)]
    loss, *gradients = with_gradients(lambda q, k: info_nce(q, k, temperature=0.1, form=form, row_mask=mask), *hidden)
    kept = with_gradients(lambda q, k: info_nce(q, k, temperature=0.1, form=form), query[mask], key[mask])
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(loss, kept[0], **tolerance)
    for gradient, expected in zip(gradients, kept[1:], strict=True):
        assert not gradient[~mask].any()
        torch.testing.assert_close(gradient[mask], expected, **tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_groups_are_problems_of_their_own(form: str) -> None:
    query, key = make_rows(30, 8, groups=4)
    mask = torch.rand(4, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[1] = False
    mask[2] = torch.arange(30) == 3
    losses = info_nce(query, key, temperature=0.2, form=form, row_mask=mask)
    alone = [info_nce(query[g], key[g], temperature=0.2, form=form, row_mask=mask[g]) for g in range(4)]
    assert torch.equal(losses, torch.stack(alone))
    assert losses[1] == 0 and losses[2] == 0 and losses[0] > 0
    shared = info_nce(query, key, temperature=0.2, form=form, row_mask=mask[0])
    assert torch.equal(shared[3], info_nce(query[3], key[3], temperature=0.2, form=form, row_mask=mask[0]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_compare_is_zero_and_connected(rows: int, form: str) -> None:
    values = [torch.randn(rows, 4).requires_grad_() for _ in range(2)]
    loss = info_nce(*values, temperature=0.01, form=form)
    loss.backward()
    assert loss == 0
    assert not any(value.grad.any() for value in values)


@pytest.mark.parametrize("form", FORMS)
def test_equal_rows_have_the_loss_of_a_guess(form: str) -> None:
    rows = torch.randn(1, 6).expand(40, 6).contiguous()
    loss, *gradients = with_gradients(lambda q, k: info_nce(q, k, temperature=0.05, form=form), rows, rows)
    choices = 40 if form == "cross_modal" else 79
    torch.testing.assert_close(loss, torch.tensor(float(choices)).log())
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_small_losses_keep_their_accuracy(form: str) -> None:
    """Of a network that has learned its pairs: 1 minus a softmax in float32 would be noise."""
    query = torch.eye(24) + 0.05 * torch.randn(24, 24, generator=torch.Generator().manual_seed(2))
    key = query + 0.05 * torch.randn(24, 24, generator=torch.Generator().manual_seed(3))

    def function(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(q, k, temperature=0.04, form=form)

    actual = with_gradients(function, query, key)
    expected = with_gradients(function, query.double(), key.double())
    assert 0 < actual[0] < 1e-6
    for found, exact in zip(actual, expected, strict=True):
        assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


def test_logits_may_lie_far_apart() -> None:
    """Rows whose logits a shift shared with others would lose, in tiles before and after those of large ones."""
    query, key = make_rows(300, 16, dtype=torch.float32)
    query = query * torch.logspace(-4, 2.5, 300).unsqueeze(1)

    def function(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(q, k, temperature=1.0, normalize=False)

    for order in (slice(None), torch.arange(299, -1, -1)):
        actual = with_gradients(function, query[order], key[order])
        expected = with_gradients(function, query[order].double(), key[order].double())
        for found, exact in zip(actual, expected, strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5 * exact.abs().max().item())


def test_logit_scale_of_clip_is_learned() -> None:
    query, key = make_rows(12, 6)
    logit_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scale: info_nce(query, key, temperature=(-scale).exp()), logit_scale)
    scaled = info_nce(query, key, temperature=(-logit_scale).exp().item())
    torch.testing.assert_close(info_nce(query, key, temperature=(-logit_scale).exp()), scaled)
    float32_scale = torch.tensor(0.1, requires_grad=True)
    info_nce(query, key, temperature=float32_scale).backward()
    assert float32_scale.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    query, key = make_rows(50, 16, dtype=dtype)
    loss, *gradients = with_gradients(lambda q, k: info_nce(q, k, temperature=0.1), query, key)
    wide = with_gradients(lambda q, k: info_nce(q, k, temperature=0.1), query.float(), key.float())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wide[0])
    for gradient, expected in zip(gradients, wide[1:], strict=True):
        assert torch.equal(gradient, expected.to(dtype))


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("form", FORMS)
def test_same_bits_for_any_number_of_threads(form: str) -> None:
    query, key = make_rows(1300, 24, dtype=torch.float32)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(with_gradients(lambda q, k: info_nce(q, k, temperature=0.1, form=form), query, key))
    assert all(torch.equal(alone, together) for alone, together in zip(*found, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_gradients_made_in_forward_are_those_of_backward(
    form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of groups that are weighted differently, too many to be done together, some of whose rows are masked."""
    query, key = make_rows(300, 20, groups=4, dtype=dtype)
    mask = torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < torch.tensor([[0.9], [0.0], [0.5], [1.0]])
    temperature = torch.tensor([0.1], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.0, -0.5], dtype=torch.promote_types(dtype, torch.float32))

    def weighted(query: Tensor, key: Tensor, temperature: Tensor) -> Tensor:
        return info_nce(query, key, temperature=temperature, form=form, row_mask=mask) * weights

    made = with_gradients(weighted, query, key, temperature)
    monkeypatch.setattr(OPERATION, "MOST_KEPT_LOGITS", 0)
    apart = with_gradients(weighted, query, key, temperature)
    tolerance = {"rtol": 1e-10, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-6}
    torch.testing.assert_close(made, apart, **tolerance)


def test_forward_makes_gradients_only_where_they_are_wanted_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remembered(*arguments: object) -> tuple[Tensor]:
        asked.append(arguments[-1])
        return (torch.zeros(()),)

    monkeypatch.setattr(OPERATION, "_apply", remembered)
    plain, leaf = torch.zeros(4, 2), torch.zeros(4, 2, requires_grad=True)
    large = torch.zeros(1025, 1, requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    for query, key, temperature, form, wanted in [
        (plain, plain, 0.5, "cross_modal", False),
        (plain, leaf, 0.5, "nt_xent", True),
        (plain, plain, scale, "cross_modal", True),
        (large, large, 0.5, "cross_modal", False),
        (large[:1024], large[:1024], 0.5, "cross_modal", True),
        (large[:1024], large[:1024], 0.5, "nt_xent", False),
    ]:
        info_nce(query, key, temperature=temperature, form=form)
        assert asked.pop() is wanted
    with torch.no_grad():
        info_nce(leaf, leaf, temperature=0.5)
    assert asked.pop() is False


def test_second_backward_has_gradients_of_its_own() -> None:
    """Those that forward has made are given away with the first, and may be written to."""
    query, key = (value.requires_grad_() for value in make_rows(20, 6))
    loss = info_nce(query, key, temperature=0.1)
    first = torch.autograd.grad(loss, (query, key), retain_graph=True)
    expected = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    assert all(map(torch.equal, torch.autograd.grad(loss, (query, key)), expected))


def test_module() -> None:
    query, key = make_rows(9, 5)
    mask = torch.arange(9) > 2
    module = InfoNCE(temperature=0.3, form="nt_xent", normalize=False)
    expected = info_nce(query, key, temperature=0.3, form="nt_xent", normalize=False, row_mask=mask)
    assert torch.equal(module(query, key, row_mask=mask), expected)
    assert "temperature=0.3" in repr(module)
    learned = torch.nn.Parameter(torch.tensor(0.3))
    module = InfoNCE(temperature=learned)
    module(query, key).backward()
    assert dict(module.named_parameters()) == {"temperature": learned}
    assert learned.grad is not None
    with pytest.raises(ValueError, match="form must be"):
        InfoNCE(temperature=0.1, form="clip")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        InfoNCE(temperature=0.0)


PROCESS = """
import sys, torch, torch.distributed as dist
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
from survcore.ops import info_nce
name = dist.group.WORLD.group_name
results = {}
for case, (query, key, mask, form) in torch.load(f"{folder}/cases.pt").items():
    half = query.shape[-2] // 2
    own = slice(rank * half, rank * half + half)
    leaves = [v[..., own, :].clone().requires_grad_() for v in (query, key)]
    leaves.append(torch.tensor(0.1, dtype=torch.float64, requires_grad=True))
    row_mask = None if mask is None else mask[..., own]
    loss = info_nce(*leaves[:2], temperature=leaves[2], form=form, row_mask=row_mask, group_name=name)
    results[case] = [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]
torch.save(results, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    cases = {}
    for form in FORMS:
        query, key = make_rows(1100, 12)
        cases[f"{form}, large"] = (query, key, None, form)
        cases[f"{form}, masked"] = (query[:90], key[:90], torch.arange(90) % 4 > 0, form)
        query, key = make_rows(60, 5, groups=3)
        cases[f"{form}, groups"] = (query, key, torch.arange(180).view(3, 60) > 70, form)
        cases[f"{form}, one mask of groups"] = (query, key, torch.arange(60) > 10, form)
        cases[f"{form}, nobody"] = (query, key, torch.zeros(3, 60, dtype=torch.bool), form)
    torch.save(cases, tmp_path / "cases.pt")
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    temperature = torch.tensor(0.1, dtype=torch.float64)
    for case, (query, key, mask, form) in cases.items():

        def whole(q: Tensor, k: Tensor, t: Tensor, form: str = form, mask: Tensor | None = mask) -> Tensor:
            return info_nce(q, k, temperature=t, form=form, row_mask=mask)

        loss, to_query, to_key, to_temperature = with_gradients(whole, query, key, temperature)
        first, second = (found[case] for found in ranks)
        assert torch.equal(first[0], second[0]), case
        torch.testing.assert_close(first[0], loss, rtol=1e-12, atol=0, msg=case)
        for position, expected in ((1, to_query), (2, to_key)):
            joined = torch.cat((first[position], second[position]), -2)
            torch.testing.assert_close(joined, expected, rtol=1e-10, atol=1e-14, msg=case)
        torch.testing.assert_close(first[3] + second[3], to_temperature, rtol=1e-10, atol=1e-12, msg=case)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(4)}, ValueError, r"query must be \[B, D\] or \[G, B, D\] with D >= 1, got shape \(4,\)"),
        ({"query": torch.zeros(5, 0)}, ValueError, "with D >= 1"),
        ({"key": torch.zeros(4, 3)}, ValueError, r"key must have the shape of query, \(5, 3\), got \(4, 3\)"),
        ({"key": torch.zeros(5, 3).double()}, TypeError, "one floating dtype, got torch.float32 and torch.float64"),
        ({"query": torch.zeros(5, 3).int(), "key": torch.zeros(5, 3).int()}, TypeError, "one floating dtype"),
        ({"key": torch.zeros(5, 3, device="meta")}, ValueError, "key is on meta, query on cpu"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0, got 0.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be above 0"),
        ({"temperature": torch.ones(2)}, ValueError, r"temperature must be one floating number.*shape \(2,\)"),
        ({"form": "clip"}, ValueError, "form must be 'cross_modal' or 'nt_xent', got 'clip'"),
        ({"row_mask": torch.ones(5)}, TypeError, "row_mask must be bool, got torch.float32"),
        ({"row_mask": torch.ones(4).bool()}, ValueError, r"row_mask must have shape \[5\], got \[4\]"),
        ({"query": torch.full((5, 3), torch.nan), "validate": True}, ValueError, "query must be finite.*row 0"),
        ({"temperature": torch.tensor(-1.0), "validate": True}, ValueError, "temperature must be above 0, got -1.0"),
    ],
)
def test_errors(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"query": torch.ones(5, 3), "key": torch.ones(5, 3), "temperature": 0.1} | change
    with pytest.raises(error, match=message):
        info_nce(**arguments)


def test_validate_names_the_row_and_passes_over_masked_ones() -> None:
    query, key = make_rows(6, 3, groups=2)
    key[1, 4, 0] = torch.inf
    with pytest.raises(ValueError, match="key must be finite in valid rows, but is not in row 4 of group 1"):
        info_nce(query, key, temperature=0.1, validate=True)
    mask = torch.arange(6) != 4
    assert info_nce(query, key, temperature=0.1, row_mask=mask, validate=True).isfinite().all()
