"""A stand-in for a trained decoder: blobs around the click, so that there is something to choose between."""

import torch

SETTINGS = {
    "points_per_side": 8,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.6,
    "box_nms_thresh": 0.7,
    "crop_edge_tolerance": 3.0,
}


def draw_blobs(features, prompts, iou_thresh=None, outputs=slice(None)):
    """Instead of `Segmenter.decode`: logits (B, 4, 4h, 4w), predicted IoU (B, 4); a function of click and image."""
    height, width = (4 * cells for cells in features.embedding.shape[-2:])
    x, y = (prompts.points_xy[:, 0, axis, None, None, None].double() / 4 for axis in (0, 1))
    luck = torch.sin(13.7 * x + 7.3 * y + 100 * features.embedding.double().mean() + torch.arange(4.0)[:, None, None])
    columns, rows = torch.arange(width) - x, torch.arange(height)[:, None] - y
    radius = torch.tensor([6.0, 3.0, 9.0, 20.0])[:, None, None] * (1.2 + luck)
    angle = torch.atan2(rows, columns)
    edge = radius * (1 + 0.2 * torch.sin(5 * angle + 9 * luck)) - torch.hypot(rows, columns)
    speckles = torch.sin(1.9 * torch.arange(width)) * torch.sin(2.3 * torch.arange(height))[:, None]
    logits = (edge * (0.6 + luck**2) + 3.5 * speckles).float()
    ious = (0.5 + 0.5 * torch.sin(1000 * luck))[..., 0, 0].float()
    if iou_thresh is not None:
        logits = logits[(ious[:, 1:] >= iou_thresh).any(dim=1)]
    return logits[:, outputs], ious
