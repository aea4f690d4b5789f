import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import small_config
from train_small_run import STEPS

import anymask
from anymask.errors import CheckpointError
from anymask.training.loop import launch_fabric, start_model, train

SCRIPT = Path(__file__).with_name("train_small_run.py")
PACKAGE_ROOT = Path(anymask.__file__).parents[1]


def train_in_two_processes(scenes, run_folder, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command = [sys.executable, *launcher, str(SCRIPT), str(scenes), str(run_folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE_ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def results(run_folder):
    """A run's saved state and the rows of its curves."""
    with (run_folder / "curves.csv").open() as file:
        return torch.load(run_folder / "last.pt", weights_only=True), list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("sharded",)], ids=["replicas", "sharded"])
def test_two_processes_do_what_one_does(scenes, tmp_path, options):
    """The same images, clicks, gradients and weights, though each process holds half of the global batch, and where
    it is sharded half of the weights.
    """
    config = small_config(scenes, total_steps=STEPS)
    train(config, tmp_path / "one", device="cpu")
    train_in_two_processes(scenes, tmp_path / "two", *options)
    (alone, alone_curves), (shared, shared_curves) = results(tmp_path / "one"), results(tmp_path / "two")
    assert alone["step"] == shared["step"] == STEPS
    assert json.loads(alone["config"]) == {**json.loads(shared["config"]), "is_sharded": False}
    for one, two in zip(alone_curves, shared_curves, strict=True):
        assert float(two["norm"]) == pytest.approx(float(one["norm"]), rel=1e-4)

    torch.manual_seed(config.seed)
    start = start_model(config).state_dict()
    for states in ("model", "averaged"):
        moved = sum((alone[states][name] - start[name]).abs().sum().item() for name in start)
        apart = sum((alone[states][name] - shared[states][name]).abs().sum().item() for name in start)
        assert moved > 0
        assert apart < 1e-3 * moved  # rounding alone gives 2e-6, other clicks 0.5 (measured)
    for key, moments in alone["optimiser"]["state"].items():
        ours, theirs = moments["exp_avg"], shared["optimiser"]["state"][key]["exp_avg"]
        assert (ours - theirs).norm() <= 1e-2 * ours.norm() + 1e-7
    assert (tmp_path / "two" / "best.safetensors").exists()
    # What was saved is whole, so one process can go on where two stopped.
    train(small_config(scenes, total_steps=STEPS + 1), tmp_path / "two", device="cpu")
    assert results(tmp_path / "two")[0]["step"] == STEPS + 1


def test_images_must_be_shared_evenly(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(CheckpointError, match=r"images_per_step=3 .* 2 processes"):
        launch_fabric("cpu", "32-true", images_per_step=3)
