"""Routes that need the model: embeddings, the decoder's graph, decoding here, and segmenting for machines."""

from __future__ import annotations

import json
import threading
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import TypeAdapter, ValidationError

from anymask.server.errors import busy, invalid
from anymask.server.pictures import read_upload
from anymask.server.routes_images import Id
from anymask.server.schemas import DecodeIn, DecodeOut, PromptIn, SegmentedOut, SegmentOut
from anymask.server.service import Given

router = APIRouter(tags=["model"])

MAX_PROMPTS = 64
# Uploads in memory at once: 50 megapixels are 150 MB as RGB.
_uploads = threading.BoundedSemaphore(3)
_prompts = TypeAdapter(list[PromptIn])


@router.get("/api/images/{image_id}/embedding", response_class=FileResponse)
def get_embedding(service: Given, request: Request, image_id: Id) -> Response:
    """The image's embedding as float16 safetensors; 202 while it is being computed."""
    path = service.studio.embedding_file(service.find_picture(image_id))
    tag = f'"{service.studio.fingerprint}-{path.stem}"'
    headers = {"etag": tag, "cache-control": "private, max-age=0, must-revalidate"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


@router.get("/api/decoder/{part}.onnx", response_class=FileResponse)
def get_decoder(service: Given, part: Literal["preparation", "prompts"]) -> Response:
    """The decoder as two ONNX graphs, for an image and for its prompts; 202 while they are being written."""
    path = service.studio.decoder_file(part)
    headers = {"cache-control": "private, max-age=0, must-revalidate"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


@router.post("/api/images/{image_id}/decode")
def decode(service: Given, image_id: Id, prompt: DecodeIn) -> DecodeOut:
    """The masks of a prompt, decoded here; 202 while the embedding is being computed."""
    return service.studio.decode(service.find_picture(image_id), prompt)


@router.post("/segment")
def segment(
    service: Given,
    image: Annotated[UploadFile, File(description="a picture")],
    prompts: Annotated[str, Form(description="JSON: one prompt as for decode, or a list", max_length=8_000_000)],
) -> SegmentOut:
    """Masks for machines: one picture and its prompts in, the answers to each out."""
    asked = _parse_prompts(prompts)
    if not _uploads.acquire(timeout=30):
        raise busy("too many uploads at once", 2)
    try:
        image_hwc = read_upload(image.file.read(), service.rules.upload_pixels)
        milliseconds, answers = service.studio.segment(image_hwc, asked)
    finally:
        _uploads.release()
    return SegmentOut(
        fingerprint=service.studio.fingerprint,
        width=image_hwc.shape[1],
        height=image_hwc.shape[0],
        ms=milliseconds,
        answers=[SegmentedOut(masks=masks) for masks in answers],
    )


def _parse_prompts(text: str) -> list[PromptIn]:
    allowed = f"JSON of one prompt or of a list of 1 to {MAX_PROMPTS}"
    try:
        content = json.loads(text)
        prompts = _prompts.validate_python(content if isinstance(content, list) else [content])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise invalid(f"prompts: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise invalid(f"prompts is not {allowed}") from error
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise invalid(f"prompts has {len(prompts)} entries; allowed: {allowed}")
    return prompts
