"""`anymask train`, `calibrate` and `export-weights`: make a model from a recipe, and turn a run into a weights file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from anymask.errors import AnymaskError

if TYPE_CHECKING:
    from anymask.training.config import TrainConfig
    from anymask.training.pretrain import PretrainConfig

RunFolder = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: in the cache folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe (JSON value).")
]


def train(
    recipe: Annotated[str, typer.Argument(help="tiny, fine_tune, sam_vit_b, sam_vit_l or sam_vit_h.")],
    data: Annotated[Path, typer.Option(help="Folder of the data; what is expected in it is in the recipe.")],
    out: RunFolder = None,
    set_: Settings = None,
    more: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Also train on this folder, such as `anymask everything` writes."),
    ] = None,
    more_share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="How much of the training comes from --more.")
    ] = 0.5,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Learn from a larger model too: see `anymask teach`."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many further steps.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Start or continue a training run; it can be killed at any moment and goes on at the exact step.

    Under `torchrun --nproc-per-node N -m anymask train ...` N processes share every step.
    """
    config = read_recipe(recipe, data, more or [], more_share)
    if teacher is not None:
        config = dataclasses.replace(config, teacher=str(teacher))
    config = with_settings(config, set_ or [])
    if show:
        typer.echo(config.to_json())
        return
    import torch

    from anymask.model.cache import cache_folder
    from anymask.training.loop import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or cache_folder() / "train" / recipe
    scores = run(config, folder, device=device, max_steps=max_steps)
    if scores:
        typer.echo(json.dumps({"run": str(folder), **scores}))


def read_recipe(name: str, data: Path, more: list[Path], more_share: float) -> TrainConfig:
    """Raises `AnymaskError` for a recipe that is not there."""
    from anymask.training.recipes import RECIPES

    if name not in RECIPES:
        raise AnymaskError(f"recipe {name!r} is not known; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name](data).with_more([str(folder) for folder in more], more_share)


def calibrate(
    recipe: Annotated[str, typer.Argument(help="The recipe of the run.")],
    data: Annotated[Path, typer.Option(help="Folder of the data, as for `anymask train`.")],
    out: RunFolder = None,
    set_: Settings = None,
    images: Annotated[
        int, typer.Option(min=1, help="From the answers on so many pictures that it was trained on.")
    ] = 900,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Fit predicted IoU to what a run's best weights answer, when training is over; masks stay as they are.

    A few minutes on two CPU cores. `anymask export-weights` comes after it.
    """
    import torch

    from anymask.model.cache import cache_folder
    from anymask.training.calibrate import calibrate_best
    from anymask.training.loop import progress_bar

    config = with_settings(read_recipe(recipe, data, [], 0.5), set_ or [])
    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or cache_folder() / "train" / recipe
    with progress_bar(is_visible=True) as progress:
        task = progress.add_task("calibrate", total=images, note="")
        scores = calibrate_best(
            folder, config, images=images, progress=lambda done: progress.update(task, completed=done)
        )
    typer.echo(json.dumps({"run": str(folder), **scores}))


def pretrain(
    recipe: Annotated[str, typer.Argument(help="tiny or vit_b.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos, searched in depth; no masks are needed.")],
    out: RunFolder = None,
    set_: Settings = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many further steps.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Teach an image encoder on photos without masks, by masked autoencoding; resumable like `train`.

    The run's encoder.safetensors starts a training: `anymask train RECIPE --set init_from=RUN/encoder.safetensors`.
    """
    from anymask.training.recipes import PRETRAIN_RECIPES

    if recipe not in PRETRAIN_RECIPES:
        raise AnymaskError(f"recipe {recipe!r} is not known; the recipes are {', '.join(PRETRAIN_RECIPES)}")
    config = with_settings(PRETRAIN_RECIPES[recipe](photos), set_ or [])
    if show:
        typer.echo(config.to_json())
        return
    import torch

    from anymask.model.cache import cache_folder
    from anymask.training.pretrain import pretrain as run

    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or cache_folder() / "pretrain" / recipe
    typer.echo(json.dumps({"run": str(folder), **run(config, folder, device=device, max_steps=max_steps)}))


Config = TypeVar("Config", bound="TrainConfig | PretrainConfig")


def with_settings(config: Config, settings: list[str]) -> Config:
    """The configuration with `key=value` changes; `outer.inner=value` reaches into its parts.

    Values are JSON, or plain words. Raises `AnymaskError` for an unknown key or a value of another type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise AnymaskError(f"--set {setting!r} has no '='; write key=value")
        config = _replaced(config, key.split("."), text, setting)
    return config


def _replaced(record: Any, path: list[str], text: str, setting: str) -> Any:
    names = [field.name for field in dataclasses.fields(record)]
    if path[0] not in names:
        raise AnymaskError(f"--set {setting!r}: {path[0]!r} is not a field; the fields are {', '.join(names)}")
    current = getattr(record, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(current):
            raise AnymaskError(f"--set {setting!r}: {path[0]!r} has no parts of its own")
        return dataclasses.replace(record, **{path[0]: _replaced(current, path[1:], text, setting)})
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if current is not None and type(value) is not type(current):
        raise AnymaskError(f"--set {setting!r}: {path[0]!r} takes {type(current).__name__}, like {current!r}")
    return dataclasses.replace(record, **{path[0]: value})


def export_weights(
    run: Annotated[Path, typer.Argument(help="Run folder with best.safetensors.")],
    destination: Annotated[Path, typer.Argument(help="The weights file to write.")],
    only_if_better: Annotated[
        bool, typer.Option(help="Leave a file alone whose own held-out score is as high or higher.")
    ] = True,
) -> None:
    """Turn a run's best averaged weights into one half-precision safetensors file with its scores inside."""
    from anymask.training.export import export_best

    typer.echo(export_best(run, destination, only_if_better=only_if_better))
