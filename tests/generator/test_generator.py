"""Automatic masks, against a slow generator that makes every mask at full size and filters afterwards."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from blobs import SETTINGS

import anymask
from anymask.errors import AnymaskError, EmbeddingError, PromptError
from anymask.generator.candidates import batch_size
from anymask.geometry.boxes import box_iou_matrix, masks_to_boxes_xyxy
from anymask.geometry.resize import logits_to_original
from anymask.geometry.rle import decode_rle
from anymask.model.segmenter import GeneratorDefaults, PromptBatch

HEIGHT, WIDTH = 120, 160  # of the `photo` fixture


def slow_crops(size_hw, layers, overlap_ratio):
    height, width = size_hw
    crops = [(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        long_x = int(np.ceil((overlap * (count - 1) + width) / count))
        long_y = int(np.ceil((overlap * (count - 1) + height) / count))
        for row in range(count):
            for column in range(count):
                x, y = column * (long_x - overlap), row * (long_y - overlap)
                crops.append((layer, (x, y, min(x + long_x, width), min(y + long_y, height))))
    return crops


def slow_nms(found, order, threshold):
    """The masks that stay, in their old order; `order` says which are better."""
    kept = []
    for index in sorted(range(len(found)), key=lambda index: (*order(found[index]), index)):
        box = masks_to_boxes_xyxy(found[index]["mask"][None])
        if all(
            box_iou_matrix(box, masks_to_boxes_xyxy(found[other]["mask"][None]))[0, 0] <= threshold for other in kept
        ):
            kept.append(index)
    return [found[index] for index in sorted(kept)]


def slow_cleaning(mask, min_area):
    for value in (False, True):
        count, regions, statistics, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), None, 8)
        areas = {label: statistics[label, cv2.CC_STAT_AREA] for label in range(1, count)}
        small = [label for label, area in areas.items() if area < min_area]
        if value and small and len(small) == len(areas):
            small.remove(max(areas, key=lambda label: areas[label]))
        mask = np.where(np.isin(regions, small), not value, mask)
    return mask


def slow_generate(model, image, settings, roi=None):
    """The paper's pipeline with all masks of a crop at full size; dictionaries, best first."""
    size_hw = image.shape[:2]
    roi = np.ones(size_hw, bool) if roi is None else roi
    everything = []
    for layer, (x0, y0, x1, y1) in slow_crops(size_hw, settings.crop_n_layers, settings.crop_overlap_ratio):
        side = settings.points_per_side // settings.crop_n_points_downscale_factor**layer
        embedding = anymask.encode(model, np.ascontiguousarray(image[y0:y1, x0:x1]))
        found = []
        for row in range(side):
            for column in range(side):
                point = ((column + 0.5) / side * (x1 - x0) + x0, (row + 0.5) / side * (y1 - y0) + y0)
                if roi[int(point[1]), int(point[0])]:
                    for mask in slow_masks(model, embedding, point, (x0, y0, x1, y1), size_hw, settings, roi):
                        found.append({**mask, "layer": layer})
        everything += slow_nms(found, lambda one: (-one["iou"],), settings.box_nms_thresh)
    if settings.crop_n_layers:
        everything = slow_nms(everything, lambda one: (-one["layer"], -one["iou"]), settings.crop_nms_thresh)
    for one in everything:
        cleaned = slow_cleaning(one["mask"], settings.min_mask_region_area) & roi
        one["changed"] = not np.array_equal(cleaned, one["mask"])
        one["mask"] = cleaned
    everything = [one for one in everything if wanted_area(one["mask"], settings)]
    threshold = max(settings.box_nms_thresh, settings.crop_nms_thresh)
    everything = slow_nms(everything, lambda one: (one["changed"],), threshold)
    return sorted(everything, key=lambda one: -one["iou"])[: settings.max_masks]


def wanted_area(mask, settings):
    high = np.inf if settings.max_area is None else settings.max_area
    return mask.any() and mask.mean() < settings.max_coverage and settings.min_area <= mask.sum() <= high


