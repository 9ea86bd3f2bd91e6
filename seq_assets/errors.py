"""Errors that a person at a terminal can act on."""

from __future__ import annotations


class RunFailedError(RuntimeError):
    """A run failed; the message is the first line of its first error."""


class DriverBusyError(RuntimeError):
    """Another driver works on the same instance."""
