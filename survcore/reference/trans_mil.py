"""Plain PyTorch definition of TransMIL on one bag: oracle and documentation of :class:`survcore.nn.TransMIL`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


def trans_mil(tokens: Tensor, weights: Mapping[str, Tensor], *, heads: int, landmarks: int) -> tuple[Tensor, Tensor]:
    """Class output and updated tokens of a bag (Shao et al. 2021, with the Nystrom attention of Xiong et al. 2021).

    Everything is held in memory: attention of all tokens over the landmarks, and (A1 A2+) (A3 v) in this order. Two
    things differ from the released code: the start of the pseudo-inverse is normalised per head, and up to
    ``landmarks`` tokens (the class token counts) get exact attention.

    Args:
        tokens: [N, D], N >= 1.
        weights: named as the parameters of :class:`survcore.nn.TransMIL`.
        heads: H.
        landmarks: m.

    Returns:
        Class output [D] and tokens [s * s, D] with s = ceil(sqrt(N)), the first patches repeated at the end.
    """
    count, width = tokens.shape
    side = math.isqrt(count - 1) + 1
    rows = torch.cat((weights["class_token"].unsqueeze(0), tokens, tokens[: side**2 - count]))
    rows = _layer(rows, weights, "first", heads, landmarks)
    image = rows[1:].T.reshape(1, width, side, side)
    summed = image
    for index, size in enumerate((7, 5, 3)):
        name = f"positions.convolutions.{index}"
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        summed = summed + functional.conv2d(image, kernel, bias, padding=size // 2, groups=width)
    rows = torch.cat((rows[:1], summed.flatten(2).squeeze(0).T))
    rows = _layer(rows, weights, "second", heads, landmarks)
    rows = functional.layer_norm(rows, (width,), weights["norm.weight"], weights["norm.bias"])
    return rows[0], rows[1:]


def _layer(rows: Tensor, weights: Mapping[str, Tensor], name: str, heads: int, landmarks: int) -> Tensor:
    """x + Linear(attention(LayerNorm(x)) + convolution of v), [n, D]."""
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    count, width = rows.shape
    normalised = functional.layer_norm(rows, (width,), own["norm.weight"], own["norm.bias"])
    padding = -count % landmarks if count > landmarks else 0
    normalised = functional.pad(normalised, (0, 0, padding, 0))

    def split(values: Tensor) -> Tensor:
        return values.unflatten(1, (heads, -1)).transpose(0, 1)

    query = split(normalised @ own["query.weight"].T) * (width // heads) ** -0.5
    key, value = map(split, (normalised @ own["key_value.weight"].T).chunk(2, dim=1))
    if count <= landmarks:
        mixed = (query @ key.mT).softmax(-1) @ value
    else:
        query_mean, key_mean = (part.unflatten(1, (landmarks, -1)).mean(2) for part in (query, key))
        to_landmarks = (query @ key_mean.mT).softmax(-1)
        between = (query_mean @ key_mean.mT).softmax(-1)
        from_landmarks = (query_mean @ key.mT).softmax(-1)
        mixed = (to_landmarks @ _pseudo_inverse(between)) @ (from_landmarks @ value)
    # One kernel per head, over tokens only.
    kernel = own["residual.weight"].unsqueeze(-1)
    mixed = mixed + functional.conv2d(value.unsqueeze(0), kernel, padding=(kernel.shape[2] // 2, 0), groups=heads)[0]
    mixed = mixed.transpose(0, 1).flatten(1)[padding:]
    return rows + functional.linear(mixed, own["output.weight"], own["output.bias"])


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    inverse = matrix.mT / (matrix.sum(-1).amax(-1) * matrix.sum(-2).amax(-1))[:, None, None]
    for _ in range(6):
        product = matrix @ inverse
        inverse = inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
    return inverse
