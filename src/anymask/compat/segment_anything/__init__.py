"""The surface of Meta's `segment_anything` 1.0 over this package's parts.

Code written for that package runs with only its import changed: the same names, signatures, attributes, numbers and
state-dict keys. `as_reference` is our own: any anymask model as an object that these classes, and Meta's own, accept.
"""

from anymask.compat.segment_anything.as_reference import as_reference
from anymask.compat.segment_anything.automatic_mask_generator import SamAutomaticMaskGenerator
from anymask.compat.segment_anything.build_sam import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    sam_model_registry,
)
from anymask.compat.segment_anything.predictor import SamPredictor

__all__ = [
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "as_reference",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "sam_model_registry",
]
