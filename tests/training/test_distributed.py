import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import small_config

import anymask
from anymask.errors import CheckpointError
from anymask.training.loop import launch_fabric

SCRIPT = Path(__file__).with_name("train_small_run.py")
PACKAGE_ROOT = Path(anymask.__file__).parents[1]


def run_small(scenes, run_folder, processes):
    """The small run in new processes; its saved state and its curves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), str(scenes), str(run_folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE_ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with (run_folder / "curves.csv").open() as file:
        return torch.load(run_folder / "last.pt", weights_only=True), list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_do_what_one_does(scenes, tmp_path):
    """The same images, clicks, gradients and weights, whichever way the global batch is shared."""
    alone, alone_curves = run_small(scenes, tmp_path / "one", 1)
    shared, shared_curves = run_small(scenes, tmp_path / "two", 2)
    assert alone["step"] == shared["step"] == 3
    for one, two in zip(alone_curves, shared_curves, strict=True):
        assert float(two["norm"]) == pytest.approx(float(one["norm"]), rel=1e-3)
    # Adam's first steps go by the sign of a gradient alone, so that a rounding difference of a gradient near zero can
    # turn a whole step: weights are compared by their mean movement, and the moments, linear in it, one by one.
    torch.manual_seed(0)
    moved, apart = 0.0, 0.0
    start = initial_weights(scenes)
    for name, weight in alone["model"].items():
        moved += float((weight - start[name]).abs().sum())
        apart += float((weight - shared["model"][name]).abs().sum())
    assert moved > 0
    assert apart / moved < 1e-2
    for key, moments in alone["optimiser"]["state"].items():
        ours, theirs = moments["exp_avg"], shared["optimiser"]["state"][key]["exp_avg"]
        assert (ours - theirs).norm() <= 1e-2 * ours.norm() + 1e-7
    assert (tmp_path / "two" / "best.safetensors").exists()


def initial_weights(scenes):
    from anymask.training.loop import start_model

    config = small_config(scenes)
    torch.manual_seed(config.seed)
    return start_model(config).state_dict()


def test_images_must_be_shared_evenly(scenes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(CheckpointError, match=r"images_per_step=3 .* 2 processes"):
        launch_fabric(small_config(scenes, images_per_step=3), "cpu")
