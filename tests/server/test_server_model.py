"""Embeddings, the decoder's graph, decoding on the server, and segmenting for machines."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotating import ask_until_ready
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load

from anymask.geometry.masks import mask_iou
from anymask.geometry.rle import decode_rle
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor


@pytest.fixture
def predictor(random_tiny: Segmenter, folder: Path) -> Predictor:
    predictor = Predictor(random_tiny)
    predictor.set_image(folder / "a.png")
    return predictor


def test_the_embedding_is_the_models_in_half_precision(client: TestClient, predictor: Predictor) -> None:
    assert client.get("/api/images/1").json()["embedding"] in ("none", "queued")
    answer = ask_until_ready(client, "GET", "/api/images/1/embedding")
    assert answer.headers["content-type"] == "application/octet-stream"
    tensors = load(answer.content)
    assert predictor.embedding is not None
    features = predictor.embedding.features
    assert set(tensors) == {"embedding", "skip_0", "skip_1"}
    assert tensors["embedding"].dtype == torch.float16
    assert torch.allclose(tensors["embedding"].float(), features.embedding, rtol=1e-2, atol=1e-3)
    assert client.get("/api/images/1").json()["embedding"] == "ready"
    etag = {"if-none-match": answer.headers["etag"]}
    assert client.get("/api/images/1/embedding", headers=etag).status_code == 304


def test_leasing_an_image_prepares_those_after_it(client: TestClient) -> None:
    client.post("/api/queue/next", json={})
    end = time.monotonic() + 60
    states: list[str] = []
    while states != ["ready"] * 3 and time.monotonic() < end:
        time.sleep(0.05)
        states = [image["embedding"] for image in client.get("/api/images").json()["images"]]
    assert states == ["ready"] * 3, "though nobody asked for them"


def test_decoding_answers_what_the_predictor_does(client: TestClient, predictor: Predictor) -> None:
    prompt = {"points": [[40, 35]], "labels": [1], "return_logits": True}
    answer = ask_until_ready(client, "POST", "/api/images/1/decode", json=prompt).json()
    own = predictor.predict(points=[[40, 35]])
    assert [mask["token_index"] for mask in answer["masks"]] == own.token_index.tolist()
    for mask, expected in zip(answer["masks"], own.masks, strict=True):
        assert mask_iou(decode_rle(mask["segmentation"]), expected) > 0.97
    packed = answer["masks"][0]["mask_logits"]
    logits = np.frombuffer(base64.b64decode(packed), "<f2").reshape(own.logits.shape[1:])
    assert np.abs(logits - own.logits[0]).max() < 0.05 * np.abs(own.logits).max()
    second = {"points": [[40, 35], [90, 90]], "labels": [1, 0], "mask_logits": packed}
    refined = client.post("/api/images/1/decode", json=second).json()["masks"]
    again = predictor.predict(points=[[40, 35], [90, 90]], labels=[1, 0], mask_logits=own.logits[:1])
    assert [mask["token_index"] for mask in refined] == [0]
    assert mask_iou(decode_rle(refined[0]["segmentation"]), again.best) > 0.97
    best = client.post("/api/images/1/decode", json={**prompt, "best_only": True}).json()["masks"]
    assert best == answer["masks"][:1]


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ({}, "empty"),
        ({"points": [[160, 10]]}, "outside"),
        ({"points": [[1, 1]], "labels": [1, 0]}, "labels"),
        ({"points": [[1]]}, "points"),
        ({"box": [5, 5, 5, 9]}, "area"),
        ({"points": [[1, 1]], "mask_logits": "AAAA"}, "mask_logits"),
        ({"points": [[1, 1]], "mask_logits": "%%"}, "base64"),
        ({"points": [[1, 1]] * 600}, "points"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(client: TestClient, prompt: dict[str, Any], named: str) -> None:
    answer = ask_until_ready(client, "POST", "/api/images/1/decode", json=prompt)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


def test_the_decoder_comes_as_graphs_that_decode_the_embedding(client: TestClient, predictor: Predictor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs anymask[export]")
    assert client.get("/api/session").json()["decoder"]["available"] is True
    preparation, decoder = (
        onnxruntime.InferenceSession(
            ask_until_ready(client, "GET", f"/api/decoder/{part}.onnx").content, providers=["CPUExecutionProvider"]
        )
        for part in ("preparation", "prompts")
    )
    tensors = load(ask_until_ready(client, "GET", "/api/images/1/embedding").content)
    frame = client.get("/api/images/1").json()["frame"]
    scale = np.array(frame["resized_hw"][::-1]) / np.array(frame["original_hw"][::-1])
    height, width = tensors["embedding"].shape[-2:]
    maps = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    made = dict(zip([port.name for port in preparation.get_outputs()], preparation.run(None, maps), strict=True))
    wanted = {port.name for port in decoder.get_inputs()}
    inputs = {name: values for name, values in (maps | made).items() if name in wanted} | {
        "points_xy": np.array([[np.array([40, 35]) * scale, [0, 0]]], dtype=np.float32),
        "labels": np.array([[1, -1]], dtype=np.int32),
        "mask_input": np.zeros((1, 1, 4 * height, 4 * width), dtype=np.float32),
        "has_mask": np.zeros(1, dtype=np.float32),
    }
    logits, ious = decoder.run(["logits", "ious"], inputs)
    answer = client.post("/api/images/1/decode", json={"points": [[40, 35]], "return_logits": True}).json()["masks"]
    for mask in answer:
        served = np.frombuffer(base64.b64decode(mask["mask_logits"]), "<f2").reshape(logits.shape[-2:])
        np.testing.assert_allclose(logits[0, mask["token_index"]], served, rtol=2e-3, atol=2e-3)
        assert ious[0, mask["token_index"]] == pytest.approx(mask["score"], abs=1e-4)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def test_segmenting_an_upload(client: TestClient, predictor: Predictor, photo: Any) -> None:
    prompts = [{"points": [[40, 35]]}, {"box": [80, 10, 140, 70]}]
    files = {"image": ("a.png", png(photo.image), "image/png")}
    answer = client.post("/segment", files=files, data={"prompts": json.dumps(prompts)})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert (content["width"], content["height"]) == (160, 120)
    own = [predictor.predict(points=[[40, 35]]), predictor.predict(box=[80, 10, 140, 70])]
    for answered, expected in zip(content["answers"], own, strict=True):
        assert [mask["segmentation"] for mask in answered["masks"]] == expected.to_rle()
    alone = client.post("/segment", files=files, data={"prompts": json.dumps(prompts[0])}).json()
    assert alone["answers"] == content["answers"][:1]


@pytest.mark.parametrize(
    ("content", "prompts", "status"),
    [
        (b"", '{"points": [[1, 1]]}', 422),
        (b"\x89PNG\r\n\x1a\nrest", '{"points": [[1, 1]]}', 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", '{"points": [[1, 1]]}', 422),
        (None, "", 422),
        (None, "[]", 422),
        (None, '{"points": [[1e999, 1]]}', 422),
        (None, '{"points": [[500, 1]]}', 422),
        (None, "[" * 100_000, 422),
        (None, '{"points": "\\ud800"}', 422),
    ],
)
def test_uploads_that_cannot_be_answered(
    client: TestClient, photo: Any, content: bytes | None, prompts: str, status: int
) -> None:
    image = png(photo.image) if content is None else content
    answer = client.post("/segment", files={"image": ("a.png", image)}, data={"prompts": prompts})
    assert answer.status_code == status
    assert answer.json()["code"] == "invalid"
