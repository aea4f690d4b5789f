"""Resizing of images, points and boxes: Meta's numbers."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from anymask.compat.segment_anything.utils.transforms import ResizeLongestSide

SIZES = [(75, 100), (100, 75), (64, 64), (333, 10), (1, 700), (1199, 801)]


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("target", [64, 100, 513])
def test_arrays_are_metas(meta_package: ModuleType, size_hw: tuple[int, int], target: int) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide as Meta

    ours, metas = ResizeLongestSide(target), Meta(target)
    assert ours.target_length == target
    if min(metas.get_preprocess_shape(*size_hw, target)) == 0:
        assert min(ours.get_preprocess_shape(*size_hw, target)) == 1
        return
    assert ours.get_preprocess_shape(*size_hw, target) == metas.get_preprocess_shape(*size_hw, target)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    resized = ours.apply_image(image)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, metas.apply_image(image))
    for points in (rng.uniform(0, 90, (4, 2)), rng.integers(0, 90, (2, 3, 2))):
        before = points.copy()
        scaled = ours.apply_coords(points, size_hw)
        assert scaled.dtype == np.float64
        assert np.array_equal(scaled, metas.apply_coords(points, size_hw))
        assert np.array_equal(points, before)
    boxes = rng.uniform(0, 90, (5, 4))
    assert np.array_equal(ours.apply_boxes(boxes, size_hw), metas.apply_boxes(boxes, size_hw))
    assert np.array_equal(ours.apply_boxes(boxes[0], size_hw), metas.apply_boxes(boxes[0], size_hw))


@pytest.mark.parametrize("size_hw", SIZES)
def test_tensors_are_metas(meta_package: ModuleType, size_hw: tuple[int, int]) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide as Meta

    ours, metas = ResizeLongestSide(1024), Meta(1024)
    points = torch.randint(0, 90, (3, 4, 2))
    boxes = 90 * torch.rand(3, 4, dtype=torch.float64)
    for name, given in (("apply_coords_torch", points), ("apply_boxes_torch", boxes)):
        actual, expected = getattr(ours, name)(given, size_hw), getattr(metas, name)(given, size_hw)
        assert actual.dtype == expected.dtype == torch.float32
        assert torch.allclose(actual, expected, rtol=1e-6)


def test_grey_images() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert ResizeLongestSide(8).apply_image(image).shape == (6, 8)
    assert ResizeLongestSide(8).apply_image(image[..., None]).shape == (6, 8)


@pytest.mark.parametrize("size_hw", [(75, 100), (100, 75)])
def test_torch_images_keep_their_shape(size_hw: tuple[int, int]) -> None:
    """The last two axes are resized, close to what `apply_image` gives."""
    smooth = np.add.outer(np.arange(size_hw[0]), np.arange(size_hw[1])) * 1.4
    image = np.repeat(smooth[..., None], 3, axis=2).astype(np.uint8)
    transform = ResizeLongestSide(64)
    resized = transform.apply_image_torch(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    expected = transform.apply_image(image)
    assert resized.shape == (1, 3, *expected.shape[:2])
    assert np.abs(resized[0].permute(1, 2, 0).numpy() - expected).max() < 2
