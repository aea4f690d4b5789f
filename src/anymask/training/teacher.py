"""What a larger model sees in the training images, for a smaller one to learn (distillation, Hinton et al. 2015).

The teacher's embeddings are computed once per picture and kept in a folder, one float16 file each, found by the
checksum of the picture's own bytes: a copy in another folder, or in a tar, is the same picture. They say something of
every cell of every image, where masks speak of a few objects, and need no masks at all.
Legend: I images, C the teacher's channels, S crop side, g = S / CELL grid side.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.data.images import read_image
from anymask.data.sa1b import Annotation, Sample, parse_annotations, read_json, write_bytes_atomically
from anymask.errors import AnymaskError, DataError, ImageError
from anymask.model.checkpoints import fingerprint
from anymask.model.image_encoder import ImageEncoder, ImageFeatures
from anymask.model.segmenter import Segmenter
from anymask.training.augment import Crop

FACTS_FILE = "teacher.json"
NUM_MEASURED = 64  # pictures that say how large the embedding's numbers are; "assumed" to be enough
# Padding that the teacher sees around the picture, in its cells: as little as changes next to nothing, since padding to
# a square costs a third of the time. "Measured" on MobileSAM: 8 cells change the embedding by a tenth of its spread, at
# the border alone; none changes it by a third.
MARGIN = 8
# Crop pixels along each side of the squares that student and teacher are compared on. At `tiny`'s input of 512 pixels
# they are as many as the cells of SAM's embedding of the same picture.
CELL = 8


class TeacherFolder:
    """The embeddings that `keep_embedding` left in a folder, normalised per channel."""

    def __init__(self, folder: str | Path) -> None:
        """Raises `DataError` when the folder holds none."""
        self.folder = Path(folder)
        self.channels = teacher_channels(folder)
        measured = [np.load(path) for path in sorted(self.folder.glob("*.npy"))[:NUM_MEASURED]]
        if not measured:
            raise DataError(f"{folder}: holds no embeddings yet; allowed: a folder that `anymask teach` wrote")
        cells = np.concatenate([features.reshape(self.channels, -1) for features in measured], 1).astype(np.float32)
        self.mean = torch.from_numpy(cells.mean(axis=1))[:, None, None]
        self.spread = torch.from_numpy(cells.std(axis=1)).clamp(min=1e-6)[:, None, None]

    def lesson(self, encoded: bytes, crop: Crop) -> tuple[Tensor, Tensor]:
        """What the teacher sees in each cell of a crop, (C, g, g) float16, and where that is known, (g, g) bool.

        It is known where the crop is image, and nowhere for a picture that the teacher was not shown.
        """
        grid = crop.crop_size // CELL
        path = self.folder / f"{picture_key(encoded)}.npy"
        if not path.exists():
            return torch.zeros(self.channels, grid, grid).half(), torch.zeros(grid, grid).bool()
        features = torch.from_numpy(np.load(path).astype(np.float32))
        sampled, is_image = sample_crop(features, crop)
        return ((sampled - self.mean) / self.spread).half(), is_image

    def answers(self, sample: Sample) -> tuple[Annotation, ...]:
        """What the teacher answered to clicks on a picture's objects; nothing where it was not asked.

        Raises `DataError`, naming the file, when it is broken.
        """
        path = self.folder / f"{picture_key(sample.encoded())}.json"
        return parse_annotations(read_json(path), path)[1] if path.exists() else ()


def picture_key(encoded: bytes) -> str:
    """The name that a picture's embedding is kept under."""
    return hashlib.sha256(encoded).hexdigest()[:16]


