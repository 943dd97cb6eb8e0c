"""Kernel and latency microbenchmarks behind ``survcore bench``; installed as ``survcore.benchmarks``."""

from __future__ import annotations