def slow_masks(model, embedding, point, crop_box, size_hw, settings, roi):
    """The masks of one point that pass: at most three."""
    x0, y0, x1, y1 = crop_box
    click = embedding.frame.points_to_model(np.array([[point[0] - x0, point[1] - y0]]))
    prompts = PromptBatch(torch.from_numpy(np.stack([click, 0 * click], axis=1)), torch.tensor([[1, -1]]))
    with torch.inference_mode():
        logits, ious = model.decode(embedding.features, prompts)
    for output in (1, 2, 3):
        iou = float(ious[0, output])
        full = logits_to_original(logits[0, output : output + 1].numpy(), embedding.frame)[0]
        offset = settings.stability_score_offset
        possible = (full > -offset).sum()
        stability = (full > offset).sum() / max(possible, 1)
        mask = np.zeros(size_hw, dtype=bool)
        mask[y0:y1, x0:x1] = full > 0
        if not (iou >= settings.pred_iou_thresh and stability >= settings.stability_score_thresh):
            continue
        if mask.sum() >= settings.max_coverage * mask.size:
            continue
        mask &= roi
        if not wanted_area(mask, settings) or is_cut_off(mask, crop_box, settings.crop_edge_tolerance):
            continue
        yield {"mask": mask, "iou": iou, "stability": stability, "point": point, "crop": crop_box}


def is_cut_off(mask, crop_box, tolerance):
    height, width = mask.shape
    box = masks_to_boxes_xyxy(mask[None])[0]
    is_near = np.abs(box - crop_box) <= tolerance
    is_at_image_edge = np.abs(box - [0, 0, width, height]) <= tolerance
    return bool((is_near & ~is_at_image_edge).any())


def assert_same(records, expected):
    assert len(records) == len(expected)
    assert [record.id for record in records] == list(range(1, len(records) + 1))
    for record, one in zip(records, expected, strict=True):
        assert record.predicted_iou == pytest.approx(one["iou"], abs=1e-4)
        assert record.stability_score == pytest.approx(one["stability"], abs=1e-2)
        np.testing.assert_allclose(record.point_coords, [one["point"]])
        x, y, width, height = record.crop_box_xywh
        assert (x, y, x + width, y + height) == one["crop"]
        # Both round in single precision, in another order: a logit of zero may fall on either side.
        assert (record.mask != one["mask"]).sum() <= 2
        assert record.area == pytest.approx(one["mask"].sum(), abs=2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pred_iou_thresh": 0.6},
        {"stability_score_thresh": 0.8},
        {"max_coverage": 0.4},
        {"min_mask_region_area": 0},
        {"box_nms_thresh": 0.3},
        {"min_area": 800, "max_area": 9000},
        {"max_masks": 4},
        {"crop_n_layers": 1, "crop_edge_tolerance": 3.0},
        {"crop_n_layers": 2, "crop_edge_tolerance": 3.0, "points_per_side": 8},
    ],
    ids=str,
)
def test_the_masks_are_those_of_the_slow_way(blob_model, photo, changes):
    generator = anymask.MaskGenerator(blob_model, **{**SETTINGS, **changes})
    expected = slow_generate(blob_model, photo.image, generator)
    records = generator.generate(photo.image)
    assert_same(records, expected)
    assert len(records) >= 3
    if "max_masks" in changes:
        assert len(records) == 4
    if "crop_n_layers" in changes:
        assert len({record.crop_box_xywh for record in records}) > 1


def test_a_real_decoder_is_asked_as_the_slow_way_asks_it(random_tiny, photo):
    """Random weights answer noise all over the image: with no filter in its way, all of it comes out."""
    settings = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "max_coverage": 1.0, "box_nms_thresh": 1.0}
    generator = anymask.MaskGenerator(random_tiny, 3, **settings, min_mask_region_area=0)
    records = generator.generate(photo.image)
    assert_same(records, slow_generate(random_tiny, photo.image, generator))
    assert len(records) >= 9


