"""Programs written for Meta's package, run as they are and with only their imports changed: the same results."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from compat_networks import BlobDecoder, assert_near, assert_same_masks, build_compatible_sam
from small_networks import SMALL_MLP
from torch import nn

from anymask.compat import segment_anything as compatible
from anymask.compat.segment_anything.modeling import Sam
from anymask.geometry.masks import mask_iou
from anymask.geometry.rle import decode_rle

CLIENTS = Path(__file__).parent / "clients"
COMPATIBLE = "anymask.compat.segment_anything"
IMPORT = re.compile(r"^(\s*(?:from|import)\s+)segment_anything\b", re.MULTILINE)
Runner = Callable[..., Any]


def load(client: str, *, compatible: bool) -> Runner:
    """The `run` of a client program, with or without its imports changed."""
    path = CLIENTS / f"{client}.py"
    source = path.read_text()
    if compatible:
        source, count = IMPORT.subn(rf"\1{COMPATIBLE}", source)
        assert count > 0
    namespace: dict[str, Any] = {"__name__": client}
    exec(compile(source, path, "exec"), namespace)
    return namespace["run"]


@pytest.fixture
def both(
    meta_package: ModuleType, build_meta_sam: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[Runner]]:
    """A client under both packages, whose registries know a small model too."""

    def small(build: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
        def build_small(checkpoint: str) -> nn.Module:
            sam = build()
            sam.load_state_dict(torch.load(checkpoint, weights_only=True))
            return sam

        return build_small

    monkeypatch.setitem(meta_package.sam_model_registry, "small", small(build_meta_sam))
    monkeypatch.setitem(compatible.sam_model_registry, "small", small(build_compatible_sam))
    return lambda client: [load(client, compatible=True), load(client, compatible=False)]


@pytest.fixture
def checkpoint(compatible_sam: Sam, tmp_path: Path) -> str:
    torch.save(compatible_sam.state_dict(), tmp_path / "small.pth")
    return str(tmp_path / "small.pth")


@pytest.fixture
def blobs(both: object, meta_package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The small models answer with blobs, so that there are many masks to find."""
    for package in (meta_package, compatible):
        build = package.sam_model_registry["small"]

        def build_blobs(checkpoint: str, build: Callable[..., nn.Module] = build) -> nn.Module:
            sam = build(checkpoint)
            sam.mask_decoder = BlobDecoder()
            return sam

        monkeypatch.setitem(package.sam_model_registry, "small", build_blobs)
    return


def assert_alike(actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """The same structure with the same numbers, to `tolerance` of the largest."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_alike(actual[key], value, tolerance)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_alike(ours, theirs, tolerance)
    elif isinstance(expected, np.ndarray | torch.Tensor):
        if expected.dtype in (np.bool_, torch.bool):
            assert_same_masks(actual, expected)
        else:
            assert_near(actual, expected, tolerance)
    else:
        assert actual == expected


def test_notebook(both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray) -> None:
    ours, metas = both("notebook")
    results = ours(checkpoint, scene)
    assert set(results) == {"point", "correction", "box and point", "boxes", "embedding", "batch"}
    assert_alike(results, metas(checkpoint, scene))


def test_fine_tuning(both: Callable[[str], list[Runner]], checkpoint: str) -> None:
    ours, metas = both("fine_tune")
    results = ours(checkpoint)
    assert results["losses"][-1] < results["losses"][0]
    assert_alike(results, metas(checkpoint))


def test_stored_embeddings(both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray) -> None:
    ours, metas = both("stored_embeddings")
    results = ours(checkpoint, scene)
    assert len(results["ious"]) > 5
    expected = metas(checkpoint, scene)
    # One pixel of noise near zero moves a box or an area by one.
    assert np.abs(results.pop("boxes") - expected.pop("boxes")).max() <= 1
    assert np.allclose(results.pop("areas"), expected.pop("areas"), rtol=0.01)
    assert np.allclose(results.pop("stability"), expected.pop("stability"), atol=0.01)
    assert_alike(results, expected)


def test_own_decoder(both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray) -> None:
    ours, metas = both("own_decoder")
    arguments = (checkpoint, scene, SMALL_MLP, 32)
    # Its masks come from one row of the image per box, so they are decoded one by one on both sides.
    assert_alike(ours(*arguments), metas(*arguments))


SETTINGS = (
    *("--points-per-side", "6", "--pred-iou-thresh", "0.6", "--stability-score-thresh", "0.6"),
    *("--stability-score-offset", "0.2", "--crop-n-layers", "1", "--crop-n-points-downscale-factor", "2"),
    *("--crop-overlap-ratio", "0.3", "--min-mask-region-area", "5", "--points-per-batch", "16"),
)


def generate(run: Runner, checkpoint: str, scene: np.ndarray, folder: Path, *more: str) -> Path:
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    cv2.imwrite(str(folder / "in" / "scene.png"), scene[..., ::-1])
    given = ["--input", str(folder / "in"), "--output", str(folder / "out"), "--checkpoint", checkpoint]
    run([*given, "--model-type", "small", *SETTINGS, *more])
    return folder / "out"


@pytest.mark.usefixtures("blobs")
def test_generating_pictures(
    both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray, tmp_path: Path
) -> None:
    folders = [
        generate(run, checkpoint, scene, tmp_path / name) / "scene"
        for name, run in zip(("ours", "metas"), both("generate_masks"), strict=True)
    ]
    tables = [list(csv.reader((folder / "metadata.csv").read_text().splitlines())) for folder in folders]
    assert len(tables[0]) == len(tables[1]) > 6
    for row, (ours, metas) in enumerate(zip(tables[0][1:], tables[1][1:], strict=True)):
        assert np.allclose([float(x) for x in ours[2:8]], [float(x) for x in metas[2:8]], atol=1)
        assert ours[-1] == metas[-1]
        pictures = [cv2.imread(str(folder / f"{row}.png"), cv2.IMREAD_GRAYSCALE) > 0 for folder in folders]
        assert mask_iou(*pictures) >= 0.99


@pytest.mark.usefixtures("blobs")
def test_generating_json(
    both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray, tmp_path: Path
) -> None:
    found = [
        json.loads((generate(run, checkpoint, scene, tmp_path / name, "--convert-to-rle") / "scene.json").read_text())
        for name, run in zip(("ours", "metas"), both("generate_masks"), strict=True)
    ]
    assert len(found[0]) == len(found[1]) > 5
    for ours, metas in zip(*found, strict=True):
        assert mask_iou(decode_rle(ours["segmentation"]), decode_rle(metas["segmentation"])) >= 0.99
        assert ours["crop_box"] == metas["crop_box"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [(), ("--return-single-mask",), ("--gelu-approximate",)])
def test_exporting(
    both: Callable[[str], list[Runner]], checkpoint: str, scene: np.ndarray, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The example has the scene's shape: Meta's tracing keeps the example's for every image after it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    results = []
    for name, run in zip(("ours", "metas"), both("export_decoder"), strict=True):
        given = ["--checkpoint", checkpoint, "--output", str(tmp_path / f"{name}.onnx"), "--model-type", "small"]
        results.append(run([*given, *options], scene))
    # The runtime fuses the approximate GELU in one graph and not in the other.
    assert_alike(*results, tolerance=1e-3)
