from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import anymask
from anymask.errors import EmbeddingError, ImageError, PromptError
from anymask.predictor import INVALID_LOGIT, Predictor
from anymask.prompts import Prompt
from anymask.records import Masks

HEIGHT, WIDTH = 120, 160  # of the `photo` fixture
LOGITS_HW = (48, 64)  # the model sees 192 x 256; a quarter of it
TOLERANCE = 1e-4


@pytest.fixture
def predictor(random_tiny, photo):
    predictor = Predictor(random_tiny)
    predictor.set_image(photo.image)
    return predictor


def assert_same(one: Masks, other: Masks, tolerance: float = 0.0):
    np.testing.assert_array_equal(one.token_index, other.token_index)
    np.testing.assert_allclose(one.scores, other.scores, atol=tolerance, rtol=0)
    np.testing.assert_allclose(one.logits, other.logits, atol=tolerance, rtol=tolerance / 10)


def differs(one: Masks, other: Masks) -> bool:
    return len(one) != len(other) or float(np.abs(one.logits - other.logits).max()) > 1e-2


def test_a_point_has_three_answers_best_first(predictor):
    answer = predictor.predict(points=[[40, 35]])
    assert answer.masks.shape == (3, HEIGHT, WIDTH)
    assert answer.masks.dtype == bool
    assert answer.logits.shape == (3, *LOGITS_HW)
    assert answer.logits.dtype == np.float32
    assert answer.scores.shape == (3,)
    assert (np.diff(answer.scores) <= 0).all()
    assert sorted(answer.token_index) == [1, 2, 3]
    assert 0 < answer.masks.mean() < 1


def test_every_output_keeps_its_own_score(predictor):
    """Best first is a new order of all outputs, not of the scores alone."""
    answer = predictor.predict(points=[[40, 35]])
    one = predictor.predict(points=[[40, 35]], multimask=False)
    assert one.token_index.tolist() == [0]
    prompts = predictor._to_tensors(
        [anymask.prompts.check_prompt(Prompt(points=[[40, 35]]), (HEIGHT, WIDTH), LOGITS_HW)], LOGITS_HW
    )
    with torch.inference_mode():
        features = predictor.model.prepare(predictor.embedding.features)
        logits, scores = predictor.model.decode(features, prompts)
    for masks in (answer, one):
        np.testing.assert_allclose(masks.logits, logits[0, masks.token_index].numpy(), atol=TOLERANCE, rtol=0)
        np.testing.assert_array_equal(masks.scores, scores[0, masks.token_index].numpy())


def test_every_kind_of_prompt_matters(predictor, photo):
    kinds = {
        "point": {"points": [[40, 35]]},
        "other point": {"points": [[110, 98]]},
        "background": {"points": [[40, 35]], "labels": [0]},
        "two points": {"points": [[40, 35], [110, 98]], "labels": [1, 0]},
        "box": {"box": [12, 15, 70, 60]},
        "box and point": {"points": [[40, 35]], "box": [12, 15, 70, 60]},
        "mask": {"mask": photo.masks_khw[0]},
        "other mask": {"mask": photo.masks_khw[1]},
        "mask and box": {"mask": photo.masks_khw[0], "box": [1, 1, 150, 110]},
        "logits": {"mask_logits": predictor.predict(points=[[40, 35]]).logits[:1]},
        "logits and point": {
            "points": [[40, 35]],
            "mask_logits": predictor.predict(points=[[40, 35]]).logits[:1],
        },
    }
    answers = {name: predictor.predict(**fields, multimask=False) for name, fields in kinds.items()}
    names = list(answers)
    same = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if not differs(answers[a], answers[b])]
    assert same == []


def test_a_mask_alone_is_a_mask_with_its_box(predictor, photo):
    mask = photo.masks_khw[0]
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert_same(predictor.predict(mask=mask), predictor.predict(mask=mask, box=box))
    assert len(predictor.predict(mask=mask)) == 1


def test_an_answer_can_be_fed_back(predictor):
    first = predictor.predict(points=[[40, 35]])
    again = predictor.predict(points=[[40, 35], [100, 90]], labels=[1, 0], mask_logits=first.logits[:1])
    assert again.masks.shape == (1, HEIGHT, WIDTH)
    flat = predictor.predict(points=[[40, 35], [100, 90]], labels=[1, 0], mask_logits=first.logits[0])
    assert_same(again, flat)
    without = predictor.predict(points=[[40, 35], [100, 90]], labels=[1, 0])
    assert differs(again, without)


