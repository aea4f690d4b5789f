"""Ready models by name, from files, on devices and in precisions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from small_networks import randomise

from anymask.errors import AnymaskError, CheckpointError
from anymask.model import zoo
from anymask.model.checkpoints import fingerprint, read_metadata, save_checkpoint, set_generator_defaults
from anymask.model.device import available_devices, choose_device, choose_dtype
from anymask.model.registry import BUILDERS, build_model
from anymask.model.segmenter import GeneratorDefaults, Segmenter
from anymask.model.zoo import load_model, model_info


@pytest.fixture
def random_tiny() -> Segmenter:
    model = build_model("tiny")
    randomise(model, seed=41)
    return model


@pytest.fixture
def packaged(random_tiny: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """The package with weights of known values in it; the cache is empty."""
    folder = tmp_path / "package"
    save_checkpoint(random_tiny, folder / "tiny.safetensors", {"score": "0.5"}, dtype=torch.float32)
    monkeypatch.setattr(zoo, "PACKAGED_FOLDER", folder)
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    return random_tiny


def test_tiny_comes_from_the_package_ready_to_answer(packaged: Segmenter) -> None:
    model = load_model(device="cpu")
    assert model.name == "tiny"
    assert fingerprint(model) == fingerprint(packaged)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.image_encoder.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.dtype == torch.float32
    assert torch.equal(model.pixel_mean, packaged.pixel_mean)


def test_loading_tiny_is_fast(packaged: Segmenter) -> None:
    """In one thread's processor time, which a busy machine hardly stretches; 50 ms where it was measured."""
    torch.set_num_threads(1)
    times = []
    for _ in range(3):
        started = time.process_time()
        load_model("tiny", device="cpu")
        times.append(time.process_time() - started)
    assert min(times) < 0.5


def test_loading_leaves_random_initialisation_as_it_was(packaged: Segmenter) -> None:
    load_model("tiny", device="cpu")
    weights = build_model("conv").image_encoder.stages[0].conv1.weight.detach()
    assert 0.01 < float(weights.std()) < 1


def test_missing_package_weights_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PACKAGED_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"weights of tiny are not in the package: .*tiny\.safetensors"):
        load_model("tiny")


def test_own_checkpoint_by_name_and_by_path(packaged: Segmenter, tmp_path: Path) -> None:
    other = build_model("tiny")
    save_checkpoint(other, tmp_path / "mine.safetensors", dtype=torch.float32)
    torch.save({"model": other.state_dict()}, tmp_path / "mine.pth")
    expected = fingerprint(other)
    assert fingerprint(load_model("tiny", tmp_path / "mine.safetensors", device="cpu")) == expected
    assert fingerprint(load_model(tmp_path / "mine.safetensors", device="cpu")) == expected
    assert fingerprint(load_model(str(tmp_path / "mine.pth"), device="cpu")) == expected


def test_a_files_own_name_goes_before_its_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(build_model("conv"), tmp_path / "a.safetensors")
    monkeypatch.setattr(zoo, "detect_variant", lambda state: pytest.fail("not needed"))
    assert load_model(tmp_path / "a.safetensors", device="cpu").name == "conv"


def test_a_checkpoint_of_no_known_model(small_sam: Segmenter, tmp_path: Path) -> None:
    save_checkpoint(small_sam, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"small\.safetensors does not look like.*tiny, conv, vit_b"):
        load_model(tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"4 deep\) does not fit vit_b"):
        load_model("vit_b", tmp_path / "small.safetensors")


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "mobile_sam"])
def test_official_weights_that_are_not_here(packaged: Segmenter, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"`anymask models pull {name}` or pass checkpoint="):
        load_model(name)
    assert model_info(name)["weights"] == "not here"


