"""One small run as a script, for torchrun: train_small_run.py SCENES_FOLDER RUN_FOLDER [sharded]."""

import sys
from pathlib import Path

from small_runs import small_config

from anymask.training.loop import train

STEPS = 3

if __name__ == "__main__":
    config = small_config(Path(sys.argv[1]), total_steps=STEPS, is_sharded="sharded" in sys.argv)
    train(config, Path(sys.argv[2]), device="cpu")
