import json
from dataclasses import replace

import pytest
from small_runs import small_config

from anymask.errors import AnymaskError
from anymask.training.ablations import ABLATIONS, Variant, base_config, markdown, run_ablation
from anymask.training.config import DataSource


@pytest.fixture
def base(tmp_path):
    return base_config(tmp_path, steps=10)


@pytest.mark.parametrize("name", ABLATIONS)
def test_variants_differ_in_what_is_ablated_and_judge_alike(name, base, tmp_path):
    variants = ABLATIONS[name](base, tmp_path / "automatic")
    assert len({variant.folder for variant in variants}) == len(variants) >= 2
    assert len({variant.config for variant in variants}) == len(variants)
    judges = [
        [(source.folder, source.split) for source in variant.config.validation_sources or variant.config.sources]
        for variant in variants
    ]
    assert all(judge == judges[0] for judge in judges)
    assert {variant.config.total_steps for variant in variants} == {10}
    assert {variant.config.seed for variant in variants} == {base.seed}


def test_automatic_masks_must_be_given(base):
    with pytest.raises(AnymaskError, match="--automatic is missing"):
        ABLATIONS["data-source"](base, None)


def test_half_of_the_mixture_is_automatic(base, tmp_path):
    manual, mixed, automatic = ABLATIONS["data-source"](base, tmp_path)
    assert [source.folder for source in automatic.config.sources] == [str(tmp_path)]
    weights = {source.folder == str(tmp_path): 0.0 for source in mixed.config.sources}
    for source in mixed.config.sources:
        weights[source.folder == str(tmp_path)] += source.weight
    assert weights[True] == pytest.approx(weights[False])
    assert manual.config.sources == base.sources


def test_an_ablation_leaves_a_table_and_a_picture_and_trains_nothing_twice(scenes, tmp_path):
    config = small_config(scenes, total_steps=2)
    variants = [Variant("one", config), Variant("two / narrow", replace(config, is_single_output=True))]
    results = run_ablation(variants, tmp_path, device="cpu")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(results) == ["one", "two / narrow"]
    table = (tmp_path / "results.md").read_text()
    assert table == markdown(results)
    assert f"| one | {100 * results['one']['click']:.1f} | " in table
    assert (tmp_path / "results.png").stat().st_size > 1000
    stamp = (tmp_path / "one" / "last.pt").stat().st_mtime_ns
    assert run_ablation(variants, tmp_path, device="cpu") == results
    assert (tmp_path / "one" / "last.pt").stat().st_mtime_ns == stamp


def test_one_output_is_judged_by_its_one_answer(scenes, tmp_path):
    config = small_config(scenes, total_steps=1, is_single_output=True)
    scores = run_ablation([Variant("one", config)], tmp_path, device="cpu")["one"]
    assert scores["click"] == scores["oracle"]


def test_other_sets_can_judge(scenes, tmp_path):
    own = small_config(scenes, total_steps=1)
    other = replace(own, validation_sources=(DataSource(str(scenes)),))
    results = run_ablation([Variant("own", own), Variant("other", other)], tmp_path, device="cpu")
    assert results["own"]["iou_error"] != results["other"]["iou_error"]  # of other images; IoUs may all be 0 so early