def test_a_pulled_file_is_found_in_the_cache(packaged: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "sam_vit_b_01ec64.pth"
    path.parent.mkdir()
    torch.save(packaged.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"sam_vit_b_01ec64\.pth holds the weights of tiny, not of vit_b"):
        load_model("vit_b")
    assert model_info("vit_b")["weights"] == "pulled"
    assert model_info("vit_b")["path"] == str(path)


@pytest.mark.slow
def test_official_style_vit_b_loads_from_the_cache(packaged: Segmenter, tmp_path: Path) -> None:
    source = build_model("vit_b")
    (tmp_path / "cache").mkdir()
    torch.save(source.state_dict(), tmp_path / "cache" / "sam_vit_b_01ec64.pth")
    model = load_model("vit_b", device="cpu")
    assert fingerprint(model) == fingerprint(source)


def test_names_and_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'vit_x' is not known; allowed are tiny, conv, vit_b"):
        load_model("vit_x")
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="'conv' comes without weights; pass checkpoint="):
        load_model("conv")
    with pytest.raises(CheckpointError, match="path of a checkpoint alone"):
        load_model(tmp_path / "a.pth", checkpoint=tmp_path / "b.pth")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_keeps_the_fourier_matrix(packaged: Segmenter, dtype: str | torch.dtype) -> None:
    model = load_model("tiny", device="cpu", dtype=dtype)
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    assert torch.equal(matrix, packaged.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    assert {parameter.dtype for parameter in model.parameters()} == {choose_dtype(dtype, torch.device("cpu"))}


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert str(choose_device("auto")) == available_devices()[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    for missing in ("cuda", "cuda:1", "mps", "gpu", "", "cpu:0:0"):
        with pytest.raises(AnymaskError, match=rf"'{missing}' is not available; this machine has cpu \("):
            choose_device(missing)


def test_devices_where_there_are_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device(torch.device("cuda", 1)) == torch.device("cuda:1")
    with pytest.raises(AnymaskError, match="'cuda:2' is not available; this machine has cuda:0, cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(AnymaskError, match="'bfloat16' is not available on cuda:1"):
        choose_dtype("bfloat16", torch.device("cuda:1"))


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype(None, cpu) == torch.float32
    assert choose_dtype("float16", cpu) == torch.float16
    assert choose_dtype(torch.bfloat16, cpu) == torch.bfloat16
    for wrong in ("float64", "half", torch.int8):
        with pytest.raises(AnymaskError, match="allowed are float32, float16, bfloat16"):
            choose_dtype(wrong, cpu)


def test_info_of_every_model(packaged: Segmenter) -> None:
    infos = {name: model_info(name) for name in BUILDERS}
    # Paper A: ViT-H has 632 M in the encoder; the published sizes of the whole models are 94, 312 and 641 M.
    millions = {name: round(info["parameters"] / 1e6) for name, info in infos.items()}
    assert (millions["vit_b"], millions["vit_l"], millions["vit_h"]) == (94, 312, 641)
    # MobileSAM's paper (table 3) counts 5.8 M in the encoder and 3.9 M in the decoder, 9.66 M together; it leaves out
    # what the prompt encoder alone needs.
    assert millions["mobile_sam"] == 10
    assert infos["tiny"]["parameters"] == sum(parameter.numel() for parameter in packaged.parameters())
    assert infos["tiny"]["weights"] == "packaged"
    assert infos["tiny"]["metadata"]["score"] == "0.5"
    assert "non-commercial" in infos["tiny"]["licence"]
    assert infos["conv"]["weights"] == "none"
    assert infos["vit_h"]["origin"].endswith("sam_vit_h_4b8939.pth")
    assert [infos[name]["input_size"] for name in ("tiny", "vit_b")] == [512, 1024]
    with pytest.raises(CheckpointError, match="'vit_x' is not known"):
        model_info("vit_x")


def test_thresholds_of_automatic_generation_travel_with_the_weights(packaged: Segmenter, tmp_path: Path) -> None:
    assert load_model("tiny", device="cpu").generator_defaults == GeneratorDefaults(0.88, 0.95)
    path = zoo.PACKAGED_FOLDER / "tiny.safetensors"
    set_generator_defaults(path, GeneratorDefaults(0.7, 0.85))
    model = load_model("tiny", device="cpu")
    assert model.generator_defaults == GeneratorDefaults(0.7, 0.85)
    assert fingerprint(model) == fingerprint(packaged)
    assert read_metadata(path)["score"] == "0.5"
    copy = tmp_path / "copy.safetensors"
    save_checkpoint(model, copy)
    for weights in ({"name_or_path": copy}, {"name_or_path": "tiny", "checkpoint": copy}):
        assert load_model(**weights, device="cpu").generator_defaults == GeneratorDefaults(0.7, 0.85)


@pytest.mark.parametrize("value", ["high", "88", "nan"])
def test_a_threshold_that_is_none_is_named(packaged: Segmenter, tmp_path: Path, value: str) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(packaged, path, {"pred_iou_thresh": value})
    with pytest.raises(CheckpointError, match=rf"tiny\.safetensors has pred_iou_thresh '{value}'"):
        load_model("tiny", checkpoint=path, device="cpu")


def test_only_our_own_files_hold_thresholds(random_tiny: Segmenter, tmp_path: Path) -> None:
    torch.save(random_tiny.state_dict(), tmp_path / "tiny.pth")
    assert load_model("tiny", checkpoint=tmp_path / "tiny.pth", device="cpu").generator_defaults == GeneratorDefaults()
    with pytest.raises(CheckpointError, match="cannot hold thresholds"):
        set_generator_defaults(tmp_path / "tiny.pth", GeneratorDefaults(0.7, 0.8))
