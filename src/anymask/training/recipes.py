"""Recipes: functions that return a typed configuration. Each opens with its command, hardware, time and score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from anymask.training.augment import Augmentation
from anymask.training.clicks import Annotator, ClickSchedule
from anymask.training.composite import Pasting
from anymask.training.config import DataSource, TrainConfig
from anymask.training.losses import LossWeights
from anymask.training.pretrain import PretrainConfig


def tiny(data: Path) -> TrainConfig:
    """The model in the package.

    Command: `make train-tiny DATA=folder`; hardware: two CPU cores; the hour of the packaged weights went through
    smaller crops first, see docs/model-card.md for its phases and scores. This is the setting in which it goes on.
    To go on from the packaged weights where the run's folder is gone: `--set init_from=FILE`. Their last 900 steps,
    while the rate fell: `--set cooldown_steps=900 --set crop_size=512 --set augmentation.scale_range=[0.65,1.8]`.
    Sources are drawn by about the square root of their size, everyday photographs twice ("measured" on a prototype).
    """
    weights = {"coco": 34, "bsds500": 33, "ccp": 18, "camvid": 10, "dsb2018": 12, "cats": 13}
    sources = tuple(DataSource(str(data / name / "train"), weight, f"{name}/train") for name, weight in weights.items())
    return TrainConfig(
        model="tiny",
        sources=sources,
        splits_file=str(data / "splits.json"),
        init_from="imagenet",
        crop_size=384,
        images_per_step=4,
        masks_per_image=4,
        images_to_choose_from=4,  # assumed: else the small masks of crowded images are rarer than in what is judged
        total_steps=200_000,
        learning_rate=5e-4,
        encoder_lr_scale=0.5,
        layer_decay=0.85,
        has_relative_rates=True,
        weight_decay=0.05,
        warmup_steps=100,
        drop_path=0.05,
        dropout=0.0,
        ema_decay=0.99,
        schedule=ClickSchedule(rounds=3, mask_only_rounds=0),
        annotator=Annotator(centre_share=0.5, has_steady_hand=True),
        # Absolute errors of predicted IoU: it is off by 0.139 after 1,600 steps with them, 0.146 before ("measured";
        # what further steps with squared ones would have given was not).
        losses=LossWeights(
            focal=0.0, dice=1.0, cross_entropy=1.0, balanced_cross_entropy=0.1, iou=0.0, iou_absolute=1.0
        ),
        has_all_answers=True,
        answers_per_image=24,  # assumed: a click on BSDS500 then lies in 1.3 further masks, in 0.8 with 12 ("measured")
        single_output_weight=0.5,
        augmentation=Augmentation(scale_range=(0.7, 2.0), aspect_jitter=0.2, flip=True, colour=0.7),
        pasting=Pasting(share=0.5, painted_share=0.4),
        validate_every=400,
    )


def sam_vit_b(data: Path) -> TrainConfig:
    """The paper's ViT-B (A): 180k iterations, batch 128, rate 8e-4, layer decay 0.6, drop path 0.6.

    Command: `torchrun --nproc-per-node 8 -m anymask train sam_vit_b --data SA-1B`; not run here. The places of the
    rate's drops are the paper's for ViT-H (60k and 86,666 of 90k), scaled to 180k ("assumed").
    """
    return _sam(data, "vit_b", steps=180_000, batch=128, rate=8e-4, layer_decay=0.6, drop_path=0.6)


def sam_vit_l(data: Path) -> TrainConfig:
    """The paper's ViT-L (A): 180k iterations, batch 128, rate 4e-4, layer decay 0.8, drop path 0.4."""
    return _sam(data, "vit_l", steps=180_000, batch=128, rate=4e-4, layer_decay=0.8, drop_path=0.4)


def sam_vit_h(data: Path) -> TrainConfig:
    """The paper's ViT-H (A): 90k iterations, batch 256, rate 8e-4, layer decay 0.8, drop path 0.4; 256 A100s, 68 h."""
    return _sam(data, "vit_h", steps=90_000, batch=256, rate=8e-4, layer_decay=0.8, drop_path=0.4)


def _sam(
    data: Path, model: str, *, steps: int, batch: int, rate: float, layer_decay: float, drop_path: float
) -> TrainConfig:
    return TrainConfig(
        model=model,
        sources=(DataSource(str(data)),),
        crop_size=1024,
        images_per_step=batch,
        masks_per_image=64,
        total_steps=steps,
        learning_rate=rate,
        layer_decay=layer_decay,
        drop_path=drop_path,
        lr_drops=(steps * 60_000 // 90_000, steps * 86_666 // 90_000),
        precision="bf16-mixed",
        workers=8,
    )


def fine_tune(data: Path) -> TrainConfig:
    """The packaged model made better on one folder of images and masks in SA-1B's layout, a sixth of it held out.

    Command: `anymask train fine_tune --data folder -o run`, then `anymask export-weights run my.safetensors`; two CPU
    cores, minutes. See docs/fine-tuning.md for an example with its scores, and for low-rank updates and other models.
    """
    return dataclasses.replace(
        tiny(data),
        sources=(DataSource(str(data), val_share=1 / 6),),
        splits_file=None,
        init_from="pretrained",
        total_steps=400,
        warmup_steps=20,
        cooldown_steps=300,
        learning_rate=2e-4,
        has_relative_rates=False,  # they need some hundred steps before they pay, if they do ("measured" on `tiny`)
        ema_decay=0.98,
        pasting=Pasting(),
        validate_every=100,
    )


def pretrain_tiny(photos: Path) -> PretrainConfig:
    """`tiny`'s encoder, from its ImageNet start, on photos without masks.

    Command: `anymask pretrain tiny --photos folder`; two CPU cores.
    """
    return PretrainConfig(
        model="tiny",
        photos=str(photos),
        crop_size=192,
        images_per_step=16,
        total_steps=5_000,
        learning_rate=3e-4,
        init_from="imagenet",
    )


def pretrain_vit_b(photos: Path) -> PretrainConfig:
    """ViT-B as in He et al. 2021, appendix A.1: batch 4,096, base rate 1.5e-4 per 256 images, 40 epochs of warm-up.

    Command: `torchrun --nproc-per-node 8 -m anymask pretrain vit_b --photos folder`; not run here. 1,600 epochs of
    ImageNet's 1.28 M photos are 500k steps.
    """
    return PretrainConfig(
        model="vit_b",
        photos=str(photos),
        crop_size=224,
        images_per_step=4096,
        total_steps=500_000,
        learning_rate=1.5e-4 * 4096 / 256,
        warmup_steps=12_500,
        precision="bf16-mixed",
        workers=8,
    )


PRETRAIN_RECIPES: dict[str, Callable[[Path], PretrainConfig]] = {"tiny": pretrain_tiny, "vit_b": pretrain_vit_b}

RECIPES: dict[str, Callable[[Path], TrainConfig]] = {
    "tiny": tiny,
    "fine_tune": fine_tune,
    "sam_vit_b": sam_vit_b,
    "sam_vit_l": sam_vit_l,
    "sam_vit_h": sam_vit_h,
}