def test_every_filter_takes_something_away(blob_model, photo):
    """Else the comparison with the slow way would show nothing of them."""
    free = {
        **SETTINGS,
        "stability_score_thresh": 0.0,
        "max_coverage": 1.0,
        "min_mask_region_area": 0,
        "box_nms_thresh": 1.0,
    }
    free |= {"crop_nms_thresh": 1.0, "crop_n_layers": 1, "crop_edge_tolerance": 0.0, "points_per_side": 4}

    def count(**changes):
        generator = anymask.MaskGenerator(blob_model, **{**free, **changes}, has_hierarchy=False)
        return len(generator.generate(photo.image))

    everything = count()
    assert everything > 50
    for changes in (
        {"pred_iou_thresh": 0.5},
        {"stability_score_thresh": 0.5},
        {"max_coverage": 0.4},
        {"box_nms_thresh": 0.7},
        {"crop_nms_thresh": 0.7},
        {"crop_edge_tolerance": 20.0},
        {"min_area": 1000},
        {"max_area": 1000},
    ):
        assert 0 < count(**changes) < everything, changes


def test_small_islands_and_holes_are_gone(blob_model, photo):
    settings = {**SETTINGS, "has_hierarchy": False}
    for min_area, is_clean in ((0, False), (100, True)):
        records = anymask.MaskGenerator(blob_model, **settings, min_mask_region_area=min_area).generate(photo.image)
        untouched = [np.array_equal(slow_cleaning(record.mask, 100), record.mask) for record in records]
        assert all(untouched) == is_clean
        assert len(untouched) > 3


def test_masks_stay_inside_the_region_of_interest(blob_model, photo):
    roi = photo.masks_khw[0] | photo.masks_khw[3]
    generator = anymask.MaskGenerator(blob_model, **{**SETTINGS, "points_per_side": 10})
    records = generator.generate(photo.image, roi=roi)
    assert len(records) >= 2
    for record in records:
        assert not (record.mask & ~roi).any()
        (x, y) = record.point_coords[0]
        assert roi[int(y), int(x)]
    assert_same(records, slow_generate(blob_model, photo.image, generator, roi))
    as_picture = generator.generate(photo.image, roi=roi.astype(np.uint8) * 255)
    assert as_picture == records


def test_the_whole_image_as_region_changes_nothing(blob_model, photo):
    generator = anymask.MaskGenerator(blob_model, **SETTINGS)
    everywhere = np.ones((HEIGHT, WIDTH), dtype=bool)
    assert generator.generate(photo.image, roi=everywhere) == generator.generate(photo.image)


def test_a_region_between_the_points_is_asked_about_at_its_centre(blob_model, photo):
    roi = np.zeros((HEIGHT, WIDTH), dtype=bool)
    roi[61:66, 50:61] = True
    settings = {**SETTINGS, "points_per_side": 2, "stability_score_thresh": 0.0, "min_mask_region_area": 0}
    totals = []
    anymask.MaskGenerator(blob_model, **settings).generate(photo.image, roi, lambda *done: totals.append(done))
    assert totals == [(1, 1)]


@pytest.mark.parametrize(("roi", "words"), [(np.zeros((120, 160)), "empty"), (np.ones((160, 120)), "shape")])
def test_a_useless_region_is_named(blob_model, photo, roi, words):
    with pytest.raises(PromptError, match=f"roi .*{words}"):
        anymask.MaskGenerator(blob_model, **SETTINGS).generate(photo.image, roi=roi)


def test_answers_are_the_same_again_and_whatever_the_batch(blob_model, photo):
    generator = anymask.MaskGenerator(blob_model, **SETTINGS)
    first = generator.generate(photo.image)
    assert generator.generate(photo.image) == first
    other = anymask.MaskGenerator(blob_model, **SETTINGS, points_per_batch=7).generate(photo.image)
    assert len(other) == len(first)
    for one, two in zip(first, other, strict=True):
        assert (one.mask != two.mask).sum() <= 2


