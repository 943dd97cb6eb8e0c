"""Errors with one meaning each, so that callers can tell bad data from a bad file."""

from __future__ import annotations


class DataError(ValueError):
    """Input data break the cohort's contract; the message names the row, column or file."""


class CheckpointError(RuntimeError):
    """A saved model or checkpoint is foreign, cut short, or of another version."""
