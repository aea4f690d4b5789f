"""The environment that the peers are measured in: their own, so that nothing of theirs enters the project's.

Where this interpreter already has the same torch, its packages are borrowed instead of being downloaded again.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anymask.model.cache import cache_folder

ROOT = Path(__file__).resolve().parents[1]
TORCH = "2.13.0"
# segment-anything says nothing of what it needs; all of it is here already.
PEERS = (["--no-deps", "segment-anything==1.0"], ["transformers>=4.57,<6"])


def peers_python(progress: Callable[[str], None]) -> Path:
    """The interpreter of that environment, which is made at the first call. Raises `CalledProcessError`."""
    borrows = _installed_torch() == TORCH
    name = f"python{sys.version_info.major}.{sys.version_info.minor}-torch{TORCH}" + ("-borrowed" if borrows else "")
    folder = cache_folder() / "bench" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = folder / "ready"
    if ready.exists():
        if borrows:
            _borrow(folder)  # it may have been made from another interpreter, which is gone
        return python
    progress("making an environment for the peers")
    venv.create(folder, with_pip=True, clear=True)
    if borrows:
        _borrow(folder)
    else:
        _install(python, [f"torch=={TORCH}"], progress)
        _install(python, ["--editable", str(ROOT)], progress)
    for packages in PEERS:
        _install(python, packages, progress)
    ready.touch()
    return python


def _installed_torch() -> str | None:
    """torch's version here, without the "+cpu" of a build."""
    try:
        return version("torch").split("+")[0]
    except PackageNotFoundError:
        return None


def _borrow(folder: Path) -> None:
    """Every package of this interpreter is seen by the new one as well, editable ones too."""
    here = sysconfig.get_path("purelib")
    there = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(there, "borrowed.pth").write_text(f"import site; site.addsitedir({here!r})\n")


def _install(python: Path, packages: list[str], progress: Callable[[str], None]) -> None:
    progress(f"installing {packages[-1]}")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
