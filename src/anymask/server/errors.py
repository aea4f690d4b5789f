"""Refusals: what is wrong with a request, as the JSON answer {"code", "detail", ...}."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse


class AsciiJson(JSONResponse):
    """JSON in ASCII: what a client sent may hold half of a surrogate pair, which is JSON and no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class RefusedError(Exception):
    """A request that gets another answer than the one it asked for; raised anywhere below the routes."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.content: dict[str, Any] = {"code": code, "detail": detail, **facts}
        self.headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}


def not_found(what: str) -> RefusedError:
    """404: there is no such thing."""
    return RefusedError(404, "not_found", f"{what} is not here")


def invalid(detail: str) -> RefusedError:
    """422: understood, and cannot be."""
    return RefusedError(422, "invalid", detail)


def busy(detail: str, seconds: float = 1.0) -> RefusedError:
    """503: too much at once; the same request again is right."""
    return RefusedError(503, "busy", detail, retry_after=seconds)


def computing(detail: str, seconds: float = 0.2) -> RefusedError:
    """202: on its way."""
    return RefusedError(202, "computing", detail, retry_after=seconds)