def test_the_box_may_stick_out(predictor):
    assert_same(predictor.predict(box=[-50, 20, 90, 1000]), predictor.predict(box=[0, 20, 90, HEIGHT]), TOLERANCE)


@st.composite
def prompts(draw):
    """Any mixture of points, a box and a rough mask."""
    seed = draw(st.integers(0, 2**20))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(0, 4))
    has_box = draw(st.booleans())
    rough = draw(st.sampled_from(["none", "mask", "logits"]))
    fields = {"multimask": draw(st.sampled_from([None, True, False]))}
    if count:
        fields["points"] = rng.uniform(0, [WIDTH, HEIGHT], size=(count, 2))
        fields["labels"] = rng.integers(2, size=count)
    if has_box:
        x0, y0 = rng.uniform(0, 100), rng.uniform(0, 70)
        fields["box"] = [x0, y0, x0 + rng.uniform(1, 60), y0 + rng.uniform(1, 50)]
    if rough == "mask" or not (count or has_box or rough == "logits"):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        top, left = rng.integers(80), rng.integers(100)
        mask[top : top + 30, left : left + 50] = True
        fields["mask"] = mask
    elif rough == "logits":
        fields["mask_logits"] = rng.normal(0, 5, size=(1, *LOGITS_HW))
    return Prompt(**fields)


@settings(max_examples=40)
@given(batch=st.lists(prompts(), min_size=2, max_size=5))
def test_a_ragged_batch_gives_each_prompt_its_own_answer(random_tiny, embedding, batch):
    predictor = Predictor(random_tiny, prompts_per_batch=4)
    predictor.set_image(embedding)
    together = predictor.predict_batch(batch)
    assert len(together) == len(batch)
    for prompt, answer in zip(batch, together, strict=True):
        assert_same(answer, predictor.predict_batch([prompt])[0], TOLERANCE)


@pytest.fixture(scope="module")
def embedding(random_tiny):
    noise = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return anymask.encode(random_tiny, noise.repeat(20, axis=0).repeat(20, axis=1))


def test_no_prompts_no_answers(predictor):
    assert predictor.predict_batch([]) == []


def test_one_bad_prompt_names_itself(predictor):
    with pytest.raises(PromptError, match=r"box=\[200, 0, 300, 50\]"):
        predictor.predict_batch([Prompt(points=[[1, 1]]), Prompt(box=[200, 0, 300, 50])])


@given(seed=st.integers(0, 2**20), share=st.sampled_from([0, 0.001, 0.1, 0.9]))
def test_a_valid_mask_takes_pixels_away_and_nothing_else(random_tiny, embedding, seed, share):
    """Whatever it looks like, down to single pixels: the answer is the answer without it, cut."""
    predictor = Predictor(random_tiny)
    predictor.set_image(embedding)
    rng = np.random.default_rng(seed)
    x, y, x1, y1 = rng.integers([0, 0, 20, 20], [100, 80, 60, 40])
    valid = rng.random((HEIGHT, WIDTH)) < share
    valid[y : y + y1, x : x + x1] = True
    free = predictor.predict(points=[[x, y]])
    bound = predictor.predict(points=[[x, y]], valid_mask=valid)
    assert not (bound.masks & ~valid).any()
    assert not (bound.best & ~valid).any()
    np.testing.assert_array_equal(bound.masks, free.masks & valid)
    np.testing.assert_array_equal(bound.scores, free.scores)


def test_a_valid_mask_holds_for_what_is_fed_back(predictor):
    valid = np.zeros((HEIGHT, WIDTH), dtype=bool)
    valid[:, :80] = True
    bound = predictor.predict(points=[[40, 35]], valid_mask=valid)
    assert (bound.logits[:, :, 34:] == INVALID_LOGIT).all()
    assert (bound.logits[:, :, :32] != INVALID_LOGIT).all()


def with_alpha(image):
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


