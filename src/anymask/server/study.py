"""The pages of a human study: one task at a time, rated 1 to 10, kept at once."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from anymask.evaluation.study_ratings import HIGHEST, LOWEST, Rating, Ratings
from anymask.evaluation.study_tasks import read_tasks
from anymask.evaluation.study_views import VIEWS
from anymask.server.security import LOOPBACK_HOSTS, Guard
from anymask.version import __version__

PAGE = Path(__file__).parent / "study_page"
MAX_BODY_BYTES = 4096


class GivenRating(BaseModel):
    """What a page sends for one task."""

    rater: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]*\S[^\x00-\x1f]*$")
    task: str = Field(max_length=32)
    rating: int = Field(ge=LOWEST, le=HIGHEST, strict=True)
    seconds: float = Field(default=0.0, ge=0, le=86400)


class TaskList(BaseModel):
    """A rater's tasks in the order in which to do them, and what was rated before."""

    views: list[str]
    tasks: list[str]
    ratings: dict[str, int]


def create_study_app(
    study: str | Path, *, token: str | None = None, allowed_hosts: Iterable[str] = LOOPBACK_HOSTS
) -> FastAPI:
    """The app that shows one study's tasks and keeps the ratings; it never reads which method made a mask.

    Every rater gets the tasks in an order of their own, the same each time. `token` is asked for at every request;
    `allowed_hosts` are the names that a Host header may have. Raises DataError for a folder that is no study.
    """
    study = Path(study).resolve()
    tasks, ratings = read_tasks(study), Ratings(study)
    known = frozenset(tasks)
    app = FastAPI(title="anymask study", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/api/tasks")
    def list_tasks(rater: str) -> TaskList:
        order = sorted(tasks)
        random.Random(f"order of {rater}").shuffle(order)
        of_rater = {task: rating for task, rating in ratings.of(rater).items() if task in known}
        return TaskList(views=list(VIEWS), tasks=order, ratings=of_rater)

    @app.put("/api/ratings")
    def rate(given: GivenRating) -> dict[str, bool]:
        if given.task not in known:
            raise HTTPException(404, f"task is {given.task!r}; allowed: one of this study")
        ratings.save(Rating(given.rater.strip(), given.task, given.rating, given.seconds))
        return {"saved": True}

    @app.get("/views/{task}/{view}.jpg")
    def view(task: str, view: str) -> FileResponse:
        if task not in known or view not in VIEWS:
            raise HTTPException(404, "no such view")
        path = study / "views" / task / f"{view}.jpg"
        if not path.is_file():
            raise HTTPException(404, "the picture is missing; run `anymask study make` again")
        return FileResponse(path, headers={"cache-control": "private, max-age=86400"})

    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(Guard, token=token, allowed_hosts=tuple(allowed_hosts), body_limits=(("", MAX_BODY_BYTES),))
    return app
