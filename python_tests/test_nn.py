"""Tokenizers, attention with class tokens, and the shared subspace."""

from __future__ import annotations

import pytest
import torch

from survcore.batch import ModalityInput
from survcore.nn import (
    Attention,
    ClassTokenAttention,
    CrossAttentionPooling,
    GroupTokenizer,
    SharedSubspace,
    TokenProjection,
    make_tokenizer,
    project,
)
from survcore.nn.rows import owner_rows, put_rows, take_keys, take_rows


def test_group_tokenizer_reads_its_columns_only() -> None:
    tokenizer = GroupTokenizer([(0, 2), (2, 3, 4)], width=8).eval()
    values = torch.randn(3, 6)
    tokens, mask = tokenizer(values)
    assert tokens.shape == (3, 2, 8) and mask is None
    torch.testing.assert_close(tokens[:, 1], tokenizer.encoders[1](values[:, [2, 3, 4]]))
    changed = values.clone()
    changed[:, 0] += 1
    changed[:, 5] = torch.nan  # in no group
    again, _ = tokenizer(changed)
    torch.testing.assert_close(again[:, 1], tokens[:, 1])
    assert not torch.allclose(again[:, 0], tokens[:, 0])


@pytest.mark.parametrize("kind", ["vector", "panel", "embedding"])
def test_plain_tables_become_one_token(kind: str) -> None:
    tokens, _ = make_tokenizer(ModalityInput("clinical", kind, 5), 8)(torch.randn(4, 5))
    assert tokens.shape == (4, 1, 8)


def test_make_tokenizer_of_both_token_forms_and_of_unknown_kinds() -> None:
    grouped = make_tokenizer(ModalityInput("omics", "tokens", 5, (("a", (0, 1)), ("b", (4,)))), 8)
    assert isinstance(grouped, GroupTokenizer) and grouped.sizes == [2, 1]
    assert isinstance(make_tokenizer(ModalityInput("regions", "tokens", 5), 8), TokenProjection)
    with pytest.raises(ValueError, match="'scan' of kind 'volume'"):
        make_tokenizer(ModalityInput("scan", "volume", 5), 8)


def test_padding_never_reaches_a_token_array() -> None:
    tokenizer = TokenProjection(3, 8)
    attention = ClassTokenAttention(8, 2, layers=2)
    cross = CrossAttentionPooling(Attention(8, 2), ClassTokenAttention(8, 2, layers=1))
    values = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    padded = values.clone()
    padded[0, 2:] = torch.nan
    short, _ = attention(tokenizer(values[:1, :2])[0])
    tokens, key_mask = tokenizer(padded, mask)
    whole, updated = attention(tokens, key_mask)
    torch.testing.assert_close(whole[0], short[0])
    torch.testing.assert_close(attention.pool(tokens, key_mask), whole)
    other = torch.randn(2, 5, 8)
    full = cross(other, updated, None, key_mask)
    torch.testing.assert_close(full[:1], cross(other[:1], updated[:1, :2]))
    full = cross(updated, other, key_mask, None)
    torch.testing.assert_close(full[:1], cross(updated[:1, :2], other[:1]))


def test_attention_equals_torch_multihead_attention() -> None:
    width, heads = 12, 3
    ours = Attention(width, heads).double()
    theirs = torch.nn.MultiheadAttention(width, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key_value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    queries, context = torch.randn(2, 3, width).double(), torch.randn(2, 5, width).double()
    mask = torch.rand(2, 5) > 0.4
    mask[:, 0] = True
    expected, _ = theirs(queries, context, context, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, context, mask), expected)


@pytest.mark.parametrize("expansion", [0, 2])
def test_class_output_does_not_depend_on_token_order(expansion: int) -> None:
    attention = ClassTokenAttention(16, 4, layers=2, expansion=expansion)
    tokens = torch.randn(2, 6, 16)
    torch.testing.assert_close(attention.pool(tokens.flip(1)), attention.pool(tokens))


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        Attention(10, 4)


def test_orthonormal_basis_stays_so_while_it_is_trained() -> None:
    subspace = SharedSubspace(12, 5)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=0.1)
    before = subspace.basis.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        project(torch.randn(20, 12), subspace.basis)[:, 0].square().sum().backward()
        optimizer.step()
    basis = subspace.basis
    assert (basis - before).abs().max() > 0.01
    torch.testing.assert_close(basis.T @ basis, torch.eye(5), atol=1e-5, rtol=0)
    values = torch.randn(3, 12)
    torch.testing.assert_close(project(project(values, basis), basis), project(values, basis), atol=1e-5, rtol=1e-5)


def test_free_basis_and_its_errors() -> None:
    assert isinstance(SharedSubspace(6, 2, "free").basis, torch.nn.Parameter)
    with pytest.raises(ValueError, match="orthonormal, free"):
        SharedSubspace(6, 2, "orthogonal")
    with pytest.raises(ValueError, match=r"1\.\.6"):
        SharedSubspace(6, 7)


def test_rows_are_taken_and_put_back() -> None:
    values = torch.randn(4, 2)
    mask = torch.tensor([True, False, True, False])
    rows = owner_rows(mask)
    put = put_rows(values[rows], rows, 4)
    torch.testing.assert_close(put, torch.where(mask[:, None], values, 0.0))
    everything = owner_rows(torch.ones(4, dtype=torch.bool))
    assert put_rows(values[everything], everything, 4).data_ptr() == values.data_ptr()
    assert take_rows(None, rows) is None and put_rows(None, rows, 4) is None
    assert take_keys(torch.arange(4), rows).tolist() == [0, 2]


def test_the_basis_is_solved_once_for_the_weights_as_they_are() -> None:
    subspace = SharedSubspace(16, 3).eval()
    with torch.no_grad():
        first = subspace.exact()
        assert subspace.exact() is first
        torch.testing.assert_close(first, subspace.basis)
    assert subspace.exact().requires_grad
    # A fused optimiser changes weights without telling; training mode is what shows it.
    optimizer = torch.optim.AdamW(subspace.parameters(), lr=0.1, fused=True)
    subspace.train()
    subspace.exact().square().sum().backward()
    subspace.exact()[0].sum().backward()
    optimizer.step()
    subspace.eval()
    with torch.no_grad():
        trained = subspace.exact()
        assert not torch.allclose(trained, first)
        subspace.load_state_dict(SharedSubspace(16, 3).state_dict())
        assert not torch.allclose(subspace.exact(), trained)
        torch.testing.assert_close(subspace.exact(), subspace.basis)