PICTURES = {
    "1 x N": lambda image: image[:1],
    "N x 1": lambda image: image[:, :1],
    "1 x 1": lambda image: image[:1, :1],
    "grey": lambda image: image[..., 0],
    "grey PIL": lambda image: Image.fromarray(image[..., 0]),
    "RGBA": with_alpha,
    "RGBA PIL": lambda image: Image.fromarray(with_alpha(image)),
    "16-bit": lambda image: image[..., 0].astype(np.uint16) * 200,
    "float": lambda image: image / 255,
    "not contiguous": lambda image: image[::2, ::-3],
    "very wide": lambda image: np.resize(image, (30, 20_000, 3)),
    "very high": lambda image: np.resize(image, (20_000, 30, 3)),
}


@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_every_kind_of_picture(random_tiny, photo, make):
    picture = make(photo.image)
    predictor = Predictor(random_tiny)
    predictor.set_image(picture)
    size_hw = picture.size[::-1] if isinstance(picture, Image.Image) else picture.shape[:2]
    answers = predictor.predict_batch(
        [
            Prompt(points=[[size_hw[1] - 1, size_hw[0] - 1]]),
            Prompt(box=[0, 0, size_hw[1], size_hw[0]]),
            Prompt(mask=np.ones(size_hw, bool)),
        ]
    )
    for answer in answers:
        assert answer.masks.shape == (len(answer), *size_hw)
        assert np.isfinite(answer.logits).all()
        assert np.isfinite(answer.scores).all()


def test_a_turned_photo_takes_prompts_as_it_is_seen(random_tiny, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo.image).save(tmp_path / "turned.png", exif=exif)
    predictor = Predictor(random_tiny)
    predictor.set_image(tmp_path / "turned.png")
    from_file = predictor.predict(points=[[100, 150]])
    assert from_file.masks.shape == (3, WIDTH, HEIGHT)
    predictor.set_image(np.rot90(photo.image, -1))
    assert_same(from_file, predictor.predict(points=[[100, 150]]))


def test_no_image_no_answer(random_tiny, photo):
    predictor = Predictor(random_tiny)
    with pytest.raises(PromptError, match="set_image"):
        predictor.predict(points=[[1, 1]])
    predictor.set_image(photo.image)
    predictor.reset_image()
    with pytest.raises(PromptError, match="set_image"):
        predictor.predict(points=[[1, 1]])


def test_a_failed_set_image_keeps_the_earlier_one(predictor, random_tiny, photo, tmp_path):
    before = predictor.predict(points=[[40, 35]])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    foreign = anymask.encode(changed(random_tiny), photo.image)
    for image, error in [
        (broken, ImageError),
        (tmp_path / "missing.png", ImageError),
        (np.zeros((0, 4, 3), np.uint8), ImageError),
        (foreign, EmbeddingError),
    ]:
        with pytest.raises(error):
            predictor.set_image(image)
    assert_same(before, predictor.predict(points=[[40, 35]]))


def test_a_new_image_replaces_the_earlier_one(predictor, photo):
    before = predictor.predict(points=[[40, 35]])
    predictor.set_image(photo.image[:, ::-1])
    assert differs(before, predictor.predict(points=[[40, 35]]))


def changed(model):
    """The same model but for one number."""
    other = deepcopy(model)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight[0, 0] += 1
    return other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(random_tiny, photo, predictor, dtype):
    other = Predictor(deepcopy(random_tiny).to(dtype))
    embedding = other.set_image(photo.image)
    assert embedding.features.embedding.dtype == dtype
    fields = {"points": [[40, 35]], "box": [12, 15, 70, 60], "mask": photo.masks_khw[0], "multimask": True}
    answer = other.predict(**fields)
    assert answer.logits.dtype == np.float32
    expected = predictor.predict(**fields)
    by_token = {int(token): logits for token, logits in zip(answer.token_index, answer.logits, strict=True)}
    got = np.stack([by_token[int(token)] for token in expected.token_index])
    spread = float(expected.logits.std())
    allowed = 0.3 * spread if dtype == torch.bfloat16 else 1e-3
    assert float(np.abs(got - expected.logits).mean()) < allowed


def test_answers_come_without_gradients(random_tiny, photo):
    trainable = deepcopy(random_tiny).requires_grad_(True)
    predictor = Predictor(trainable)
    embedding = predictor.set_image(photo.image)
    assert not embedding.features.embedding.requires_grad
    predictor.predict(points=[[40, 35]])
