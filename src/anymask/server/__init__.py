"""Annotation in the browser and segmentation over HTTP: `create_app` makes the FastAPI app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anymask.server.app import create_app
    from anymask.server.service import Rules

__all__ = ["Rules", "create_app"]


def __getattr__(name: str) -> Any:
    """Load FastAPI and torch when the app is asked for, not when a sibling module is."""
    if name == "create_app":
        from anymask.server.app import create_app

        return create_app
    if name == "Rules":
        from anymask.server.service import Rules

        return Rules
    raise AttributeError(f"module 'anymask.server' has no attribute {name!r}")
