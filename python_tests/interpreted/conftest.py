"""Triton 3.6's interpreter with NumPy 2.4, which no longer takes its arrays of one entry for numbers, and quicker: it
would look through the whole language for what to replace at every call of a function inside a kernel."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_patch_lang, _patch_lang_tensor = interpreter._patch_lang, interpreter._patch_lang_tensor
# Modules of the language that are replaced while the kernel runs.
_replaced: set[str] = set()


def _patched_tensor(tensor: Any, scope: Any) -> None:
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda value: int(value.handle.data.item()))


@functools.cache
def _languages(function: Callable[..., Any]) -> frozenset[str]:
    modules = filter(inspect.ismodule, function.__globals__.values())
    return frozenset(module.__name__ for module in modules if module in (tl, tl.core))


def _patched_once(function: Callable[..., Any]) -> Any:
    languages = _languages(function)
    if languages <= _replaced:
        return interpreter._LangPatchScope()
    _replaced.update(languages)
    scope = _patch_lang(function)
    restore = scope.restore

    def restored() -> None:
        _replaced.clear()
        restore()

    scope.restore = restored
    return scope


interpreter._patch_lang, interpreter._patch_lang_tensor = _patched_once, _patched_tensor