def test_records_are_sorted_and_say_whose_part_they_are(blob_model, photo):
    records = anymask.MaskGenerator(blob_model, **SETTINGS).generate(photo.image)
    scores = [record.predicted_iou for record in records]
    assert scores == sorted(scores, reverse=True)
    by_id = {record.id: record for record in records}
    parts = [record for record in records if record.parent_id is not None]
    assert parts
    for part in parts:
        inside = (part.mask & by_id[part.parent_id].mask).sum() / part.area
        assert inside >= 0.9
    flat = anymask.MaskGenerator(blob_model, **SETTINGS, has_hierarchy=False).generate(photo.image)
    assert flat == [replace(record, parent_id=None) for record in records]


def test_a_record_is_what_an_sa1b_file_holds(blob_model, photo):
    record = anymask.MaskGenerator(blob_model, **SETTINGS).generate(photo.image)[0]
    entry = json.loads(json.dumps(record.to_sa1b()))
    keys = {"id", "segmentation", "area", "bbox", "predicted_iou", "stability_score", "crop_box", "point_coords"}
    assert keys <= set(entry)
    mask = decode_rle(entry["segmentation"])
    assert mask.sum() == entry["area"]
    x, y, width, height = entry["bbox"]
    np.testing.assert_array_equal(masks_to_boxes_xyxy(mask[None])[0], [x, y, x + width, y + height])
    assert entry["crop_box"] == [0, 0, WIDTH, HEIGHT]


def test_progress_counts_every_point_of_every_crop(blob_model, photo):
    calls = []
    settings = {**SETTINGS, "points_per_side": 4, "points_per_batch": 3, "crop_n_layers": 1}
    generator = anymask.MaskGenerator(blob_model, **settings)
    generator.generate(photo.image, progress=lambda done, total: calls.append((done, total)))
    total = 4 * 4 + 4 * 2 * 2
    assert [done for done, _ in calls[:6]] == [3, 6, 9, 12, 15, 16]
    assert calls[-1] == (total, total)
    assert {of for _, of in calls} == {total}


def test_an_embedding_will_do(blob_model, photo, tmp_path):
    generator = anymask.MaskGenerator(blob_model, **SETTINGS)
    embedding = anymask.encode(blob_model, photo.image)
    records = generator.generate(photo.image)
    assert generator.generate(embedding) == records
    embedding.save(tmp_path / "photo.embedding")
    loaded = anymask.ImageEmbedding.load(tmp_path / "photo.embedding")
    assert generator.generate(loaded) == records
    with pytest.raises(AnymaskError, match=r"crop_n_layers is 1.*without a picture"):
        anymask.MaskGenerator(blob_model, **SETTINGS, crop_n_layers=1).generate(loaded)
    with pytest.raises(EmbeddingError):
        generator.generate(replace(embedding, fingerprint="another"))


def test_own_points_take_the_place_of_the_grid(blob_model, photo):
    centres = [[0.25, 0.29], [0.72, 0.33]]
    generator = anymask.MaskGenerator(blob_model, **SETTINGS, point_grids=[centres])
    calls = []
    records = generator.generate(photo.image, progress=lambda *done: calls.append(done))
    assert calls == [(2, 2)]
    allowed = [[x * WIDTH, y * HEIGHT] for x, y in centres]
    assert all(record.point_coords[0] in allowed for record in records)
    grid = (np.arange(8) + 0.5) / 8
    same = [[x, y] for y in grid for x in grid]
    assert anymask.MaskGenerator(blob_model, **SETTINGS, point_grids=[same]).generate(
        photo.image
    ) == anymask.MaskGenerator(blob_model, **SETTINGS).generate(photo.image)


