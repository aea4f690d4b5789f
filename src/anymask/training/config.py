"""What a training run is made of, as one frozen, printable record."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from anymask.training.augment import Augmentation
from anymask.training.clicks import Annotator, ClickSchedule
from anymask.training.composite import Pasting
from anymask.training.losses import LossWeights


@dataclass(frozen=True)
class DataSource:
    """A folder in SA-1B layout and how often it is drawn from.

    `split` names a set in the splits file, which says what is held out. Without one, `val_share` of the images are
    held out, the same in every run; 0 validates on the images that are trained on. Of those to train on,
    `train_share` are used, for learning with less.
    """

    folder: str
    weight: float = 1.0
    split: str | None = None
    val_share: float = 0.0
    train_share: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Recipes are functions that return one; `--set key=value` changes a field."""

    model: str
    sources: tuple[DataSource, ...]
    crop_size: int
    images_per_step: int  # over all processes
    masks_per_image: int
    total_steps: int
    learning_rate: float
    images_to_choose_from: int = 1  # of so many, one is taken, in proportion to its masks, which then come evenly
    splits_file: str | None = None
    teacher: str | None = None  # a folder of a larger model's embeddings and answers, to learn beside the masks
    validation_sources: tuple[DataSource, ...] = ()  # whose held-out images judge; none: those of `sources`
    init_from: str | None = None  # a checkpoint, "pretrained" (what load_model takes), "imagenet" (tiny)
    frozen: tuple[str, ...] = ()  # parameters whose names start so are left as they are
    lora_rank: int = 0  # above 0: of the image encoder only low-rank updates of the attention are trained
    encoder_lr_scale: float = 1.0
    layer_decay: float = 1.0
    has_relative_rates: bool = False  # in the encoder's levels, each tensor's rate is scaled by the size of its numbers
    weight_decay: float = 0.1  # paper A
    betas: tuple[float, float] = (0.9, 0.999)  # paper A
    warmup_steps: int = 250  # paper A
    lr_drops: tuple[int, ...] = ()  # steps at which the rate falls to a tenth (paper A)
    cooldown_steps: int = 0  # a linear fall to zero over the last steps
    clip_norm: float = 1.0  # assumed
    drop_path: float = 0.0
    dropout: float = 0.1  # paper A, in the decoder
    ema_decay: float = 0.0  # 0: no averaged weights
    max_area_share: float = 0.9  # paper A: larger masks are dropped
    min_area: int = 40  # crop pixels; assumed: below it a mask is a few grid cells
    schedule: ClickSchedule = field(default_factory=ClickSchedule)
    annotator: Annotator = field(default_factory=Annotator)
    losses: LossWeights = field(default_factory=LossWeights)
    is_single_output: bool = False  # an ambiguous prompt gets the one answer that others get (paper 3, ablated)
    has_all_answers: bool = False  # a lone click teaches the outputs every mask of its image here that it lies in
    answers_per_image: int = 0  # with all answers: so many further masks, the teacher's among them, that it may lie in
    single_output_weight: float = 0.0  # the single-answer token's loss on ambiguous prompts; paper: none
    augmentation: Augmentation = field(default_factory=Augmentation)
    pasting: Pasting = field(default_factory=Pasting)
    precision: str = "32-true"
    accumulate: int = 1  # a step's images go through in so many parts, one after the other
    checkpoint_activations: bool = False
    is_sharded: bool = False  # weights and optimiser spread over the processes (FSDP2), for what does not fit one
    compile: bool = False
    workers: int = 1
    seed: int = 0
    save_every: int = 100
    validate_every: int = 500
    validation_objects: int = 300

    def with_more(self, folders: list[str], share: float = 0.5) -> TrainConfig:
        """The same with `share` of the crops from further folders, equally often; what judged the run still does.

        For masks that another model made: they teach, and only what people drew says how well.
        """
        if not folders:
            return self
        weight = sum(source.weight for source in self.sources) * share / (1 - share) / len(folders)
        more = tuple(DataSource(folder, weight) for folder in folders)
        return dataclasses.replace(
            self,
            sources=self.sources + more,
            validation_sources=self.validation_sources or self.sources,
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)
