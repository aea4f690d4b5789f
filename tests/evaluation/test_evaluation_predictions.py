"""The folder of predictions: continued with the same configuration, refused with another."""

from __future__ import annotations

from pathlib import Path

import pytest

from anymask.errors import DataError
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced

CONFIG = {"model": {"name": "tiny"}, "settings": {"clicks": (1, 2), "seed": 0}}


def test_the_same_configuration_continues(tmp_path: Path) -> None:
    first = PredictionFolder.create(tmp_path / "set", CONFIG)
    assert not first.has("photo.jpg")
    first.write("photo.jpg", {"objects": []})
    again = PredictionFolder.create(tmp_path / "set", CONFIG)
    assert again.has("photo.jpg")
    assert PredictionFolder.open(tmp_path / "set").read("photo.jpg") == {"objects": []}


def test_another_configuration_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    PredictionFolder.create(tmp_path, CONFIG)
    other = {"model": {"name": "tiny", "fingerprint": "ab"}, "settings": {"clicks": (1, 2), "seed": 1}}
    with pytest.raises(DataError) as caught:
        PredictionFolder.create(tmp_path, other)
    assert "model.fingerprint was None, now 'ab'; settings.seed was 0, now 1" in str(caught.value)
    assert "clicks" not in str(caught.value)


def test_predictions_without_their_configuration_are_refused(tmp_path: Path) -> None:
    folder = PredictionFolder.create(tmp_path, CONFIG)
    folder.write("photo.jpg", {})
    folder.config_path.unlink()
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        PredictionFolder.create(tmp_path, CONFIG)
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        PredictionFolder.open(tmp_path)


def test_a_confidence_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = PredictionFolder.create(tmp_path, CONFIG)
    with pytest.raises(DataError, match=r"photo\.json: the answers hold NaN"):
        folder.write("photo.jpg", {"score": float("nan")})
    assert not folder.has("photo.jpg")


def test_an_image_named_config_does_not_touch_the_configuration(tmp_path: Path) -> None:
    folder = PredictionFolder.create(tmp_path, CONFIG)
    assert not folder.has("config.png")
    folder.write("config.png", {"objects": []})
    PredictionFolder.create(tmp_path, CONFIG)


def test_a_sample_is_spread_evenly() -> None:
    assert evenly_spaced(range(9), 3) == [0, 4, 8]
    assert evenly_spaced("abc", 5) == ["a", "b", "c"]
    assert evenly_spaced("abc", None) == ["a", "b", "c"]
    assert evenly_spaced("abc", 1) == ["a"]
