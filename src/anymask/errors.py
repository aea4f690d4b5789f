"""What can go wrong, each with a message that names the argument, its value and what is allowed.

Every error derives from `AnymaskError`, so that the command line can print one line for any of them and
let a real bug keep its traceback.
"""


class AnymaskError(Exception):
    """Something the user can put right: bad input, a bad file, a missing optional package."""


class PromptError(AnymaskError, ValueError):
    """A prompt that cannot be answered: outside the image, NaN, empty, of the wrong shape, a box with no area."""


class ImageError(AnymaskError, ValueError):
    """An image that cannot be read or has a shape or type that is not an image's."""


class CheckpointError(AnymaskError, ValueError):
    """Weights that cannot be loaded: truncated, of another variant, with foreign keys, or not weights at all."""


class DataError(AnymaskError, ValueError):
    """A dataset folder or annotation file that is broken; the message names the file."""


class DownloadError(AnymaskError):
    """A checkpoint that could not be fetched; the message says where to put the file by hand."""


class EmbeddingError(AnymaskError, ValueError):
    """A saved image embedding that is broken, or that another model made."""
