"""Every graph answers what the network does, for shapes that it was not traced with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anymask.errors import AnymaskError
from anymask.export import graphs
from anymask.export.decoder import export_decoder, export_decoder_parts
from anymask.export.encoder import export_encoder
from anymask.export.reference import export_reference_decoder
from anymask.export.whole import export_whole
from anymask.model import known_image
from anymask.model.checkpoints import fingerprint
from anymask.model.image_encoder import ImageFeatures
from anymask.model.segmenter import PromptBatch, Segmenter

Opener = Callable[[Path], Any]


def assert_near(actual: np.ndarray, expected: Tensor, relative: float = 1e-4) -> None:
    assert actual.shape == tuple(expected.shape)
    size = float(expected.abs().max())
    assert size > 1e-3, "a dead signal shows nothing"
    assert float(np.abs(actual - expected.numpy()).max()) <= relative * size


def cells_of(model: Segmenter, size_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = model.frame(size_hw).padded_hw
    return height // model.image_encoder.stride, width // model.image_encoder.stride


def make_features(model: Segmenter, cells_hw: tuple[int, int]) -> ImageFeatures:
    generator = torch.Generator().manual_seed(sum(cells_hw))
    channels = (model.image_encoder.embed_dim, *model.image_encoder.skip_channels)
    maps = [
        torch.randn(1, count, cells_hw[0] << level, cells_hw[1] << level, generator=generator)
        for level, count in enumerate(channels)
    ]
    return ImageFeatures(maps[0], tuple(maps[1:]))


def make_prompts(model: Segmenter, cells_hw: tuple[int, int], labels: list[list[int]]) -> PromptBatch:
    """Ragged prompts, of which every second has a mask."""
    generator = torch.Generator().manual_seed(len(labels))
    height, width = cells_hw
    longest = max(map(len, labels))
    padded = torch.tensor([row + [-2] * (longest - len(row)) for row in labels])
    corner = torch.tensor([width, height]) * model.image_encoder.stride
    return PromptBatch(
        torch.rand(*padded.shape, 2, generator=generator) * corner,
        padded,
        3 * torch.randn(len(labels), 1, 4 * height, 4 * width, generator=generator),
        torch.arange(len(labels)) % 2 == 1,
    )


def prompt_feeds(prompts: PromptBatch) -> dict[str, np.ndarray]:
    assert prompts.mask_logits is not None
    assert prompts.has_mask is not None
    return {
        "points_xy": prompts.points_xy.numpy(),
        "labels": prompts.labels.numpy().astype(np.int32),
        "mask_input": prompts.mask_logits.numpy(),
        "has_mask": prompts.has_mask.float().numpy(),
    }


def feature_feeds(features: ImageFeatures) -> dict[str, np.ndarray]:
    feeds = {f"skip_{index}": skip.numpy() for index, skip in enumerate(features.skips)}
    return feeds | {"embedding": features.embedding.numpy()}


LABELS = [
    [[1, -1]],
    [[0, 1, 1, 0, 2, 3], [1, -1], [2, 3]],
    [[1, -1], [1, 0, -1], [2, 3], [1, 2, 3], [0, 1, 1, 1, 1, 0, 1, 1, 1, -1]],
]


class Parts:
    """The decoder's two graphs, one after the other."""

    def __init__(self, model: Segmenter, folder: Path, open_graph: Opener) -> None:
        self.preparation, self.prompts = map(open_graph, export_decoder_parts(model, folder))

    def run(self, names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        wanted, taken = ({port.name for port in part.get_inputs()} for part in (self.prompts, self.preparation))
        assert not wanted & taken & {"points_xy", "labels", "mask_input", "has_mask"}
        made = self.preparation.run(None, {name: feeds[name] for name in taken})
        feeds = feeds | dict(zip([port.name for port in self.preparation.get_outputs()], made, strict=True))
        return self.prompts.run(names, {name: feeds[name] for name in wanted})


def open_decoder(form: str, model: Segmenter, folder: Path, open_graph: Opener) -> Any:
    if form == "whole":
        return open_graph(export_decoder(model, folder / "decoder.onnx"))
    return Parts(model, folder, open_graph)


@pytest.mark.parametrize("form", ["whole", "parts", "parts of a wide model"])
def test_decoder(
    form: str, model: Segmenter, tmp_path: Path, open_graph: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any size and length, frames of any shape."""
    if form == "parts of a wide model":  # all layers know the image, see `know_image`
        monkeypatch.setattr(known_image, "ROWS_THAT_PAY", 10)
    session = open_decoder(form, model, tmp_path, open_graph)
    for size_hw in [(150, 200), (200, 90), (100, 100)]:
        cells_hw = cells_of(model, size_hw)
        features = make_features(model, cells_hw)
        for labels in LABELS:
            prompts = make_prompts(model, cells_hw, labels)
            with torch.inference_mode():
                expected = model.decode(features, prompts)
            actual = session.run(["logits", "ious"], feature_feeds(features) | prompt_feeds(prompts))
            for ours, theirs in zip(actual, expected, strict=True):
                assert_near(ours, theirs)


@pytest.mark.parametrize("form", ["whole", "parts"])
def test_padding_changes_no_answer(form: str, model: Segmenter, tmp_path: Path, open_graph: Opener) -> None:
    session = open_decoder(form, model, tmp_path, open_graph)
    cells_hw = cells_of(model, (150, 200))
    features = feature_feeds(make_features(model, cells_hw))
    prompts = prompt_feeds(make_prompts(model, cells_hw, LABELS[2]))
    together = session.run(None, features | prompts)
    for row, labels in enumerate(LABELS[2]):
        alone = {name: values[row : row + 1] for name, values in prompts.items()}
        alone = {**alone, "points_xy": alone["points_xy"][:, : len(labels)], "labels": np.array([labels], np.int32)}
        for one, all_of_them in zip(session.run(None, features | alone), together, strict=True):
            assert_near(one[0], torch.from_numpy(all_of_them[row]), 1e-5)


def test_encoder(model: Segmenter, tmp_path: Path, open_graph: Opener) -> None:
    session = open_graph(export_encoder(model, tmp_path / "encoder.onnx"))
    for count, size_hw in [(1, (150, 200)), (3, (200, 120))]:
        pixels = torch.randn(count, 3, *model.frame(size_hw).padded_hw, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = model.encode(pixels)
        for ours, theirs in zip(
            session.run(None, {"pixels": pixels.numpy()}), (expected.embedding, *expected.skips), strict=True
        ):
            assert_near(ours, theirs)


def test_encoder_of_pictures(model: Segmenter, tmp_path: Path, open_graph: Opener, rng: np.random.Generator) -> None:
    """The graph normalises and pads as `Segmenter.preprocess` does."""
    session = open_graph(export_encoder(model, tmp_path / "encoder.onnx", "uint8"))
    for size_hw in [(150, 256), (256, 101), (256, 256)]:
        image_hwc = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        pixels, frame = model.preprocess(image_hwc)
        assert frame.resized_hw == size_hw
        with torch.inference_mode():
            expected = model.encode(pixels)
        for ours, theirs in zip(
            session.run(None, {"image": image_hwc[None]}), (expected.embedding, *expected.skips), strict=True
        ):
            assert_near(ours, theirs)


@pytest.mark.parametrize("pixels", ["uint8", "normalised"])
def test_whole(model: Segmenter, tmp_path: Path, open_graph: Opener, rng: np.random.Generator, pixels: str) -> None:
    session = open_graph(export_whole(model, tmp_path / "whole.onnx", pixels))
    for size_hw in [(256, 180), (120, 256)]:
        image_hwc = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        padded, _ = model.preprocess(image_hwc)
        prompts = make_prompts(model, cells_of(model, size_hw), LABELS[1])
        with torch.inference_mode():
            expected = model.decode(model.encode(padded), prompts)
        image = {"image": image_hwc[None]} if pixels == "uint8" else {"pixels": padded.numpy()}
        for ours, theirs in zip(session.run(None, image | prompt_feeds(prompts)), expected, strict=True):
            assert_near(ours, theirs)


@pytest.mark.parametrize("single_mask", [False, True])
def test_reference_decoder(small_sam: Segmenter, tmp_path: Path, open_graph: Opener, single_mask: bool) -> None:
    """Beside the decoder's own answers, at the image's size as the reference makes it."""
    session = open_graph(export_reference_decoder(small_sam, tmp_path / "decoder.onnx", single_mask))
    cells_hw = cells_of(small_sam, (256, 256))
    features = make_features(small_sam, cells_hw)
    # The labels that a client sends, and those that count: one padding where there is no box, none beside one.
    for sent, counted, size_hw in [
        ([1, -1], [1, -1], (75, 100)),
        ([1, -1, -1, -1], [1, -1, -2, -2], (300, 201)),
        ([1, 2, 3, -1], [1, 2, 3, -2], (99, 257)),
    ]:
        prompts = make_prompts(small_sam, cells_hw, [counted])
        has_mask = float(len(sent) == 2)
        with torch.inference_mode():
            batch = PromptBatch(prompts.points_xy, prompts.labels, prompts.mask_logits, torch.tensor([bool(has_mask)]))
            logits, ious = small_sam.decode(features, batch)
        if single_mask:
            output = 0 if counted.count(-2) + 2 < len(counted) else 1 + int(ious[0, 1:].argmax())
            logits, ious = logits[:, output : output + 1], ious[:, output : output + 1]
        feeds = {
            "image_embeddings": features.embedding.numpy(),
            "point_coords": prompts.points_xy.numpy(),
            "point_labels": np.array([sent], np.float32),
            "mask_input": prompts.mask_logits.numpy(),
            "has_mask_input": np.array([has_mask], np.float32),
            "orig_im_size": np.array(size_hw, np.float32),
        }
        masks, scores, low = session.run(["masks", "iou_predictions", "low_res_masks"], feeds)
        assert_near(low, logits)
        assert_near(scores, ious)
        resized_hw = small_sam.frame(size_hw).resized_hw
        full = torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear")
        cut = full[..., : resized_hw[0], : resized_hw[1]]
        assert_near(masks, torch.nn.functional.interpolate(cut, size=size_hw, mode="bilinear"))


def test_the_reference_contract_has_no_room_for_skip_maps(random_tiny: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(AnymaskError, match="tiny needs its skip maps"):
        export_reference_decoder(random_tiny, tmp_path / "decoder.onnx")
    assert not list(tmp_path.iterdir())


def test_half_weights_halve_the_file(model: Segmenter, tmp_path: Path, open_graph: Opener) -> None:
    """The arithmetic stays float32: only the weights are rounded."""
    full = export_decoder(model, tmp_path / "full.onnx")
    half = export_decoder(model, tmp_path / "half.onnx", half_weights=True)
    assert half.stat().st_size < 0.75 * full.stat().st_size
    cells_hw = cells_of(model, (150, 200))
    feeds = feature_feeds(make_features(model, cells_hw)) | prompt_feeds(make_prompts(model, cells_hw, LABELS[1]))
    for rounded, exact in zip(open_graph(half).run(None, feeds), open_graph(full).run(None, feeds), strict=True):
        assert rounded.dtype == np.float32
        assert_near(rounded, torch.from_numpy(exact), 2e-2)
        assert not np.array_equal(rounded, exact)


def test_a_graph_says_whose_it_is(model: Segmenter, tmp_path: Path, open_graph: Opener) -> None:
    for kind, export in (("decoder", export_decoder), ("encoder", export_encoder), ("whole", export_whole)):
        session = open_graph(export(model, tmp_path / "graph.onnx"))
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["model"] == model.name
        assert facts["fingerprint"] == fingerprint(model)
        assert facts["contract"] == f"{kind}-{graphs.CONTRACT_VERSION}"
        assert facts["longest_side"] == "256"


def test_only_standard_operators(model: Segmenter, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(export_whole(model, tmp_path / "whole.onnx")))
    onnx.checker.check_model(graph)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", graphs.OPSET)]
    assert {node.domain for node in graph.graph.node} == {""}


def test_a_missing_folder_is_named(random_tiny: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(AnymaskError, match=r"no folder .*nowhere"):
        export_decoder(random_tiny, tmp_path / "nowhere" / "decoder.onnx")


def test_too_many_weights_are_refused(random_tiny: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_BYTES", 1_000_000)
    with pytest.raises(AnymaskError, match="at most 2 GB"):
        export_decoder(random_tiny, tmp_path / "decoder.onnx")
