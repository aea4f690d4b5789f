"""The human study: tasks that tell nothing, ratings that last, and a report worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from anymask.cli.study import app
from anymask.errors import DataError
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings
from anymask.evaluation.study import paired_t_test, report_study
from anymask.evaluation.study_ratings import Rating, Ratings
from anymask.evaluation.study_tasks import TRUTH, StudySettings, make_study, read_key, read_tasks
from anymask.evaluation.study_views import VIEWS, draw_views


def judge(scene: Scene, out: Path, knows: bool, first_point: str = "centre") -> Path:
    judged = scene.judge(lambda truth, is_multimask: np.stack([truth & knows] * (3 if is_multimask else 1)))
    settings = PointSettings(clicks=(1,), boxes=False, first_point=first_point)
    evaluate_points(judged, [scene.folder], out, settings, {"name": out.name})
    return out


@pytest.fixture
def methods(scene: Scene, tmp_path: Path) -> dict[str, str | Path]:
    """One that knows everything and one that answers with nothing."""
    return {"good": judge(scene, tmp_path / "good", True), "bad": judge(scene, tmp_path / "bad", False)}


def test_tasks_tell_nothing(methods: dict[str, str | Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    # Seven of the scene's eight ellipses have 24 x 24 pixels or more in area but two: the yellow ones.
    count = make_study(study, methods, StudySettings(repeat_share=0.5))
    config, key = read_key(study)
    assert set(config["methods"]) == {"good", "bad"}
    assert {task["index"] for task in key.values()} == {0, 1, 3}
    assert count == len(key) == 6 * 3 + 9
    tasks = read_tasks(study)
    assert sorted(tasks) == sorted(key)
    assert tasks != sorted(tasks)
    shown = {path.name for path in (study / "views").iterdir()}
    assert shown == set(tasks)
    assert {path.name for path in (study / "views" / tasks[0]).iterdir()} == {f"{view}.jpg" for view in VIEWS}
    public = (study / "tasks.json").read_text()
    for secret in ("good", "bad", TRUTH, "a.png", "repeat"):
        assert secret not in public
    for task in key.values():
        if task["repeat_of"] is not None:
            first = key[task["repeat_of"]]
            assert (first["method"], first["thing"]) == (task["method"], task["thing"])


def test_a_study_goes_on_and_another_is_refused(methods: dict[str, str | Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    make_study(study, methods, StudySettings(objects=3))
    tasks, (_, key) = read_tasks(study), read_key(study)
    (study / "tasks.json").unlink()
    with pytest.raises(DataError, match="that `anymask study make` finished"):
        read_tasks(study)
    next((study / "key" / "images").glob("*.json")).unlink()
    make_study(study, methods, StudySettings(objects=3))
    assert read_tasks(study) == tasks
    assert read_key(study)[1] == key
    with pytest.raises(DataError, match=r"settings\.seed was 0, now 1"):
        make_study(study, methods, StudySettings(objects=3, seed=1))


def test_other_clicks_and_other_sets_do_not_go_together(
    scene: Scene, methods: dict[str, str | Path], tmp_path: Path
) -> None:
    random = judge(scene, tmp_path / "random", True, "random")
    with pytest.raises(DataError, match="no object in common"):
        make_study(tmp_path / "study", {"good": methods["good"], "random": random})
    with pytest.raises(DataError, match="has no answers to 3 clicks"):
        make_study(tmp_path / "study3", methods, StudySettings(prompt="3"))
    with pytest.raises(DataError, match="none of them called 'ground truth'"):
        make_study(tmp_path / "study4", {TRUTH: methods["good"]})


def test_views_show_the_mask(scene: Scene) -> None:
    image, mask = scene.images[0], scene.masks[0][0]
    views = draw_views(image, mask, [(40.0, 35.0)], [1])
    assert list(views) == list(VIEWS)
    assert all(max(view.shape[:2]) == 900 for view in views.values())
    # The cut-out has the object's pixels in the middle and light squares in the corner; the overlay is bluer.
    cutout = views["cutout"]
    assert cutout[5, 5].min() >= 232
    assert cutout[cutout.shape[0] // 2, cutout.shape[1] // 2, 2] < 200
    inside = np.zeros_like(mask)
    inside[30:33, 30:33] = True
    place = (slice(round(31 * 900 / 160), round(32 * 900 / 160)),) * 2
    assert views["overlay"][place][..., 2].mean() > views["image"][place][..., 2].mean() + 20
    empty = draw_views(image, np.zeros_like(mask), [(40.0, 35.0)], [1])
    assert (empty["cutout"] >= 232).all()


def test_ratings_last(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path)
    assert ratings.all() == []
    ratings.save(Rating("ann", "000001", 7, 2.5))
    ratings.save(Rating("ann", "000001", 8, 1.5))
    ratings.save(Rating("bob", "000001", 3, 1.0))
    assert Ratings(tmp_path).of("ann") == {"000001": 8}
    assert len(Ratings(tmp_path).all()) == 2
    for wrong in (0, 11):
        with pytest.raises(DataError, match="allowed: 1 to 10"):
            ratings.save(Rating("ann", "000001", wrong, 1.0))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ratings.sqlite").write_bytes(b"no database at all, but long enough to be looked at")
    with pytest.raises(DataError, match="the ratings cannot be used"):
        Ratings(tmp_path / "broken").all()


def test_report_by_hand(methods: dict[str, str | Path], tmp_path: Path) -> None:
    """Good masks get 9, every second one from Ann 7; bad ones 1; the truth 10; repeats one less than before."""
    study = tmp_path / "study"
    make_study(study, methods, StudySettings(repeat_share=0.5))
    _, key = read_key(study)
    ratings = Ratings(study)
    with pytest.raises(DataError, match="has no ratings yet"):
        report_study(study)
    for number, task in key.items():
        value = {"good": 9, "bad": 1, TRUTH: 10}[task["method"]]
        if task["method"] == "good" and task["thing"] % 2:
            value = 7
        if task["repeat_of"] is not None:
            value = max(1, value - 1)
        ratings.save(Rating("ann", number, value, 2.0))
        if task["repeat_of"] is None and task["method"] == "good":
            ratings.save(Rating("bob", number, 9, 4.0))
    results = report_study(study)
    # Of six good masks three have 9 from both raters, three 7 and 9.
    assert results.methods["good"].mean.mean == pytest.approx((3 * 9 + 3 * 8) / 6)
    assert (results.methods["bad"].mean.mean, results.methods[TRUTH].mean.mean) == (1, 10)
    assert results.methods["good"].counts == (0, 0, 0, 0, 0, 0, 3, 0, 9, 0)
    assert results.raters == {"ann": 27, "bob": 6}
    differences = {(one.first, one.second): one for one in results.comparisons}
    of_two = differences["good", "bad"]
    assert of_two.difference.mean == pytest.approx(7.5)
    assert of_two.p_value == pytest.approx(ttest_rel([9, 8, 9, 8, 9, 8], [1.0] * 6).pvalue)
    assert of_two.is_significant
    assert differences[TRUTH, "bad"].p_value == 0
    assert results.consistency["ann"].pairs == 9
    assert results.consistency["ann"].within_one == 1
    assert results.between_raters.mean_difference == pytest.approx(1.0)  # three alike, three two apart
    page = (study / "study.md").read_text()
    assert "| good | 6 | 8.50 |" in page
    assert "| ground truth - bad | 6 | +9.00 | 9.00 | 9.00 | 0 | yes |" in page
    assert json.loads((study / "study.json").read_text())["tasks"] == 27
    with Image.open(study / "study.png") as picture:
        picture.verify()


def test_t_test() -> None:
    first, second = [7, 8, 6, 9, 7], [6, 8, 5, 7, 7]
    assert paired_t_test(np.subtract(first, second)) == pytest.approx(ttest_rel(first, second).pvalue)
    assert paired_t_test([0.0, 0.0]) == 1
    assert np.isnan(paired_t_test([1.0]))


def test_the_commands(methods: dict[str, str | Path], tmp_path: Path) -> None:
    study = str(tmp_path / "study")
    entries = [part for name, path in methods.items() for part in ("--method", f"{name}={path}")]
    result = CliRunner().invoke(app, ["make", study, *entries, "--objects", "2", "--no-truth", "--repeat", "0"])
    assert result.exit_code == 0, result.output
    assert "4 tasks" in result.stdout
    for number, task in read_key(study)[1].items():
        Ratings(study).save(Rating("ann", number, 9 if task["method"] == "good" else 2, 1.0))
    result = CliRunner().invoke(app, ["report", study], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "good - bad" in result.stdout
    assert CliRunner().invoke(app, ["make", study, "--method", "nothing"]).exit_code == 2
