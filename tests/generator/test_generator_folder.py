"""Everything in a folder: names, files, going on after a kill, and what must not spoil a long run."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from blobs import SETTINGS
from PIL import Image

from anymask.data.formats import FORMATS, read_dataset
from anymask.data.validation import validate_dataset
from anymask.errors import AnymaskError, DataError, ImageError
from anymask.generator import MaskGenerator
from anymask.generator.finders import Everything, Job
from anymask.generator.folder import FolderRun, OutputError, Session, find_jobs, work_in_turn
from anymask.model.segmenter import GeneratorDefaults

OPTIONS = {**SETTINGS, "points_per_side": 5}
PICTURES = ("a.png", "b.png", "deeper/c.png")


@pytest.fixture
def source(tmp_path, photo):
    """A folder of three different pictures, one of them in a folder inside."""
    folder = tmp_path / "photos"
    for index, name in enumerate(PICTURES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(photo.image[:, : 160 - 10 * index], 40 * index, axis=1)).save(path)
    return folder


@pytest.fixture
def run(tmp_path):
    return FolderRun(tmp_path / "out", Everything(OPTIONS))


def work(run, model, jobs, **prepare):
    """The outcomes of what is not done yet."""
    run.prepare(model, jobs, **prepare)
    outcomes = list(work_in_turn(run, model, [job for job in jobs if not run.is_done(job)]))
    run.finish(jobs)
    return outcomes


def test_jobs_are_the_images_with_their_places(source, tmp_path):
    out = tmp_path / "out"
    assert [job.name for job in find_jobs([source], True, out)] == list(PICTURES)
    assert [job.name for job in find_jobs([source], False, out)] == ["a.png", "b.png"]
    single = find_jobs([source / "b.png", source / "deeper", source / "b.png"], False, out)
    assert [job.name for job in single] == ["b.png", "c.png"]
    (tmp_path / "more").mkdir()
    (source / "a.png").rename(tmp_path / "more" / "b.png")
    both = find_jobs([source, tmp_path / "more"], False, out)
    assert [job.name for job in both] == ["photos/b.png", "more/b.png"]


def test_results_inside_the_source_are_no_images(source):
    out = source / "out"
    out.mkdir()
    (source / "a.png").rename(out / "a.png")
    assert [job.name for job in find_jobs([source], True, out)] == ["b.png", "deeper/c.png"]


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images there"):
        find_jobs([tmp_path], True, tmp_path / "out")
    with pytest.raises(ImageError, match="nowhere"):
        find_jobs([tmp_path / "nowhere"], True, tmp_path / "out")


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_holds_what_the_generator_finds(blob_model, source, run, format_name):
    run = replace(run, format_name=format_name, overlay=True)
    jobs = find_jobs([source], True, run.out)
    outcomes = work(run, blob_model, jobs)
    generator = MaskGenerator(blob_model, **OPTIONS)
    expected = {job.name: generator.generate(job.path) for job in jobs}
    assert [(outcome.job.name, outcome.masks) for outcome in outcomes] == [
        (name, len(records)) for name, records in expected.items()
    ]
    folders = [run.out, run.out / "deeper"] if format_name in ("sa1b", "png", "labelme") else [run.out]
    assert all(validate_dataset(folder, format_name).problems == [] for folder in folders)
    read = [image for folder in folders for image in read_dataset(folder, format_name)]
    assert [image.image_path.name for image in read] == ["a.png", "b.png", "c.png"]
    for image, (name, records) in zip(read, expected.items(), strict=True):
        assert len(records) > 1
        assert len(image.records) == len(records)
        if format_name in ("sa1b", "coco", "png"):
            for found, record in zip(image.records, records, strict=True):
                assert (found.segmentation, found.predicted_iou) == (record.segmentation, record.predicted_iou)
        overlay = np.asarray(Image.open((run.out / "overlays" / name).with_suffix(".jpg")))
        assert overlay.shape[:2] == image.size_hw


def test_a_run_goes_on_where_it_was_broken_off(blob_model, source, run):
    jobs = find_jobs([source], True, run.out)
    run.prepare(blob_model, jobs)
    first = next(work_in_turn(run, blob_model, jobs))
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob("*.json") if ".everything" not in path.parts}
    assert list(before) == [run.annotation_path(first.job)]
    again = work(run, blob_model, jobs)
    assert [outcome.job.name for outcome in again] == list(PICTURES[1:])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert work(run, blob_model, jobs) == []
    whole = replace(run, out=run.out.with_name("in one go"))
    work(whole, blob_model, jobs)
    for job in jobs:
        assert run.annotation_path(job).read_bytes() == whole.annotation_path(job).read_bytes()


@pytest.mark.parametrize("format_name", FORMATS)
def test_broken_off_while_writing_is_not_done(blob_model, source, run, format_name, monkeypatch):
    """Whatever file the kill falls on: the image counts as done only if everything of it is there."""
    import anymask.data.sa1b as files

    run = replace(run, format_name=format_name, overlay=True)
    jobs = find_jobs([source / "a.png"], False, run.out)
    replaced = files.os.replace
    finished = None
    for kill_at in range(60):
        left = [kill_at]

        def counted(*paths, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            replaced(*paths)

        fresh = replace(run, out=run.out / str(kill_at))
        fresh.prepare(blob_model, jobs)
        monkeypatch.setattr(files.os, "replace", counted)
        try:
            list(work_in_turn(fresh, blob_model, jobs))
            finished = kill_at
        except KeyboardInterrupt:
            assert not fresh.is_done(jobs[0]) or format_name == "yolo"  # whose list of classes comes after
        finally:
            monkeypatch.setattr(files.os, "replace", replaced)
        assert not list(fresh.out.rglob("*.tmp"))
        if finished is not None:
            break
        work(fresh, blob_model, jobs)
        assert validate_dataset(fresh.out, format_name).problems == []
    assert finished is not None
    assert finished >= 2


def test_a_bad_image_is_skipped_and_told_of(blob_model, source, run):
    (source / "b.png").write_bytes(b"no picture")
    jobs = find_jobs([source], True, run.out)
    outcomes = work(run, blob_model, jobs)
    assert [bool(outcome.reason) for outcome in outcomes] == [False, True, False]
    assert "b.png" in outcomes[1].reason
    assert not run.is_done(jobs[1])
    assert [outcome.job.name for outcome in work(run, blob_model, jobs)] == ["b.png"]


def test_a_fault_in_one_image_is_told_and_the_others_are_done(blob_model, source, run, monkeypatch):
    generate = MaskGenerator.generate

    def faulty(self, pixels, *rest):
        if pixels.shape[1] == 150:
            raise ZeroDivisionError("by zero")
        return generate(self, pixels, *rest)

    monkeypatch.setattr(MaskGenerator, "generate", faulty)
    outcomes = work(run, blob_model, find_jobs([source], True, run.out))
    assert [outcome.reason is None for outcome in outcomes] == [True, False, True]
    assert "ZeroDivisionError in test_generator_folder.py" in outcomes[1].reason


def test_a_full_disk_ends_the_run(blob_model, source, run, monkeypatch):
    jobs = find_jobs([source], True, run.out)
    run.prepare(blob_model, jobs)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anymask.generator.folder.write_dataset", full)
    with pytest.raises(OutputError, match=r"out: cannot be written .*No space left"):
        list(work_in_turn(run, blob_model, jobs))


def test_other_settings_do_not_mix(blob_model, source, run, monkeypatch):
    jobs = find_jobs([source], True, run.out)
    work(run, blob_model, jobs)
    other = replace(run, finder=Everything({**OPTIONS, "max_masks": 1}))
    with pytest.raises(DataError, match="max_masks was None, now is 1"):
        other.prepare(blob_model, jobs)
    with pytest.raises(DataError, match="format was 'sa1b', now is 'labelme'"):
        replace(run, format_name="labelme").prepare(blob_model, jobs)
    run_with_less = replace(run, finder=Everything({**OPTIONS, "memory_mb": 100, "points_per_batch": 3}))
    assert work(run_with_less, blob_model, jobs) == []
    monkeypatch.setattr(blob_model, "generator_defaults", GeneratorDefaults(0.5, 0.5))
    assert work(run, blob_model, jobs) == []  # the options say both thresholds
    changed = work(other, blob_model, jobs, overwrite=True)
    assert [outcome.masks for outcome in changed] == [1, 1, 1]


def test_files_from_elsewhere_are_left_alone(blob_model, source, run):
    run.out.mkdir()
    (run.out / "a.json").write_text("{}")
    jobs = find_jobs([source], True, run.out)
    with pytest.raises(DataError, match=r"a\.json: is not from a run like this"):
        run.prepare(blob_model, jobs)
    assert (run.out / "a.json").read_text() == "{}"


def test_results_do_not_lie_among_the_sources(blob_model, source, run):
    jobs = find_jobs([source], True, source / "deeper")
    with pytest.raises(DataError, match=r"holds a\.png itself"):
        replace(run, out=source).prepare(blob_model, jobs)


def test_two_images_of_one_result_are_named(blob_model, source, run):
    (source / "deeper" / "c.png").rename(source / "a.jpg")
    jobs = find_jobs([source], True, run.out)
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would share one result"):
        run.prepare(blob_model, jobs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_name": "tiff"}, "format is 'tiff'"),
        ({"finder": Everything({"points_per_side": 0})}, "points_per_side is 0"),
    ],
)
def test_an_impossible_run_makes_no_folder(blob_model, source, run, changes, words):
    with pytest.raises(AnymaskError, match=words):
        replace(run, **changes).prepare(blob_model, find_jobs([source], True, run.out))
    assert not run.out.exists()


def test_the_region_of_interest_is_a_picture_of_the_same_size(blob_model, source, run, tmp_path):
    roi = np.zeros((120, 160), np.uint8)
    roi[:, :80] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), roi)
    run = replace(run, finder=Everything(OPTIONS, tmp_path / "roi.png"))
    outcomes = work(run, blob_model, find_jobs([source], True, run.out))
    assert [outcome.reason is None for outcome in outcomes] == [True, False, False]
    assert "roi has shape (120, 160)" in outcomes[1].reason
    for image in read_dataset(run.out, "sa1b"):
        assert image.records
        assert not any(record.mask[:, 80:].any() for record in image.records)
    cv2.imwrite(str(tmp_path / "roi.png"), 255 - roi)
    with pytest.raises(DataError, match="roi was"):
        run.prepare(blob_model, find_jobs([source], True, run.out))


def test_progress_is_passed_on(blob_model, source, run):
    calls = []
    job = Job(source / "a.png", "a.png")
    run.prepare(blob_model, [job])
    Session(run, blob_model).work(job, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (25, 25)
    settings = json.loads((run.out / ".everything" / "settings.json").read_text())
    assert settings["points_per_side"] == 5
