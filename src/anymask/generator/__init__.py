"""Automatic masks: everything in an image (paper 4 and B), one image or a folder of them."""

from anymask.generator.generate import MaskGenerator

__all__ = ["MaskGenerator"]
