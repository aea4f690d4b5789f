"""`anymask evaluate text`: stands for the paper's fifth experiment until phrases can be prompts."""

from __future__ import annotations

from anymask.errors import AnymaskError


def text() -> None:
    """Masks for phrases (paper, section 7.5). Not possible yet: this says what is missing."""
    raise AnymaskError(
        "text prompts cannot be judged yet. Missing: a text encoder whose vectors a model takes as a prompt, and a "
        "model trained with image embeddings of masked regions (paper, 7.5 and D.5); "
        "allowed: points, edges, proposals, instances, fairness, coverage or quality"
    )
