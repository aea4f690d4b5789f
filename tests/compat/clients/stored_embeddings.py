"""A tool that keeps embeddings, has a predictor of its own, and filters masks with the generator's helpers."""

import numpy as np
import segment_anything.utils.amg as amg_utils
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.predictor import SamPredictor as PredictorBase


class ToolPredictor(SamPredictor):
    model_type = "small"

    def put_back(self, stored):
        self.features = torch.from_numpy(stored["features"]).to(self.device)
        self.original_size = stored["original_size"]
        self.input_size = stored["input_size"]
        self.is_image_set = True


def run(checkpoint, image):
    sam = sam_model_registry["small"](checkpoint=checkpoint)
    assert isinstance(sam, Sam)
    assert issubclass(ToolPredictor, PredictorBase)
    encoder = ToolPredictor(sam)
    encoder.reset_image()
    encoder.set_image(image)
    stored = {
        "features": encoder.get_image_embedding().cpu().numpy(),
        "original_size": encoder.original_size,
        "input_size": encoder.input_size,
    }
    predictor = ToolPredictor(sam)
    assert not predictor.is_image_set
    predictor.put_back(stored)

    grid = amg_utils.build_all_layer_point_grids(n_per_side=3, n_layers=0, scale_per_layer=1)[0]
    points = grid * np.array(image.shape[:2])[None, ::-1]
    crop_box = [0, 0, image.shape[1], image.shape[0]]
    data = amg_utils.MaskData()
    for (batch,) in amg_utils.batch_iterator(4, points):
        coords = torch.as_tensor(predictor.transform.apply_coords(batch, image.shape[:2]), dtype=torch.float)
        labels = torch.ones(len(coords), dtype=torch.int)
        masks, ious, _ = predictor.predict_torch(coords[:, None, :], labels[:, None], return_logits=True)
        new = amg_utils.MaskData(
            masks=masks.flatten(0, 1),
            iou_preds=ious.flatten(0, 1),
            points=torch.as_tensor(batch.repeat(masks.shape[1], axis=0)),
        )
        threshold = predictor.model.mask_threshold
        new["stability_scores"] = amg_utils.calculate_stability_score(new["masks"], threshold, 0.5)
        new.filter(new["iou_preds"] > 0.0)
        new["masks"] = new["masks"] > threshold
        new["boxes"] = amg_utils.batched_mask_to_box(new["masks"])
        new.filter(~amg_utils.is_box_near_crop_edge(new["boxes"], crop_box, crop_box))
        new["rles"] = amg_utils.mask_to_rle_pytorch(new["masks"])
        del new["masks"]
        data.cat(new)
    data.to_numpy()
    first = amg_utils.rle_to_mask(data["rles"][0])
    return {
        "ious": data["iou_preds"],
        "stability": data["stability_scores"],
        "boxes": np.stack([amg_utils.box_xyxy_to_xywh(box) for box in data["boxes"]]),
        "points": data["points"],
        "areas": np.array([amg_utils.area_from_rle(rle) for rle in data["rles"]], dtype=np.float64),
        "cleaned": amg_utils.remove_small_regions(first, 30, mode="islands")[0],
    }