def test_thresholds_are_the_models_own_unless_given(blob_model, photo, monkeypatch):
    monkeypatch.setattr(blob_model, "generator_defaults", GeneratorDefaults(0.6, 0.5, 0.3))
    left_out = {**SETTINGS, "pred_iou_thresh": None, "stability_score_thresh": None, "box_nms_thresh": None}
    told = {**SETTINGS, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.5, "box_nms_thresh": 0.3}
    records = anymask.MaskGenerator(blob_model, **left_out).generate(photo.image)
    assert records == anymask.MaskGenerator(blob_model, **told).generate(photo.image)
    assert len(records) > 0
    monkeypatch.setattr(blob_model, "generator_defaults", GeneratorDefaults(2.0, 0.5))
    assert anymask.MaskGenerator(blob_model, **left_out).generate(photo.image) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"points_per_side": 0},
        {"points_per_batch": 0},
        {"pred_iou_thresh": 88},
        {"stability_score_thresh": -0.1},
        {"crop_n_layers": -1},
        {"crop_overlap_ratio": 1.0},
        {"max_masks": 0},
        {"memory_mb": 0},
        {"min_area": 10, "max_area": 9},
        {"point_grids": [[[0.5, 1.0]]]},
        {"point_grids": [[[0.5, 0.5]], [[0.5, 0.5]]]},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named(blob_model, settings):
    with pytest.raises(AnymaskError, match=next(iter(settings))):
        anymask.MaskGenerator(blob_model, **settings)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (33, 7), (3, 900)])
def test_strange_sizes_have_their_masks(blob_model, size_hw, rng):
    image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    settings = {
        **SETTINGS,
        "points_per_side": 4,
        "crop_n_layers": 2,
        "max_coverage": 1.0,
        "stability_score_thresh": 0.0,
    }
    for record in anymask.MaskGenerator(blob_model, **settings).generate(image):
        assert record.size_hw == size_hw
        assert record.mask.sum() == record.area > 0


def test_memory_bounds_the_batch(blob_model, photo):
    embedding = anymask.encode(blob_model, photo.image)
    sizes = [batch_size(blob_model, embedding, 1000, memory) for memory in (1e-6, 8, 64, 1e9)]
    assert sizes[0] == 1
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == 1000
    assert batch_size(blob_model, embedding, 5, 1e9) == 5


def test_memory_does_not_grow_with_masks_times_pixels(blob_model, photo):
    """Nine times as many masks in flight need little more than their codes; nothing holds all at full size."""
    embedding = anymask.encode(blob_model, cv2.resize(photo.image, (1000, 750)))
    settings = {**SETTINGS, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "has_hierarchy": False}
    few, many = (anymask.MaskGenerator(blob_model, **{**settings, "points_per_side": side}) for side in (4, 12))
    few.generate(embedding)  # fills the caches of interpolation matrices
    few_bytes, many_bytes = (peak_numpy_bytes(lambda one=one: one.generate(embedding)) for one in (few, many))
    full_size_bytes = 3 * 12 * 12 * 1000 * 750
    assert many_bytes - few_bytes < 0.03 * full_size_bytes
    assert many_bytes < 0.06 * full_size_bytes


def peak_numpy_bytes(work):
    """The most that arrays held at one time during the work; numpy tells tracemalloc of every one."""
    import tracemalloc

    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_threads_change_nothing(blob_model, photo):
    generator = anymask.MaskGenerator(blob_model, **SETTINGS, points_per_batch=5)
    embedding = anymask.encode(blob_model, photo.image)  # whose last digits depend on torch's own threads
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            calls = []
            answers.append(generator.generate(embedding, progress=lambda *call, calls=calls: calls.append(call)))
            assert torch.get_num_threads() == threads
            assert calls == [(min(64, 5 * batch), 64) for batch in range(1, 14)]
    finally:
        torch.set_num_threads(before)
    assert answers[0] == answers[1]
    assert len(answers[0]) > 3


def test_who_watches_may_stop_the_work(blob_model, photo):
    def stop(done, total):
        raise InterruptedError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InterruptedError):
            anymask.MaskGenerator(blob_model, **SETTINGS, points_per_batch=1).generate(photo.image, progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
