"""MUST in plain PyTorch: the same weights, published TransMIL, and a sampling loop of stock operations.

The Predictor around it, the projection onto the shared subspace and the head are survcore's own, which flatters it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from survcore.batch import Batch, dense
from survcore.benchmarks.case import LeftOut
from survcore.diffusion import LatentDiffusion
from survcore.draws import row_normal, stream_seed
from survcore.models.base import System
from survcore.models.must import MUST
from survcore.models.must_encoder import MUSTEncoder
from survcore.nn import Attention, ClassTokenAttention, TransMIL
from survcore.reference.ddim_sample import sampling_loop, sampling_step
from survcore.reference.trans_mil import trans_mil

Parts = tuple[Tensor, Tensor, Tensor]
_PLAIN_KINDS = ("vector", "panel", "embedding", "bag")


def made_plain(system: System, *, compiled: bool = False) -> None:
    """Change a system in place: its encoders and its sampling loop become plain, or compiled by torch.compile.

    Compiled are the encoders of a patient as one graph, and one step of the sampling loop: to compile the whole loop
    takes minutes.

    Raises:
        LeftOut: it is no MUST, or reads token arrays.
    """
    if not isinstance(system, MUST):
        raise LeftOut(f"plain PyTorch is written for must, not for {system.name}")
    for entry in system.inputs:
        if entry.kind not in _PLAIN_KINDS and not entry.groups:
            raise LeftOut(f"plain PyTorch reads tables and bags, not {entry.name!r} of kind {entry.kind!r}")
    compiling: Callable[..., Callable[..., object]] = partial(torch.compile, dynamic=False) if compiled else _itself
    system.encoder = PlainEncoder(system.encoder, compiling)
    step = compiling(sampling_step)
    system.diffusion = nn.ModuleList(PlainDiffusion(diffusion, step) for diffusion in system.diffusion)
    system.eval()


class PlainEncoder(nn.Module):
    """What :class:`survcore.models.must_encoder.MUSTEncoder` computes, of rows that own the same modalities at a time.

    Args:
        encoder: whose weights are used.
        compiling: applied to the function that encodes.
    """

    def __init__(self, encoder: MUSTEncoder, compiling: Callable[..., Callable[..., object]]) -> None:
        super().__init__()
        self.encoder = encoder
        self.pairs = encoder.pairs
        self._encode = compiling(self._plain)

    def class_token(self, index: int) -> Tensor:
        return self.encoder.class_token(index)

    def forward(self, batch: Batch) -> Parts:
        size, count, width = len(batch), len(self.encoder.names), self.encoder.width
        shape = {"dtype": torch.float32, "device": batch.availability.device}
        whole, specific = torch.zeros(2, count, size, width, **shape)
        cross = torch.zeros(count, count, size, width, **shape)
        for owned, rows in self._alike(batch.availability):
            part = batch.take(rows)
            values = [dense(part.values[self.encoder.names[m]]) for m in owned]
            tensors = tuple(value if isinstance(value, Tensor) else value[0] for value in values)
            own_whole, own_specific, own_cross = self._encode(owned, tensors)
            for place, m in enumerate(owned):
                whole[m, rows], specific[m, rows] = own_whole[place], own_specific[place]
                for other, n in enumerate(owned):
                    cross[m, n, rows] = own_cross[place, other]
        return whole, specific, cross

    def _alike(self, availability: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """(modalities, rows that own just these); rows with a bag alone."""
        found: dict[tuple[object, ...], tuple[tuple[int, ...], list[int]]] = {}
        for row, flags in enumerate(availability.tolist()):
            owned = tuple(m for m, there in enumerate(flags) if there)
            key = (*owned, f"row {row}") if self.encoder.bags & set(owned) else owned
            found.setdefault(key, (owned, []))[1].append(row)
        return [(owned, torch.tensor(rows)) for owned, rows in found.values()]

    def _plain(self, owned: tuple[int, ...], values: tuple[Tensor, ...]) -> Parts:
        """g [m, B, D], u [m, B, D] and c [m, m, B, D] of the m modalities that are there."""
        encoder = self.encoder
        whole, specific, tokens = [], [], []
        for m, value in zip(owned, values, strict=True):
            summed, updated = _attended(encoder.whole[m], _tokens(encoder.tokenizers[m], value))
            whole.append(summed)
            tokens.append(updated)
            specific.append(_attended(encoder.specific[m], updated)[0])
        cross = [torch.zeros_like(whole[0])] * len(owned) ** 2
        modules = dict(zip(encoder.pairs, encoder.cross, strict=True))
        for i, j in product(range(len(owned)), repeat=2):
            if i != j:
                module = modules[owned[i], owned[j]]
                cross[i * len(owned) + j] = _attended(
                    module.pooling, _attention(module.attention, tokens[i], tokens[j])
                )[0]
        return torch.stack(whole), torch.stack(specific), torch.stack(cross).unflatten(0, (len(owned), len(owned)))


class PlainDiffusion(LatentDiffusion):
    """Draws by :func:`survcore.reference.ddim_sample.sampling_loop`.

    Args:
        trained: whose weights and statistics are used.
        step: of the loop, compiled or not.
    """

    def __init__(self, trained: LatentDiffusion, step: Callable[..., object]) -> None:
        super().__init__(trained.name, trained.denoiser, trained.schedule)
        self.load_state_dict(trained.state_dict())
        self._step = step

    @torch.no_grad()
    def draw(
        self,
        condition: Tensor,
        row_key: Tensor,
        *,
        seed: int,
        draws: int = 5,
        num_steps: int = 50,
        eta: float = 0.0,
        solver: str = "ddim",
        precision: str = "full",
    ) -> Tensor:
        """As :meth:`LatentDiffusion.draw`, without noise between steps and in the precision of the weights.

        Raises:
            LeftOut: ``eta`` is above 0, or another precision is asked for.
        """
        if eta > 0 or precision != "full":
            raise LeftOut(f"the plain loop draws with eta 0 in full precision, not with eta {eta:g}, {precision}")
        rows, width = condition.shape[0], condition.shape[-1]
        seeds = [stream_seed(seed, "draw", self.name, draw) for draw in range(draws)]
        noise = torch.stack([row_normal(own, row_key, 1, width)[:, 0] for own in seeds], dim=1).to(condition)
        timesteps = torch.tensor(self.schedule.visited(num_steps, solver), device=condition.device)
        latents = sampling_loop(
            noise.flatten(0, 1),
            condition,
            torch.arange(rows, device=condition.device).repeat_interleave(draws),
            None,
            self.denoiser.weights(),
            self.denoiser.modulation(timesteps),
            self.schedule.coefficients(num_steps, eta, solver).to(condition.device),
            heads=self.denoiser.heads,
            attention=self.denoiser.attention,
            step=self._step,
        )
        return (latents * self.deviation @ self.directions.T + self.mean).unflatten(0, (rows, draws))


def _itself(function: Callable[..., object]) -> Callable[..., object]:
    return function


def _tokens(tokenizer: nn.Module, value: Tensor) -> Tensor:
    """Tokens [B, T, D] of a table [B, columns], or [1, N, D] of a bag [N, features]."""
    if not hasattr(tokenizer, "encoders"):
        weight, bias = tokenizer.projection.weight, tokenizer.projection.bias
        return functional.relu(functional.linear(value.to(weight.dtype), weight, bias)).unsqueeze(0)
    parts = value[:, tokenizer.columns].split(tokenizer.sizes, dim=1)
    return torch.stack([encode(part) for encode, part in zip(tokenizer.encoders, parts, strict=True)], dim=1)


def _attended(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Class output [B, D] and updated tokens [B, T, D]; of a bag B is 1."""
    if isinstance(module, TransMIL):
        weights = dict(module.named_parameters())
        summed, updated = trans_mil(tokens[0], weights, heads=module.first.heads, landmarks=module.first.landmarks)
        return summed.unsqueeze(0), updated.unsqueeze(0)
    return _self_attended(module, tokens)


def _self_attended(module: ClassTokenAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.cat((module.class_token.expand(tokens.shape[0], 1, -1), tokens), dim=1)
    for layer in module.layers:
        normalised = layer.norm(rows)
        rows = rows + _attention(layer.attention, normalised, normalised)
        if layer.feed_forward is not None:
            rows = rows + layer.feed_forward(rows)
    rows = module.norm(rows)
    return rows[:, 0], rows[:, 1:]


def _attention(module: Attention, queries: Tensor, context: Tensor) -> Tensor:
    """[B, Q, D] from queries [B, Q, D] over context [B, T, D]."""

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (module.heads, -1)).transpose(1, 2)

    key, value = module.key_value(context).chunk(2, dim=-1)
    mixed = functional.scaled_dot_product_attention(heads(module.query(queries)), heads(key), heads(value))
    return module.output(mixed.transpose(1, 2).flatten(2))
