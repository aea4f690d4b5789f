"""A notebook's cells: one point, a correction with the earlier logits, a box, many boxes, several images at once."""

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide

MODEL_TYPE = "small"


def run(checkpoint, image):
    sam = sam_model_registry[MODEL_TYPE](checkpoint=checkpoint)
    sam.to(device="cpu")
    results = {}

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    input_point = np.array([[40, 30]])
    input_label = np.array([1])
    masks, scores, logits = predictor.predict(point_coords=input_point, point_labels=input_label, multimask_output=True)
    results["point"] = (masks, scores, logits)

    best = logits[np.argmax(scores), :, :]
    results["correction"] = predictor.predict(
        point_coords=np.array([[40, 30], [80, 60]]),
        point_labels=np.array([1, 0]),
        mask_input=best[None, :, :],
        multimask_output=False,
    )
    results["box and point"] = predictor.predict(
        point_coords=np.array([[50, 40]]),
        point_labels=np.array([0]),
        box=np.array([25, 15, 60, 48]),
        multimask_output=False,
    )

    boxes = torch.tensor([[25, 15, 60, 48], [60, 50, 95, 70], [0, 0, 30, 30]], device=predictor.device)
    transformed = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    results["boxes"] = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed, multimask_output=False
    )
    results["embedding"] = predictor.get_image_embedding().cpu().numpy()

    resize = ResizeLongestSide(sam.image_encoder.img_size)

    def prepare(pixels):
        pixels = resize.apply_image(pixels)
        return torch.as_tensor(pixels, device=sam.device).permute(2, 0, 1).contiguous()

    other = np.ascontiguousarray(image[:, ::-1][:50])
    other_points = torch.tensor([[[20.0, 30.0]], [[70.0, 20.0]]])
    batch = [
        {
            "image": prepare(image),
            "boxes": resize.apply_boxes_torch(boxes, image.shape[:2]),
            "original_size": image.shape[:2],
        },
        {
            "image": prepare(other),
            "point_coords": resize.apply_coords_torch(other_points, other.shape[:2]),
            "point_labels": torch.ones(2, 1),
            "original_size": other.shape[:2],
        },
    ]
    results["batch"] = sam(batch, multimask_output=False)
    return results
