"""The published checkpoints of SAM and MobileSAM, fetched once: resumed, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from anymask.errors import CheckpointError, DownloadError
from anymask.model import cache
from anymask.version import __version__

# Called with the bytes that are there and the bytes there will be (None where the server doesn't say).
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
# Attempts in a row that bring no further byte before it gives up; the wait after the first doubles each time.
ATTEMPTS = 3
FIRST_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Official:
    """One published checkpoint: where it lies, its hash and its size (to tell a person what to expect)."""

    url: str
    sha256: str
    megabytes: int

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[1]


_FOLDER_URL = "https://dl.fbaipublicfiles.com/segment_anything"
OFFICIAL = {
    "vit_b": Official(
        f"{_FOLDER_URL}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        375,
    ),
    "vit_l": Official(
        f"{_FOLDER_URL}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        1250,
    ),
    "vit_h": Official(
        f"{_FOLDER_URL}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        2565,
    ),
    "mobile_sam": Official(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        41,
    ),
}


class _AttemptError(Exception):
    """An attempt that brought no whole file; another one may, unless the server has refused for good."""

    def __init__(self, reason: str, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def pulled_path(name: str, cache_folder: Path | None = None) -> Path:
    """Where this model's official checkpoint lies, or would lie. Raises `CheckpointError` for other names."""
    if name not in OFFICIAL:
        raise CheckpointError(f"model {name!r} cannot be pulled; allowed are {', '.join(OFFICIAL)}")
    return (cache_folder or cache.cache_folder()) / OFFICIAL[name].file_name


def pull(
    name: str,
    cache_folder: str | Path | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch an official checkpoint ("vit_b", "vit_l", "vit_h", "mobile_sam"); returns its path.

    A good file is not fetched again. `cache_folder` is the folder it goes to (see `cache.cache_folder`);
    `url` names a mirror, whose file must have the official hash. A broken download stays as `.partial` and is
    resumed, by this call and by the next. Raises `DownloadError`, which says where to put the file by hand,
    when it can't be had or has the wrong hash.
    """
    path = pulled_path(name, None if cache_folder is None else Path(cache_folder))
    official = OFFICIAL[name]
    if path.is_file() and sha256_of(path) == official.sha256:
        return path
    url = url or official.url
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial, progress)
        found = sha256_of(partial)
        if found == official.sha256:
            os.replace(partial, path)
            return path
        partial.unlink()
    except _AttemptError as error:
        raise DownloadError(_by_hand(url, path, official, str(error))) from error
    except OSError as error:
        raise DownloadError(f"{error.filename or partial} cannot be written: {error.strerror}") from error
    reason = f"the file has SHA-256 {found}, not {official.sha256}, and was removed"
    raise DownloadError(_by_hand(url, path, official, reason))


def _by_hand(url: str, path: Path, official: Official, reason: str) -> str:
    return (
        f"could not fetch {url}: {reason}; to do it by hand, put {official.file_name} into {path.parent} "
        f"(SHA-256 {official.sha256})"
    )


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, partial: Path, progress: Progress | None) -> None:
    """Attempts until the file is whole; only those that bring no further byte count as failed."""
    most, failures = _size(partial), 0
    while True:
        try:
            _attempt(url, partial, progress)
            return
        except _AttemptError as failure:
            size = _size(partial)
            failures = failures + 1 if size <= most else 1
            most = max(most, size)
            if failure.is_final or failures >= ATTEMPTS:
                raise
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))


def _attempt(url: str, partial: Path, progress: Progress | None) -> None:
    """One request for what is missing, appended to `partial`; a server without ranges starts it anew."""
    start = _size(partial)
    try:
        response = _open(url, start)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the range begins at or beyond the end of the file
            if _total_size(error.headers, 0) == start:
                return
            partial.unlink()
            raise _AttemptError("the partial file is longer than the file") from error
        is_final = error.code < 500 and error.code not in (408, 429)
        raise _AttemptError(f"the server answers {error.code} {error.reason}", is_final) from error
    with response:
        if not _continues(response.headers, start):
            start = 0
        total = _total_size(response.headers, start)
        with partial.open("ab" if start else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                if progress is not None:
                    progress(file.tell(), total)
            done = file.tell()
    if total is not None and done < total:
        raise _AttemptError(f"the connection broke after {done} of {total} bytes")


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"anymask/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise _AttemptError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"no connection ({error or type(error).__name__})") from error
    except ValueError as error:
        raise _AttemptError(str(error), is_final=True) from error


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; what goes wrong on the line is told apart from what goes wrong on the disk."""
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"the connection broke ({error or type(error).__name__})") from error


def _continues(headers: Message, start: int) -> bool:
    """Whether the answer begins where the partial file ends."""
    return start > 0 and headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _total_size(headers: Message, start: int) -> int | None:
    """The whole file's size by `Content-Range`, or `Content-Length` beyond `start`; None if neither says."""
    ranged = re.fullmatch(r"bytes .*/(\d+)", headers.get("Content-Range", ""))
    if ranged is not None:
        return int(ranged[1])
    length = headers.get("Content-Length")
    return None if length is None else start + int(length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
