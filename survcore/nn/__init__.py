"""Blocks that several systems share."""

from __future__ import annotations

from survcore.nn.attention import Attention, AttentionBlock, ClassTokenAttention, CrossAttentionPooling
from survcore.nn.bag_cross_attention import BagCrossAttentionPooling
from survcore.nn.feed_forward import feed_forward
from survcore.nn.film import BiFiLM
from survcore.nn.gated_residual import ScaledResidual, SqueezeExcitation
from survcore.nn.masked_input import MaskedInput
from survcore.nn.patches import Patches
from survcore.nn.shared_subspace import SharedSubspace, project
from survcore.nn.tokenizer import GroupTokenizer, PatchProjection, TokenProjection, make_tokenizer
from survcore.nn.trans_mil import TransMIL

__all__ = [
    "Attention",
    "AttentionBlock",
    "BiFiLM",
    "BagCrossAttentionPooling",
    "ClassTokenAttention",
    "CrossAttentionPooling",
    "GroupTokenizer",
    "MaskedInput",
    "PatchProjection",
    "Patches",
    "ScaledResidual",
    "SharedSubspace",
    "SqueezeExcitation",
    "TokenProjection",
    "TransMIL",
    "feed_forward",
    "make_tokenizer",
    "project",
]
