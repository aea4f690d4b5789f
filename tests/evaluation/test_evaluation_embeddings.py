"""Embeddings on disk: the same answer whoever came first, another model's never, and a bound that holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anymask.embedding import ImageEmbedding
from anymask.errors import ImageError
from anymask.evaluation.baseline import RegionBaseline
from anymask.evaluation.embeddings import cached_embedding, show_image
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor


@pytest.fixture
def picture(tmp_path: Path, photo: tuple[np.ndarray, np.ndarray]) -> Path:
    Image.fromarray(photo[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def maps(embedding: ImageEmbedding) -> list[torch.Tensor]:
    return [embedding.features.embedding, *embedding.features.skips]


def test_the_second_time_is_the_first_to_the_bit(random_tiny: Segmenter, picture: Path, tmp_path: Path) -> None:
    fresh = cached_embedding(random_tiny, picture, tmp_path / "kept")
    (file,) = (tmp_path / "kept" / fingerprint(random_tiny)).iterdir()
    written = file.stat().st_ino
    again = cached_embedding(random_tiny, picture, tmp_path / "kept")
    assert file.stat().st_ino == written  # not encoded anew
    for first, second in zip(maps(fresh), maps(again), strict=True):
        assert second.dtype == torch.float32
        assert first.stride() == second.stride()
        assert torch.equal(first, second)
    assert again.frame == fresh.frame
    again.require_model(random_tiny)


def test_answers_are_those_of_an_embedding_that_is_not_kept(
    random_tiny: Segmenter, picture: Path, tmp_path: Path
) -> None:
    predictor = Predictor(random_tiny)
    answers = []
    for folder in (None, tmp_path / "kept"):
        predictor.set_image(cached_embedding(random_tiny, picture, folder))
        answers.append(predictor.predict(points=[[40, 35]]))
    assert not list(tmp_path.glob("*.safetensors"))
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=1e-2)
    assert (answers[0].masks != answers[1].masks).mean() < 1e-2


def test_a_broken_file_is_made_anew(random_tiny: Segmenter, picture: Path, tmp_path: Path) -> None:
    fresh = cached_embedding(random_tiny, picture, tmp_path)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(maps(cached_embedding(random_tiny, picture, tmp_path))[0], maps(fresh)[0])
    ImageEmbedding.load(file)


def test_another_picture_model_or_input_size_has_its_own(
    random_tiny: Segmenter, picture: Path, tmp_path: Path, photo: tuple[np.ndarray, np.ndarray]
) -> None:
    from dataclasses import replace

    fresh = cached_embedding(random_tiny, picture, tmp_path)
    Image.fromarray(photo[0][:, ::-1]).save(picture)  # under the same name
    assert not torch.equal(maps(cached_embedding(random_tiny, picture, tmp_path))[0], maps(fresh)[0])
    spec = random_tiny.input_spec
    try:
        random_tiny.input_spec = replace(spec, longest_side=128)
        assert cached_embedding(random_tiny, picture, tmp_path).frame.padded_hw == (96, 128)
    finally:
        random_tiny.input_spec = spec
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2


def test_the_least_recently_used_go_first(random_tiny: Segmenter, tmp_path: Path, rng: np.random.Generator) -> None:
    pictures = [tmp_path / f"{index}.png" for index in range(4)]
    for path in pictures:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    kept = tmp_path / "kept"
    cached_embedding(random_tiny, pictures[0], kept)
    (first,) = kept.glob("*/*.safetensors")
    bound = 3 * first.stat().st_size
    for path in pictures[1:3]:
        cached_embedding(random_tiny, path, kept, bound)
    for age, path in enumerate(sorted(kept.glob("*/*.safetensors"))):
        os.utime(path, (1000 + age, 1000 + age))
    oldest = min(kept.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime)
    second_oldest = sorted(kept.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime)[1]
    os.utime(oldest)  # used just now
    cached_embedding(random_tiny, pictures[3], kept, bound)
    left = set(kept.glob("*/*.safetensors"))
    assert len(left) == 3
    assert oldest in left
    assert second_oldest not in left


def test_whoever_is_judged_sees_the_image(random_tiny: Segmenter, picture: Path, tmp_path: Path) -> None:
    predictor, baseline = Predictor(random_tiny), RegionBaseline()
    show_image(predictor, picture, tmp_path / "kept")
    assert predictor.embedding is not None
    assert predictor.embedding.frame.original_hw == (120, 160)
    assert len(list((tmp_path / "kept").glob("*/*"))) == 1
    show_image(baseline, picture, tmp_path / "kept")
    assert baseline._label_maps[0].shape == (120, 160)
    with pytest.raises(ImageError, match=r"none\.png"):
        cached_embedding(random_tiny, tmp_path / "none.png", tmp_path)
