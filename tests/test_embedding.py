from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import anymask
from anymask.embedding import ImageEmbedding
from anymask.errors import EmbeddingError, ImageError
from anymask.geometry.resize import Frame
from anymask.predictor import Predictor

PROMPT = {"points": [[40, 35]], "multimask": True}


def answer(model, embedding):
    predictor = Predictor(model)
    predictor.set_image(embedding)
    return predictor.predict(**PROMPT)


def saved_file(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_one_image_one_embedding(random_tiny, photo):
    embedding = anymask.encode(random_tiny, photo.image)
    assert isinstance(embedding, ImageEmbedding)
    assert embedding.frame == Frame((120, 160), (192, 256), (192, 256))
    assert embedding.features.embedding.shape == (1, 192, 12, 16)
    np.testing.assert_array_equal(embedding.image_hwc, photo.image)
    direct = Predictor(random_tiny)
    direct.set_image(photo.image)
    np.testing.assert_array_equal(answer(random_tiny, embedding).logits, direct.predict(**PROMPT).logits)


def test_many_images_are_what_each_is_alone(random_tiny, photo, tmp_path):
    """Of several shapes, more of one shape than fit a batch, and of several kinds."""
    Image.fromarray(photo.image[::-1]).save(tmp_path / "image.png")
    images = [
        photo.image,
        photo.image[:50],
        Image.fromarray(photo.image[:, ::-1]),
        photo.image[:, :50],
        tmp_path / "image.png",
        *(np.roll(photo.image, shift, axis=1) for shift in (10, 20, 30)),
        photo.image[:49, :150, 0],
    ]
    together = anymask.encode(random_tiny, images)
    assert len(together) == len(images)
    for image, embedding in zip(images, together, strict=True):
        alone = anymask.encode(random_tiny, image)
        assert embedding.frame == alone.frame
        assert embedding.fingerprint == alone.fingerprint
        np.testing.assert_array_equal(embedding.image_hwc, alone.image_hwc)
        maps = (embedding.features.embedding, *embedding.features.skips)
        for ours, expected in zip(maps, (alone.features.embedding, *alone.features.skips), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    embeddings = torch.stack([e.features.embedding for e in together if e.frame.original_hw == (120, 160)])
    assert len(embeddings) == 6
    assert (torch.cdist(embeddings.flatten(1), embeddings.flatten(1)) > 1).sum() == 30  # none is another's


def test_no_images_no_embeddings(random_tiny):
    assert anymask.encode(random_tiny, []) == []


def test_what_is_no_image_is_named(random_tiny, photo, tmp_path):
    with pytest.raises(ImageError, match=r"missing\.png"):
        anymask.encode(random_tiny, [photo.image, tmp_path / "missing.png"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_answers_the_same(random_tiny, photo, tmp_path, dtype):
    model = deepcopy(random_tiny).to(dtype)
    embedding = anymask.encode(model, photo.image[:101])
    path = tmp_path / "image.embedding"
    embedding.save(path)
    embedding.save(path)  # over itself
    assert [file.name for file in tmp_path.iterdir()] == ["image.embedding"]
    loaded = ImageEmbedding.load(path)
    assert loaded.frame == embedding.frame
    assert loaded.fingerprint == embedding.fingerprint
    assert loaded.image_hwc is None
    assert loaded.features.embedding.dtype == dtype
    ours, expected = answer(model, loaded), answer(model, embedding)
    np.testing.assert_array_equal(ours.masks, expected.masks)
    np.testing.assert_array_equal(ours.logits, expected.logits)
    np.testing.assert_array_equal(ours.scores, expected.scores)


def test_one_changed_weight_and_it_is_refused(random_tiny, photo):
    embedding = anymask.encode(random_tiny, photo.image)
    other = deepcopy(random_tiny)
    with torch.no_grad():
        other.image_encoder.stem.bias[3] += 1e-3
    with pytest.raises(EmbeddingError, match=embedding.fingerprint) as caught:
        Predictor(other).set_image(embedding)
    assert "tiny" in str(caught.value)
    answer(deepcopy(random_tiny), embedding)  # a copy is the same model


@pytest.fixture
def good_file(random_tiny, photo, tmp_path):
    path = tmp_path / "good"
    anymask.encode(random_tiny, photo.image).save(path)
    return path


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file(good_file, kept):
    content = good_file.read_bytes()
    good_file.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(EmbeddingError, match=str(good_file)):
        ImageEmbedding.load(good_file)


def test_files_that_are_something_else(tmp_path):
    other = tmp_path / "weights.safetensors"
    save_file({"embedding": torch.zeros(1)}, other)
    (tmp_path / "text").write_text("hello " * 100)
    for path in (other, tmp_path / "text", tmp_path / "missing", tmp_path):
        with pytest.raises(EmbeddingError, match=str(path)):
            ImageEmbedding.load(path)


SIZES = ("original_hw", "resized_hw", "padded_hw")
BROKEN = [
    ("fingerprint", None),
    *((name, text) for name in SIZES for text in (None, "", "12", "a,b", "1,2,3")),
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_broken_metadata(good_file, name, value):
    tensors, metadata = saved_file(good_file)
    del metadata[name]
    save_file(tensors, good_file, metadata | ({} if value is None else {name: value}))
    with pytest.raises(EmbeddingError, match=str(good_file)):
        ImageEmbedding.load(good_file)


@pytest.mark.parametrize("name", ["embedding", "skip_0"])
def test_a_missing_tensor(good_file, name):
    tensors, metadata = saved_file(good_file)
    del tensors[name]
    save_file(tensors, good_file, metadata)
    with pytest.raises(EmbeddingError, match=str(good_file)):
        ImageEmbedding.load(good_file)
