"""Routes about the folder as a whole: what a page needs to begin, how far it is, and everything out."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from anymask.errors import DataError
from anymask.server.errors import invalid
from anymask.server.export import Include, export_zip
from anymask.server.images import count_all
from anymask.server.schemas import MAX_LOG_ENTRIES, DecoderOut, ModelOut, SessionOut
from anymask.server.service import Given, Service, Who
from anymask.server.statistics import collect_statistics
from anymask.version import __version__

router = APIRouter(tags=["folder"])


@router.get("/api/session")
def get_session(service: Given, who: Who) -> SessionOut:
    """The model, the rules, the labels and how far the folder is."""
    rules = service.rules
    missing = service.studio.decoder_missing()
    with service.store.reading() as session:
        counts = count_all(session)
    return SessionOut(
        version=__version__,
        folder=service.folder.resolve().name,
        annotator=who,
        annotator_fixed=rules.identify is not None,
        model=_model_out(service),
        decoder=DecoderOut(
            available=missing is None,
            reason=missing,
            preparation_url=f"api/decoder/preparation.onnx?v={service.studio.fingerprint}",
            prompts_url=f"api/decoder/prompts.onnx?v={service.studio.fingerprint}",
        ),
        labels=list(rules.labels),
        seconds_per_mask=rules.seconds_per_mask,
        lease_seconds=rules.lease_seconds,
        limits={
            "draft_bytes": rules.draft_bytes,
            "body_bytes": rules.body_bytes,
            "upload_bytes": rules.upload_bytes,
            "upload_pixels": rules.upload_pixels,
            "log_entries": MAX_LOG_ENTRIES,
        },
        counts=counts,
        problems=service.problems[:50],
    )


@router.get("/api/stats")
def get_statistics(service: Given) -> dict[str, Any]:
    """Time per mask, masks per image and clicks per mask, of all and per person and day."""
    with service.store.reading() as session:
        return collect_statistics(session).to_json()


@router.get("/api/export", response_class=FileResponse)
def export(service: Given, format: Literal["sa1b", "coco"] = "sa1b", include: Include = "accepted") -> FileResponse:
    """All masks as a zip file; include=all adds what was prefilled and is not accepted yet."""
    try:
        path = export_zip(service.store, service.folder, format, include)
    except DataError as error:
        raise invalid(f"the masks cannot be written as {format}: {error}") from error
    name = f"anymask-{format}.zip"
    return FileResponse(path, media_type="application/zip", filename=name, background=BackgroundTask(path.unlink))


def _model_out(service: Service) -> ModelOut:
    model = service.studio.model
    spec = model.input_spec
    return ModelOut(
        name=model.name,
        fingerprint=service.studio.fingerprint,
        longest_side=spec.longest_side,
        pad_multiple=spec.pad_multiple,
        stride=model.image_encoder.stride,
        embed_dim=model.image_encoder.embed_dim,
        pixel_mean=list(spec.pixel_mean),
        pixel_std=list(spec.pixel_std),
    )
