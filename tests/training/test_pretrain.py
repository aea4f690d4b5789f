from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anymask.errors import CheckpointError, DataError
from anymask.model.registry import build_model
from anymask.training.config import TrainConfig
from anymask.training.loop import start_model
from anymask.training.masked_autoencoding import MaskedAutoencoder, draw_hidden, normalise_cells, picture
from anymask.training.pretrain import CropDataset, PretrainConfig, learning_rate, pretrain


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for index in range(3):
        rows, columns = np.mgrid[:90, :120]
        pixels = np.stack([rows * 2, columns * 2, np.full_like(rows, 60 * index)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return folder.parent


def small(photos, **changes):
    fields = {
        "model": "tiny", "photos": str(photos), "crop_size": 64, "images_per_step": 4, "total_steps": 4,
        "learning_rate": 1e-3, "warmup_steps": 1, "workers": 0, "draw_every": 2,
    }  # fmt: skip
    return PretrainConfig(**(fields | changes))


def test_hidden_patches_are_whole_and_as_many_as_asked_for():
    hidden = draw_hidden(5, 128, 32, 0.6, torch.Generator().manual_seed(0))
    assert hidden.shape == (5, 128, 128)
    patches = hidden.reshape(5, 4, 32, 4, 32).permute(0, 1, 3, 2, 4).flatten(3)
    assert (patches.all(dim=3) | ~patches.any(dim=3)).all()
    assert (patches[..., 0].flatten(1).sum(dim=1) == 10).all()
    assert not torch.equal(hidden[0], hidden[1])


def test_normalised_cells_have_no_mean_and_unit_spread():
    cells, mean, spread = normalise_cells(torch.rand(2, 3, 32, 32), 16)
    squares = cells.reshape(2, 3, 2, 16, 2, 16).permute(0, 1, 2, 4, 3, 5).flatten(4)
    torch.testing.assert_close(squares.mean(dim=4), torch.zeros(2, 3, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(squares.std(dim=4, correction=0), torch.ones(2, 3, 2, 2), atol=1e-3, rtol=0)
    assert (spread > 0).all()
    assert mean.shape == cells.shape


@pytest.mark.parametrize("name", ["tiny", "conv"])
def test_the_loss_falls_and_hidden_pixels_never_leak(name):
    torch.manual_seed(0)
    model = MaskedAutoencoder(build_model(name))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    hidden = draw_hidden(2, 64, 32, 0.5, torch.Generator().manual_seed(0))
    model.eval()
    changed = torch.where(hidden[:, None], 255 - pixels, pixels)
    assert torch.equal(model(pixels, hidden)[1], model(changed, hidden)[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss, _ = model(pixels, hidden)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    drawn = picture(model, pixels, hidden)
    assert drawn.shape == (128, 192, 3)
    assert torch.equal(drawn[:64, 128:], pixels[0].permute(1, 2, 0))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(photos, tmp_path):
    config = small(photos)
    whole = pretrain(config, tmp_path / "whole", device="cpu")
    pretrain(config, tmp_path / "parts", device="cpu", max_steps=3)
    pretrain(config, tmp_path / "parts", device="cpu")
    one, other = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "parts"))
    assert one["step"] == other["step"] == 4
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert np.isfinite(whole["loss"])
    assert (tmp_path / "parts" / "curves.csv").read_text().count("\n") == 5
    with Image.open(tmp_path / "whole" / "drawing.png") as drawing:
        assert drawing.size == (192, 4 * 64)
    with pytest.raises(CheckpointError, match="holds a run of tiny, not of conv"):
        pretrain(replace(config, model="conv"), tmp_path / "whole", device="cpu")


def test_a_training_starts_from_the_pretrained_encoder(photos, tmp_path):
    pretrain(small(photos, total_steps=2), tmp_path / "run", device="cpu")
    start = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    config = TrainConfig("tiny", (), 64, 1, 1, 1, 1e-3, init_from=str(tmp_path / "run" / "encoder.safetensors"))
    for name, value in start_model(config).image_encoder.state_dict().items():
        assert torch.equal(value, start[f"segmenter.image_encoder.{name}"]), name


def test_processes_see_together_what_one_sees(photos):
    whole = CropDataset(small(photos))[1]
    parts = [CropDataset(small(photos), rank, 2)[1] for rank in range(2)]
    assert torch.equal(whole, torch.cat(parts))


def test_the_rate_warms_up_and_falls_to_nothing(photos):
    config = small(photos, warmup_steps=10, total_steps=110, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1)
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 110) == pytest.approx(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"crop_size": 80}, "crop_size=80"), ({"hidden_share": 1.0}, "hidden_share=1.0")],
)
def test_sizes_that_do_not_fit_are_refused(photos, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        pretrain(small(photos, **changes), tmp_path / "run", device="cpu")


def test_a_folder_without_photos_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        CropDataset(small(tmp_path))
