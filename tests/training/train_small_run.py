"""One small run as a script, for torchrun: train_small_run.py SCENES_FOLDER RUN_FOLDER."""

import sys
from pathlib import Path

import torch
from small_runs import small_config

from anymask.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(small_config(Path(sys.argv[1]), total_steps=3), Path(sys.argv[2]), device="cpu")
