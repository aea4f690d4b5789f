"""The annotation server as a FastAPI app: alone under uvicorn, or mounted in another app."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError

from anymask.errors import AnymaskError
from anymask.model.segmenter import Segmenter
from anymask.runtime.opening import load_model
from anymask.server import routes_annotations, routes_folder, routes_images, routes_model
from anymask.server.errors import AsciiJson, RefusedError
from anymask.server.scan import Progress, scan_folder
from anymask.server.security import CONTENT_POLICY, LOOPBACK_HOSTS, Guard
from anymask.server.service import Rules, Service
from anymask.server.store import Store
from anymask.server.studio import Studio
from anymask.version import __version__

HERE = Path(__file__).parent
PAGE = HERE / "page"
FALLBACK = HERE / "fallback.html"
# Some systems' tables lack these, and a browser refuses a module or a WebAssembly file of another type.
MEDIA_TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript"}

# What any route may answer besides its own; documented once.
_REFUSALS: dict[int | str, dict[str, Any]] = {
    202: {"description": "on its way: ask again after Retry-After seconds"},
    401: {"description": "a token is needed"},
    403: {"description": "another host or origin"},
    404: {"description": "no such thing"},
    409: {"description": "somebody was faster; `current` has how it stands"},
    413: {"description": "too large"},
    422: {"description": "understood, and cannot be"},
    503: {"description": "too much at once: ask again after Retry-After seconds"},
}


def create_app(
    folder: str | Path,
    *,
    model: Segmenter | str = "tiny",
    store_url: str | None = None,
    token: str | None = None,
    allowed_hosts: Iterable[str] = LOOPBACK_HOSTS,
    rules: Rules | None = None,
    recursive: bool = False,
    prefill: str | Path | None = None,
    progress: Progress | None = None,
) -> FastAPI:
    """The app that serves one folder of images for annotation.

    model: a loaded one, or what `load_model` takes. store_url: SQLAlchemy's URL of a database; None keeps SQLite in
    the folder's hidden `.anymask`. token: asked for at every request; needed when others can reach the server.
    allowed_hosts: what the Host header may be, "*" for anything. recursive, prefill, progress: see `scan_folder`.

    Mount it with `other.mount("/annotate", create_app(...))`; the page works under any prefix.
    `app.state.service.close()` ends its two threads and lets go of the store; a mounted app has no other end. Raises
    AnymaskError for a folder or a store that cannot be opened.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AnymaskError(f"{folder}: is not a folder; allowed: a folder of images")
    cache = folder / ".anymask"
    store = Store(store_url or Store.in_folder(folder))
    problems = scan_folder(
        store, folder, recursive=recursive, prefill=None if prefill is None else Path(prefill), progress=progress
    )
    studio = Studio(model if isinstance(model, Segmenter) else load_model(model), cache)
    service = Service(folder, cache, store, studio, rules or Rules(), problems)

    app = FastAPI(
        title="anymask annotate",
        version=__version__,
        description="Promptable segmentation for annotators and machines.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page would come from a content delivery network
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.state.service = service
    for routes in (routes_folder, routes_images, routes_annotations, routes_model):
        app.include_router(routes.router)
    _add_error_handlers(app)
    _add_page(app)
    limits = (("/segment", service.rules.upload_bytes), ("", service.rules.body_bytes))
    app.add_middleware(Guard, token=token, allowed_hosts=tuple(allowed_hosts), body_limits=limits)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> AsciiJson:
        return AsciiJson(error.content, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    def unreadable(request: Request, error: RequestValidationError) -> AsciiJson:
        # Without what was sent: it may hold what JSON cannot say.
        errors = [{"loc": list(entry["loc"]), "msg": entry["msg"]} for entry in error.errors()[:20]]
        where = ".".join(map(str, errors[0]["loc"])) if errors else "body"
        detail = f"{where}: {errors[0]['msg']}" if errors else "the request cannot be read"
        return AsciiJson({"code": "invalid", "detail": detail, "errors": errors}, 422)

    @app.exception_handler(SQLAlchemyError)
    def store_failed(request: Request, error: SQLAlchemyError) -> AsciiJson:
        # A locked or unreachable database: nothing was stored, and the same request again is right.
        content = {"code": "store", "detail": f"the store did not answer ({type(error).__name__})"}
        return AsciiJson(content, 503, {"Retry-After": "2"})


def _add_page(app: FastAPI) -> None:
    """The built page where it is there, else the plain one that needs no Node and lets the server decode."""
    for suffix, media_type in MEDIA_TYPES.items():
        mimetypes.add_type(media_type, suffix)
    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
        return
    html = FALLBACK.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = CONTENT_POLICY.format(scripts="".join(f" 'sha256-{digest}'" for digest in hashes))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def fallback() -> HTMLResponse:
        return HTMLResponse(html, headers={"content-security-policy": policy})
