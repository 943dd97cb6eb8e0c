"""Triton 3.6's interpreter with NumPy 2.4, which no longer takes its arrays of one entry for numbers."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

_patch_lang_tensor = interpreter._patch_lang_tensor


def _patched(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda value: int(value.handle.data.item()))


interpreter._patch_lang_tensor = _patched
