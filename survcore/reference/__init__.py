"""The plain PyTorch definition of every op, for any dtype and device: oracle of the tests, text of the kernels."""

from __future__ import annotations
