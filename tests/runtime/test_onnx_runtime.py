"""A model on onnxruntime answers as the same model on torch does, through everything that stands above it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anymask
from anymask.errors import AnymaskError, CheckpointError
from anymask.generator import MaskGenerator
from anymask.loading import load_model
from anymask.model import zoo
from anymask.model.checkpoints import fingerprint
from anymask.model.image_encoder import ImageFeatures
from anymask.model.segmenter import PromptBatch, Segmenter

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from anymask.export.folder import export_folder
from anymask.runtime.onnx import open_graphs


@pytest.fixture(scope="session")
def graphs(random_tiny: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_folder(random_tiny, tmp_path_factory.mktemp("runtime") / "graphs")


@pytest.fixture(scope="session")
def on_graphs(graphs: Path) -> Segmenter:
    return open_graphs(graphs)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (150, 220, 3), dtype=np.uint8)


def assert_near(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_predictor_over_graphs(on_graphs: Segmenter, random_tiny: Segmenter, image: np.ndarray) -> None:
    prompts = [
        anymask.Prompt(points=[[30, 40]]),
        anymask.Prompt(box=[10, 20, 120, 140]),
        anymask.Prompt(points=[[30, 40], [100, 90], [5, 5]], labels=[1, 1, 0]),
    ]
    predictors = [anymask.Predictor(model) for model in (on_graphs, random_tiny)]
    for predictor in predictors:
        predictor.set_image(image)
    for ours, theirs in zip(*(predictor.predict_batch(prompts) for predictor in predictors), strict=True):
        assert_near(ours.logits, theirs.logits)
        assert_near(ours.scores, theirs.scores)
        assert ours.token_index.tolist() == theirs.token_index.tolist()
        assert ours.masks.shape[1:] == image.shape[:2]
    again = [predictor.predict(points=[[30, 40]], mask_logits=theirs.logits[:1]) for predictor in predictors]
    assert_near(again[0].logits, again[1].logits)


def test_embeddings_belong_to_both(on_graphs: Segmenter, random_tiny: Segmenter, image: np.ndarray) -> None:
    assert fingerprint(on_graphs) == fingerprint(random_tiny)
    embeddings = anymask.encode(on_graphs, [image, image[:, :90], image])
    predictor = anymask.Predictor(random_tiny)
    for embedding, picture in zip(embeddings, [image, image[:, :90], image], strict=True):
        predictor.set_image(embedding)
        ours = predictor.predict(points=[[20, 30]])
        predictor.set_image(picture)
        assert_near(ours.logits, predictor.predict(points=[[20, 30]]).logits)


def test_automatic_masks(on_graphs: Segmenter, random_tiny: Segmenter, image: np.ndarray) -> None:
    def generate(model: Segmenter) -> list[tuple[int, tuple[float, ...]]]:
        generator = MaskGenerator(model, points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
        return sorted((record.area, tuple(record.bbox_xywh)) for record in generator.generate(image))

    ours, theirs = generate(on_graphs), generate(random_tiny)
    assert len(ours) == len(theirs) > 0
    for (area, box), (true_area, true_box) in zip(ours, theirs, strict=True):
        assert area == pytest.approx(true_area, rel=1e-2, abs=3)
        assert box == pytest.approx(true_box, abs=1)


def test_prompts_of_several_images_in_one_batch(on_graphs: Segmenter, random_tiny: Segmenter) -> None:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randn(3, 3, 192, 256, generator=generator)
    with torch.inference_mode():
        features = random_tiny.encode(pixels)
        features = ImageFeatures(features.embedding, features.skips)
        points_xy = 150 * torch.rand(5, 2, 2, generator=generator)
        labels = torch.tensor([[1, -1], [1, -1], [2, 3], [0, 1], [1, -2]])
        prompts = PromptBatch(points_xy, labels, image_index=torch.tensor([2, 0, 2, 0, 0]))
        for threshold in (None, 0.3):
            for batch in (prompts, replace(prompts, image_index=torch.tensor([1, 1, 1, 1, 1]))):
                expected = random_tiny.decode(features, batch, threshold)
                for ours, theirs in zip(on_graphs.decode(features, batch, threshold), expected, strict=True):
                    assert_near(ours.numpy(), theirs.numpy())


def test_load_model_writes_graphs_once(random_tiny: Segmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(zoo, "load_model", lambda *_: random_tiny)
    model = load_model("tiny", runtime="onnx")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}
    assert sorted(path.name for path in written) == ["encoder.onnx", "preparation.onnx", "prompts.onnx"]
    assert all(fingerprint(random_tiny) in path.parent.name for path in written)
    load_model("tiny", runtime="onnx")
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}
    folder = next(iter(written)).parent
    for other in (load_model(folder, runtime="onnx"), load_model("tiny", folder, runtime="onnx")):
        assert (other.name, other.input_spec, fingerprint(other)) == ("tiny", model.input_spec, fingerprint(model))


def test_what_is_refused(graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="runtime 'abacus' is not known; allowed are torch, onnx"):
        load_model("tiny", runtime="abacus")
    with pytest.raises(AnymaskError, match="device 'cuda' is not available with runtime 'onnx'"):
        load_model("tiny", device="cuda", runtime="onnx")
    with pytest.raises(AnymaskError, match=r"dtype 'torch\.float16' is not available"):
        load_model("tiny", dtype=torch.float16, runtime="onnx")
    with pytest.raises(CheckpointError, match="holds the graphs of tiny, not of vit_b"):
        load_model("vit_b", graphs, runtime="onnx")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx does not exist"):
        open_graphs(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx is not a graph"):
        open_graphs(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes((graphs / "prompts.onnx").read_bytes())
    with pytest.raises(CheckpointError, match="has the contract prompts-1; allowed here is encoder-1"):
        open_graphs(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AnymaskError, match=r"pip install 'anymask\[export\]'"):
        open_graphs(graphs)


def test_graphs_of_two_models_do_not_mix(graphs: Path, random_tiny: Segmenter, tmp_path: Path) -> None:
    import onnx

    for name in ("encoder.onnx", "preparation.onnx", "prompts.onnx"):
        (tmp_path / name).write_bytes((graphs / name).read_bytes())
    other = onnx.load(str(tmp_path / "prompts.onnx"))
    for entry in other.metadata_props:
        if entry.key == "weights":
            entry.value = "0123456789abcdef"
    onnx.save(other, str(tmp_path / "prompts.onnx"))
    with pytest.raises(CheckpointError, match="graphs of several models"):
        open_graphs(tmp_path)
