"""What can go wrong here, also under the built-in classes that code written for the reference catches."""

from __future__ import annotations

from anymask.errors import AnymaskError


class ArgumentError(AnymaskError, ValueError, AssertionError):
    """An argument of the wrong kind, shape or value, where the reference asserts."""


class NoImageError(AnymaskError, RuntimeError):
    """A predictor was asked before it was given an image."""
