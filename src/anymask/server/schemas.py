"""What goes over the wire: pydantic models of requests and answers, with every limit that can be said in a schema."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

MAX_LOG_ENTRIES = 5000
MAX_POINTS = 512
MAX_ID = 2**31 - 1
# Seconds in a year: a duration above it is a broken clock.
MAX_SECONDS = 31_536_000.0

Stage = Literal["assisted-manual", "semi-automatic", "prefilled"]
Status = Literal["proposed", "accepted", "deleted"]
DoneReason = Literal["complete", "good-enough", "skip"]


def is_plain_text(text: str) -> bool:
    """Whether every character can be stored anywhere and printed: no controls, no halves of surrogate pairs."""
    return all(ord(character) >= 32 and not 0xD800 <= ord(character) < 0xE000 for character in text)


def _plain_text(text: str) -> str:
    if not is_plain_text(text):
        raise ValueError("control characters and lone surrogates are not allowed")
    return text


PlainText = Annotated[str, AfterValidator(_plain_text)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e7, le=1e7)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=MAX_SECONDS)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4)]
Category = Annotated[PlainText, Field(min_length=1, max_length=100)]
Fingerprint = Annotated[str, Field(pattern="^[0-9a-zA-Z_.-]{1,64}$")]
ImageId = Annotated[int, Field(ge=1, le=MAX_ID)]


class Received(BaseModel):
    """A request: what is not known is refused, so that a misspelt field is noticed."""

    model_config = ConfigDict(extra="forbid", strict=False)


class RleIn(Received):
    """A COCO run-length code: compressed text, or the plain list of run lengths."""

    size: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ID)]], Field(min_length=2, max_length=2)]
    counts: str | list[Annotated[int, Field(ge=0, le=MAX_ID)]]


class RleOut(BaseModel):
    """A COCO run-length code with compressed counts."""

    size: list[int]
    counts: str


class LogEntry(Received):
    """One thing an annotator did; t: seconds since the mask was begun."""

    t: Seconds
    kind: Literal["point", "box", "brush", "eraser", "polygon", "candidate", "undo", "redo", "clear", "accept"]
    xy: Point | None = None
    label: Literal[0, 1] | None = None
    box: Box | None = None
    size: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e5)] | None = None
    index: Annotated[int, Field(ge=0, le=1000)] | None = None
    by: Literal["page", "server"] | None = None


Log = Annotated[list[LogEntry], Field(max_length=MAX_LOG_ENTRIES)]


class PromptIn(Received):
    """One object's prompt in pixels of the upright image; see `anymask.Prompt`."""

    points: Annotated[list[Point], Field(max_length=MAX_POINTS)] | None = None
    labels: Annotated[list[Literal[0, 1]], Field(max_length=MAX_POINTS)] | None = None
    box: Box | None = None
    mask_logits: Annotated[str, Field(max_length=4_000_000, description="base64 of float16 (4h, 4w)")] | None = None
    multimask: bool | None = None


class DecodeIn(PromptIn):
    """A prompt about an image of the folder. best_only: the best mask alone, which is quicker."""

    return_logits: bool = False
    best_only: bool = False


class MaskOut(BaseModel):
    """One answer. token_index: 0 the single answer, 1 to 3 the ambiguous ones."""

    segmentation: RleOut
    score: float
    token_index: int
    area: int
    bbox: list[float]
    mask_logits: str | None = None


class DecodeOut(BaseModel):
    """Answers, best first; ms: what the model took."""

    fingerprint: str
    ms: float
    masks: list[MaskOut]


class SegmentedOut(BaseModel):
    """The answers to one prompt of `POST segment`."""

    masks: list[MaskOut]


class SegmentOut(BaseModel):
    """The answers to all prompts about an uploaded image, in their order."""

    fingerprint: str
    width: int
    height: int
    ms: float
    answers: list[SegmentedOut]


class LeaseOut(BaseModel):
    """Who has an image; mine: whether that is who asks."""

    holder: str
    mine: bool
    expires_at: datetime


class FrameOut(BaseModel):
    """How the image lies in the model's input; see `anymask.geometry.resize.Frame`."""

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]


