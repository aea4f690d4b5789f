import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.dataset import app
from anymask.data.annotated import AnnotatedImage
from anymask.data.formats import read_dataset, write_dataset
from anymask.errors import DataError
from anymask.records import MaskRecord


@pytest.fixture
def folder(tmp_path, photo):
    picture = tmp_path / "a.jpg"
    Image.fromarray(photo.image).save(picture)
    records = tuple(MaskRecord.from_mask(n + 1, mask, category="egg") for n, mask in enumerate(photo.masks_khw))
    write_dataset(tmp_path / "set", [AnnotatedImage("a.jpg", (120, 160), records, picture)], "sa1b")
    return tmp_path / "set"


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.output


def test_validate_tells_good_from_bad(folder):
    assert run("validate", folder) == f"{folder} (sa1b): 1 images, 4 masks, no problems\n"
    assert json.loads(run("validate", folder, "--json", "--deep")) == {
        "format": "sa1b",
        "images": 1,
        "masks": 4,
        "problems": [],
    }
    content = json.loads((folder / "a.json").read_text())
    content["annotations"][0]["area"] = 1
    content["annotations"][3]["bbox"] = [0, 0, 1, 1]
    (folder / "a.json").write_text(json.dumps(content))
    lines = run("validate", folder, exit_code=1).splitlines()
    assert [line.split(": ")[1] for line in lines[:2]] == ["annotations[0]", "annotations[3]"]
    assert lines[2].endswith("4 masks, 2 problems")
    assert len(json.loads(run("validate", folder, "--json", "--from", "sa1b", exit_code=1))["problems"]) == 2


def test_convert_writes_another_format(folder, tmp_path):
    text = run("convert", folder, tmp_path / "yolo", "--to", "yolo", "--overlays")
    assert text == f"Wrote 4 masks on 1 images to {tmp_path / 'yolo'} (yolo)\n"
    assert (tmp_path / "yolo" / "overlays" / "a.jpg").is_file()
    facts = json.loads(
        run(
            *("convert", tmp_path / "yolo", tmp_path / "coco", "--to", "coco", "--from", "yolo", "--json"),
            *("--segmentation", "polygon", "--tolerance", "1", "--pictures", "none"),
        )
    )
    assert (facts["images"], facts["masks"], facts["format"]) == (1, 4, "coco")
    (image,) = read_dataset(tmp_path / "coco", images_dir=folder)
    assert [record.category for record in image.records] == ["egg"] * 4
    assert image.image_path == folder / "a.jpg"
    with pytest.raises(DataError, match="not empty"):
        run("convert", folder, tmp_path / "coco", "--to", "coco")
    run("convert", folder, tmp_path / "coco", "--to", "coco", "--overwrite")
    run("convert", folder, tmp_path / "x", exit_code=2)


def test_stats_draws_and_counts(folder, tmp_path):
    pytest.importorskip("matplotlib")
    text = run("stats", folder, "-o", tmp_path / "out")
    assert "4 masks on 1 images" in text
    assert "egg 4" in text
    facts = json.loads(run("stats", folder, "-o", tmp_path / "out", "--json"))
    assert facts == json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (facts["masks"], facts["categories"]) == (4, {"egg": 4})
    with Image.open(tmp_path / "out" / "statistics.png") as picture:
        assert picture.format == "PNG"
