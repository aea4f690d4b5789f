"""Two small networks with every parameter random: the paper's shape, and ours with skip maps and a frame to fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))

from small_networks import build_small_sam, randomise

from anymask.model.segmenter import Segmenter

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def small_sam() -> Segmenter:
    model = build_small_sam().eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


@pytest.fixture(params=["small_sam", "random_tiny"])
def model(request: pytest.FixtureRequest) -> Segmenter:
    return request.getfixturevalue(request.param)


@pytest.fixture
def open_graph() -> Callable[[Path], Any]:
    """A graph file as an onnxruntime session on one thread."""
    import onnxruntime

    def open_one(path: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    return open_one
