"""The most memory that this process held, where the system tells (Linux)."""

from __future__ import annotations

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def reset_peak() -> None:
    """Count the peak from here on."""
    if CLEAR.exists():
        CLEAR.write_text(CLEAR_PEAK)


def peak_megabytes() -> float | None:
    """The highest resident memory since `reset_peak`."""
    return _field("VmHWM")


def current_megabytes() -> float | None:
    return _field("VmRSS")


def _field(name: str) -> float | None:
    if not STATUS.exists():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) / 1024
