"""Mean IoU by group, coverage by region, and the tables that say which is which."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from typer.testing import CliRunner

from anymask.cli.evaluate import app
from anymask.data.formats import read_dataset
from anymask.errors import DataError
from anymask.evaluation.coverage import evaluate_coverage, measure_coverage
from anymask.evaluation.fairness import evaluate_fairness, find_predictions
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings
from anymask.evaluation.tables import read_table


@pytest.fixture
def judged(scene: Scene, tmp_path: Path) -> Path:
    """The point experiment of a model that knows the first ellipse of each image in full and no other."""
    first = {masks[0].tobytes() for masks in scene.masks}

    def answer(truth: np.ndarray, is_multimask: bool) -> np.ndarray:
        return np.stack([truth if truth.tobytes() in first else np.zeros_like(truth)] * (3 if is_multimask else 1))

    evaluate_points(scene.judge(answer), [scene.folder], tmp_path / "judged", PointSettings(clicks=(1, 3)))
    return tmp_path / "judged"


def test_groups_of_images_by_hand(judged: Path, tmp_path: Path) -> None:
    """Image a has four objects of which one is known, b one of three, c its only one."""
    table = tmp_path / "groups.csv"
    table.write_text("image,region\na.png,north\nb.png,south\nc,south\n")
    results = evaluate_fairness(find_predictions([judged]), table, tmp_path / "out")
    north, south = results.groups["region"]["north"], results.groups["region"]["south"]
    assert (north["1"].mean, north["1"].count) == (pytest.approx(1 / 4), 4)
    assert (south["3"].mean, south["3"].count) == (pytest.approx(2 / 4), 4)
    # Drawing two images with replacement: twice b (1/3), both (1/2) or twice c (1).
    assert (south["1"].low, south["1"].high) == pytest.approx((1 / 3, 1))
    gap = results.gaps["region"]["1"]
    assert (gap["low"], gap["high"], gap["gap"]) == ("north", "south", pytest.approx(1 / 4))
    page = (tmp_path / "out" / "fairness.md").read_text()
    assert "| north | 4 | 25.0 [-] | 25.0 [-] |" in page
    assert "| south | 4 | 50.0 [33.3, 100.0] | 50.0 [33.3, 100.0] |" in page
    assert "| perceived gender presentation: feminine | 54.4 ± 1.7 | 90.4 ± 0.6 |" in page
    written = json.loads((tmp_path / "out" / "fairness.json").read_text())
    assert written["groups"]["region"]["north"]["1"]["low"] is None
    assert (tmp_path / "out" / "fairness.png").stat().st_size > 1000


def test_groups_of_objects_and_several_attributes(judged: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.json"
    rows = [
        {"image": "a.png", "object": 0, "age": "old", "size": "big"},
        {"image": "a.png", "object": 1, "age": "old", "size": None},
        {"image": "b.png", "object": 1, "age": "young", "size": "big"},
        {"image": "b.png", "object": 2, "age": "young", "size": "big"},
    ]
    table.write_text(json.dumps(rows))
    results = evaluate_fairness(find_predictions([judged]), table, tmp_path / "out", ["oracle"])
    means = {group: of["oracle"].mean for groups in results.groups.values() for group, of in groups.items()}
    assert means == {"old": 0.5, "young": 0.0, "big": pytest.approx(1 / 3)}
    assert results.unknown == 4
    assert results.gaps["age"]["oracle"]["overlap"]


@pytest.mark.parametrize(("knows", "score"), [(True, 1.0), (False, 0.0)])
def test_all_knowing_scores_one_and_ignorance_nought(scene: Scene, tmp_path: Path, knows: bool, score: float) -> None:
    judged = scene.judge(lambda truth, is_multimask: np.stack([truth & knows] * (3 if is_multimask else 1)))
    evaluate_points(judged, [scene.folder], tmp_path / "judged", PointSettings(clicks=(1, 3)))
    (tmp_path / "t.csv").write_text("image,tone\na,1\nb,1\nc,2\n")
    results = evaluate_fairness(find_predictions([tmp_path / "judged"]), tmp_path / "t.csv", tmp_path / "out")
    assert {interval.mean for group in results.groups["tone"].values() for interval in group.values()} == {score}


def test_what_fairness_refuses(judged: Path, scene: Scene, tmp_path: Path) -> None:
    predictions = find_predictions([judged])
    table = tmp_path / "groups.csv"
    for text, message in [
        ("image,region\nz.png,north\n", "has none of the 8 objects"),
        ("image\na.png\n", "has no column of groups"),
        ("picture,region\na.png,north\n", "has no column 'image'"),
        ("image,object,region\na.png,first,north\n", "object is 'first'"),
        ("image,region\na.png,north\na.png,south\n", "comes twice"),
        ("image,region\n", "has no rows"),
    ]:
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            evaluate_fairness(predictions, table, tmp_path / "out")
    table.write_text("image,region\na.png,north\n")
    with pytest.raises(DataError, match="was not made with 9 points"):
        evaluate_fairness(predictions, table, tmp_path / "out", ["9"])
    with pytest.raises(DataError, match="has no predictions"):
        find_predictions([scene.folder])
    assert not (tmp_path / "out").exists()


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffimage, b \nx.jpg, 1 \ny.jpg\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv") == [{"image": "x.jpg", "b": "1"}, {"image": "y.jpg", "b": ""}]
    (tmp_path / "a.json").write_text('{"x.jpg": {"b": 1}, "y.jpg": {}}')
    assert read_table(tmp_path / "a.json") == [{"image": "x.jpg", "b": "1"}, {"image": "y.jpg", "b": ""}]
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"b\.json: is no table"):
        read_table(tmp_path / "b.json")
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")


def test_coverage_by_hand(scene: Scene, tmp_path: Path) -> None:
    """Four, three and one mask; the third image's country is not in the table."""
    (tmp_path / "images.csv").write_text("image,country\na.png,Kenya\nb.png,Ghana\n")
    (tmp_path / "countries.csv").write_text("country,region,income\nKenya,Africa,middle\nGhana,Africa,low\n")
    results = evaluate_coverage(
        read_dataset(scene.folder), tmp_path / "images.csv", tmp_path / "out", tmp_path / "countries.csv", "shapes"
    )
    assert (results.images, results.masks, results.unknown) == (3, 8, {"region": 1, "income": 1})
    africa = results.groups["region"]["Africa"]
    assert (africa.countries, africa.images, africa.masks, africa.image_share, africa.mask_share) == (2, 2, 7, 1, 1)
    assert results.groups["income"]["low"].mask_share == pytest.approx(3 / 7)
    page = (tmp_path / "out" / "coverage.md").read_text()
    assert "| low | 1 | 1 | 3 | 50.0 | 42.9 | 3.0 |" in page
    assert "Not known of 1 images" in page
    assert "| Africa | 2.8 | 3.0 | 1.7 |" in page
    assert (tmp_path / "out" / "coverage.png").stat().st_size > 1000


def test_coverage_without_countries_and_without_matches(scene: Scene) -> None:
    rows = [{"image": "sub/a.jpg", "region": "east"}, {"image": "b", "region": ""}]
    results = measure_coverage(read_dataset(scene.folder), rows)
    assert results.groups["region"]["east"].countries is None
    assert results.unknown == {"region": 2}
    with pytest.raises(DataError, match="has none of the 3 images"):
        measure_coverage(read_dataset(scene.folder), [{"image": "z", "region": "east"}])
    with pytest.raises(DataError, match="no column besides image"):
        measure_coverage(read_dataset(scene.folder), [{"image": "a"}])


def test_the_commands(judged: Path, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,region\na.png,north\nb.png,south\n")
    table = ["--table", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["fairness", str(judged), *table], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "mIoU at 1 point" in result.stdout
    result = CliRunner().invoke(app, ["coverage", str(scene.folder), *table, "--json"])
    assert json.loads(result.stdout)["groups"]["region"]["south"]["masks"] == 3
    result = CliRunner().invoke(app, ["text"])
    assert result.exit_code == 1
    assert "a text encoder" in str(result.exception)
