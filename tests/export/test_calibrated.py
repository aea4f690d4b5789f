"""The encoder with calibrated 8-bit convolutions: near the exact one, opened as a model, refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import anymask
from anymask.errors import AnymaskError, ImageError
from anymask.export.calibrated import EXACT_CONVOLUTIONS, export_calibrated_folder, find_photographs
from anymask.export.graphs import OPSET
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.runtime.opening import load_model


def write_photographs(folder: Path, count: int, top: int = 256) -> Path:
    """Made-up pictures, coarse noise with values below `top`."""
    rng = np.random.default_rng(top)
    folder.mkdir()
    for index in range(count):
        coarse = rng.integers(0, top, (12, 16 + index, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((200 + 8 * index, 150)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def folder(tiny: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("calibrated")
    photographs = write_photographs(place / "photographs", 3)
    return export_calibrated_folder(tiny, place / "made" / "fast", find_photographs(photographs))


def embedding_error(near: Segmenter, exact: Segmenter, pixels: torch.Tensor) -> list[float]:
    """Of the embedding and each skip map, the relative root mean square."""
    with torch.inference_mode():
        maps = [(features.embedding, *features.skips) for features in (near.encode(pixels), exact.encode(pixels))]
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*maps, strict=True)]


def test_the_rounded_encoder_is_near_the_exact_one(folder: Path, tiny: Segmenter, tmp_path: Path) -> None:
    """Near on pictures that it was not calibrated on, and far where it was calibrated on black ones."""
    pictures = write_photographs(tmp_path / "others", 1)
    pixels, _ = tiny.preprocess(np.asarray(Image.open(pictures / "0.png")))
    errors = embedding_error(load_model(folder), tiny, pixels)
    assert all(0 < error < 0.12 for error in errors), errors
    dark = export_calibrated_folder(
        tiny, tmp_path / "dark", find_photographs(write_photographs(tmp_path / "night", 1, 2))
    )
    assert embedding_error(load_model(dark), tiny, pixels)[0] > 2 * errors[0]


def test_what_is_rounded(folder: Path, tiny: Segmenter) -> None:
    """Weights of 8 bits with a scale for each channel, in all convolutions but the first; standard operators alone."""
    import onnx

    file = onnx.load(str(folder / "encoder.onnx"))
    onnx.checker.check_model(file)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", OPSET)]
    assert {node.domain for node in file.graph.node} == {""}
    convolutions = [node for node in file.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(isinstance(part, torch.nn.Conv2d) for part in tiny.image_encoder.modules())
    exact = [node for node in convolutions if not node.input[1].endswith("DequantizeLinear_Output")]
    assert exact == convolutions[:EXACT_CONVOLUTIONS]
    weights = {weight.name: weight for weight in file.graph.initializer}
    maker = {output: node for node in file.graph.node for output in node.output}
    for node in convolutions[EXACT_CONVOLUTIONS:]:
        rounded, scale, _ = maker[node.input[1]].input
        assert weights[rounded].data_type == onnx.TensorProto.INT8
        assert list(weights[scale].dims) == [weights[rounded].dims[0]]


def test_a_folder_is_a_model_wherever_one_is_named(folder: Path, tiny: Segmenter, photo: Any) -> None:
    models = [load_model(folder), load_model("tiny", folder), anymask.load_model(folder, runtime="onnx")]
    assert {(model.name, fingerprint(model)) for model in models} == {("tiny", fingerprint(models[0]))}
    assert fingerprint(models[0]) != fingerprint(tiny), "its embeddings are not the exact model's"
    assert models[0].generator_defaults == tiny.generator_defaults
    answers = []
    for model in (models[0], tiny):
        predictor = anymask.Predictor(model)
        predictor.set_image(photo.image)
        answers.append(predictor.predict(box=[20, 20, 80, 80]).masks[0])
    common, either = np.logical_and(*answers).sum(), np.logical_or(*answers).sum()
    assert common / either > 0.9


def test_what_is_refused(small_sam: Segmenter, tiny: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(AnymaskError, match="is made of linear layers"):
        export_calibrated_folder(small_sam, tmp_path / "graphs", [tmp_path / "any.png"])
    with pytest.raises(AnymaskError, match="photographs is empty"):
        export_calibrated_folder(tiny, tmp_path / "graphs", [])
    with pytest.raises(AnymaskError, match="has no images to calibrate on"):
        find_photographs(tmp_path)
    with pytest.raises(ImageError, match="is not a folder"):
        find_photographs(tmp_path / "nowhere")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        export_calibrated_folder(tiny, tmp_path / "graphs", [broken])
    with pytest.raises(AnymaskError, match=r"device 'cuda' is not available with runtime 'onnx'"):
        load_model(tmp_path, device="cuda")


def test_photographs_are_evenly_spaced(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 7)
    assert [path.stem for path in find_photographs(folder, 3)] == ["0", "2", "4"]
    assert len(find_photographs(folder, 24)) == 7
