"""Blocks that several systems share."""

from __future__ import annotations

from survcore.nn.attention import Attention, AttentionBlock, ClassTokenAttention, CrossAttentionPooling
from survcore.nn.feed_forward import feed_forward
from survcore.nn.shared_subspace import SharedSubspace, project
from survcore.nn.tokenizer import GroupTokenizer, TokenProjection, make_tokenizer

__all__ = [
    "Attention",
    "AttentionBlock",
    "ClassTokenAttention",
    "CrossAttentionPooling",
    "GroupTokenizer",
    "SharedSubspace",
    "TokenProjection",
    "feed_forward",
    "make_tokenizer",
    "project",
]