def sample_crop(features_chw: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Whole-picture features (C, h, w) at the middle of each cell of a crop: (C, g, g), and (g, g) where it is image.

    The cells of the longer side cover the picture exactly; those of the other may reach beyond it.
    """
    height, width = features_chw.shape[-2:]
    source_cell = max(crop.size_hw) / max(height, width)
    middle = (torch.arange(crop.crop_size // CELL) + 0.5) * CELL
    target_h, target_w = crop.target_hw
    along_x = target_w - middle if crop.is_flipped else middle
    y = (crop.y0 + middle * (crop.y1 - crop.y0) / target_h) / source_cell
    x = (crop.x0 + along_x * (crop.x1 - crop.x0) / target_w) / source_cell
    rows, columns = torch.meshgrid(2 * y / height - 1, 2 * x / width - 1, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    sampled = F.grid_sample(features_chw[None], grid, padding_mode="border", align_corners=False)[0]
    return sampled, (middle[:, None] < target_h) & (middle < target_w)


class TeacherHead(nn.Module):
    """Linear maps from an encoder's features to the teacher's, thrown away after training.

    From the embedding, and where there are skip maps from the first of them too, which is finer. It starts at zero:
    the encoder is left alone until the head has learned what is there already.
    """

    def __init__(self, encoder: ImageEncoder, channels: int) -> None:
        super().__init__()
        self.from_embedding = nn.Conv2d(encoder.embed_dim, channels, 1)
        self.from_skip = nn.Conv2d(encoder.skip_channels[0], channels, 1) if encoder.skip_channels else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: ImageFeatures, grid_size: int) -> Tensor:
        """(I, C, g, g)."""
        drawn = _resized(self.from_embedding(features.embedding), grid_size)
        if self.from_skip is None:
            return drawn
        return drawn + _resized(self.from_skip(features.skips[0]), grid_size)


def _resized(maps: Tensor, size: int) -> Tensor:
    """Maps (I, C, h, w) as (I, C, size, size); as they are where they have that size."""
    return maps if maps.shape[-2:] == (size, size) else F.interpolate(maps, (size, size), mode="bilinear")


def teacher_loss(drawn: Tensor, seen: Tensor, is_known: Tensor) -> Tensor:
    """Mean squared error over known cells: (I, C, g, g), the same, (I, g, g) bool; 1 is what a mean would reach."""
    error = (drawn.float() - seen.float()).square().mean(dim=1)
    return (error * is_known).sum() / is_known.sum().clamp(min=1)


def open_for_teacher(model: Segmenter, folder: Path) -> None:
    """Make a folder for a teacher's embeddings, or make sure that it is this teacher's: else `AnymaskError`."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"model": model.name, "fingerprint": fingerprint(model), "channels": model.image_encoder.embed_dim}
    path = folder / FACTS_FILE
    if not path.exists():
        write_bytes_atomically(path, json.dumps(facts, indent=1).encode())
    found = json.loads(path.read_text())
    if found != facts:
        raise AnymaskError(
            f"{folder} holds embeddings of {found['model']} ({found['fingerprint']}), not of {model.name} "
            f"({facts['fingerprint']}); use another folder"
        )


def keep_embedding(model: Segmenter, picture: Path, folder: Path) -> None:
    """Embed a picture that `folder` lacks. Raises `ImageError` for one that can't be read."""
    try:
        kept = folder / f"{picture_key(picture.read_bytes())}.npy"
    except OSError as error:
        raise ImageError(f"{picture}: cannot be read ({error.strerror})") from error
    if not kept.exists():
        content = io.BytesIO()
        np.save(content, embed(model, picture))
        write_bytes_atomically(kept, content.getvalue())


@torch.inference_mode()
def embed(model: Segmenter, path: Path) -> np.ndarray:
    """One picture's embedding, of its own cells alone: (C, h, w) float16."""
    pixels, frame = model.preprocess(read_image(path))
    stride = model.image_encoder.stride
    own_h, own_w = (-(-side // stride) for side in frame.resized_hw)
    seen_h, seen_w = (own_h + MARGIN) * stride, (own_w + MARGIN) * stride  # or as much padding as there is
    features = model.encode(pixels[..., :seen_h, :seen_w].contiguous())
    return features.embedding[0, :, :own_h, :own_w].half().cpu().numpy()


def teacher_channels(folder: str | Path) -> int:
    """How many channels the embeddings in a folder have. Raises `DataError` for another folder."""
    path = Path(folder) / FACTS_FILE
    if not path.is_file():
        raise DataError(f"{folder}: has no {FACTS_FILE}; allowed: a folder that `anymask teach` wrote")
    return int(json.loads(path.read_text())["channels"])
