"""What the mask decoder makes of an image before any prompt comes.

Legend: I images, C channels, h w embedding cells, P = h * w, C8 and C4 channels at strides 8 and 4. "By line" is an
order of finer cells, see `finer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from anymask.model.image_encoder import ImageFeatures
from anymask.model.known_image import KnownEnd, KnownImage
from anymask.model.layers import StackedMLPs


@dataclass(frozen=True)
class PreparedFeatures(ImageFeatures):
    """Image features with what is made of them alone, once per image.

    The skip maps by line, with all biases: `at_stride8` (I, 2, P, 2 C8) and `at_stride4` (I, 4, 2 P, 2 C4), or
    (1, ..., 1, K) where there are no skip maps. `weights` are the upscaling's. Of one image, where asked for: `known`,
    what the transformer makes of it with what every prompt adds, `known_at_stride8`, what the upscaling makes of that,
    and the mask outputs' `heads`.
    """

    at_stride8: Tensor = field(kw_only=True)
    at_stride4: Tensor = field(kw_only=True)
    weights: LineWeights = field(kw_only=True)
    known: KnownImage | None = field(kw_only=True, default=None)
    known_at_stride8: KnownStride8 | None = field(kw_only=True, default=None)
    heads: StackedMLPs | None = field(kw_only=True, default=None)

    @property
    def is_whole(self) -> bool:
        """Whether prompts need no map of their own, see `known_image.py`."""
        return self.known_at_stride8 is not None


class LineWeights(NamedTuple):
    """The upscaling's weights as matrices of both lines, see `line_weight`, put in order once for all prompts.

    to_stride8 (2, C, 2 C8), to_stride4 (2, C8, 2 C4).
    """

    to_stride8: Tensor
    to_stride4: Tensor


class KnownStride8(NamedTuple):
    """What the upscaling to stride 8 makes of a known image, by line: see `FactoredMap` and `PreparedFeatures`.

    of_base (2, P, 2 C8), of_rows (2, C, 2 C8), and the rest, at_stride8 (1, 2, P or 1, 2 C8).
    """

    of_base: Tensor
    of_rows: Tensor
    at_stride8: Tensor

    @staticmethod
    def of(end: KnownEnd, to_stride8: Tensor, at_stride8: Tensor) -> KnownStride8:
        constant = (end.constant @ to_stride8)[None, :, None]
        return KnownStride8(end.base @ to_stride8, end.row_weight[:, None] * to_stride8, at_stride8 + constant)