class ImageOut(BaseModel):
    """One picture of the folder. masks: accepted ones; proposed: prefilled ones that wait."""

    id: int
    file_name: str
    width: int
    height: int
    state: Literal["open", "done", "broken"]
    problem: str | None
    masks: int
    proposed: int
    lease: LeaseOut | None
    done_by: str | None
    done_at: datetime | None
    done_reason: str | None
    frame: FrameOut
    embedding: Literal["ready", "queued", "none", "failed"]


class ImagesOut(BaseModel):
    """A page of the list."""

    total: int
    offset: int
    images: list[ImageOut]


class NextIn(Received):
    """after: the image left behind; None asks for what one holds already."""

    after: ImageId | None = None


class NextOut(BaseModel):
    """The image to do next; None when nothing is left."""

    image: ImageOut | None
    lease: LeaseOut | None


class LeaseIn(Received):
    """take: also from somebody who holds it."""

    take: bool = False


class DoneIn(Received):
    """reason: all objects done, good enough (the paper's rule), or left out."""

    reason: DoneReason = "complete"
    accept_proposed: bool = False
    seconds: Seconds | None = None


class AnnotationIn(Received):
    """A new mask. The client makes the id, so that the request can be repeated."""

    id: UUID
    segmentation: RleIn
    stage: Stage = "assisted-manual"
    category: Category | None = None
    predicted_iou: Annotated[float, Field(allow_inf_nan=False, ge=-100, le=100)] | None = None
    log: Log = []
    duration_s: Seconds = 0.0
    model_fingerprint: Fingerprint | None = None


class AnnotationEdit(Received):
    """A change: only the fields that are given. version: the one that was seen."""

    version: ImageId
    edit_id: UUID
    segmentation: RleIn | None = None
    category: Category | None = None
    predicted_iou: Annotated[float, Field(allow_inf_nan=False, ge=-100, le=100)] | None = None
    status: Status | None = None
    log: Log = []
    duration_s: Seconds = 0.0
    model_fingerprint: Fingerprint | None = None


class RestoreIn(Received):
    """version: the one that was seen."""

    version: ImageId


class AnnotationOut(BaseModel):
    """One object's mask as it stands."""

    id: str
    image_id: int
    version: int
    status: Status
    stage: Stage
    segmentation: RleOut
    area: int
    bbox: list[float]
    category: str | None
    predicted_iou: float | None
    fixed: bool
    clicks: int
    duration_s: float
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str
    model_fingerprint: str | None


class AnnotationsOut(BaseModel):
    """The masks of an image, oldest first."""

    annotations: list[AnnotationOut]


class EditOut(BaseModel):
    """One step of an annotation's history."""

    version: int
    kind: str
    at: datetime
    by: str
    status: Status
    segmentation: RleOut
    category: str | None
    log: list[dict[str, Any]]
    duration_s: float
    model_fingerprint: str | None


class HistoryOut(BaseModel):
    """All steps, oldest first."""

    edits: list[EditOut]


class DraftIn(Received):
    """The unfinished mask. revision: counted up by the page; content: whatever the page needs to go on."""

    annotation_id: UUID | None = None
    revision: Annotated[int, Field(ge=0, le=MAX_ID)]
    content: dict[str, JsonValue]


class DraftSaved(BaseModel):
    """What is now stored."""

    revision: int
    saved_at: datetime


class ModelOut(BaseModel):
    """The model and how it wants its pixels."""

    name: str
    fingerprint: str
    longest_side: int
    pad_multiple: int | None
    stride: int
    embed_dim: int
    pixel_mean: list[float]
    pixel_std: list[float]


class DecoderOut(BaseModel):
    """Whether the page may decode itself."""

    available: bool
    reason: str | None
    preparation_url: str
    prompts_url: str


class CountsOut(BaseModel):
    """How far the folder is."""

    images: int
    open: int
    done: int
    broken: int
    masks: int
    proposed: int


class SessionOut(BaseModel):
    """All that a page needs to begin."""

    version: str
    folder: str
    annotator: str
    annotator_fixed: bool
    model: ModelOut
    decoder: DecoderOut
    labels: list[str]
    seconds_per_mask: float
    lease_seconds: float
    limits: dict[str, int]
    counts: CountsOut
    problems: list[str]
