"""Fine-tuning in the manner of medical clients: a box prompt per image, the prompt encoder frozen, a decoder step."""

import numpy as np
import torch
from segment_anything import sam_model_registry
from torch import nn
from torch.nn import functional as F


class BoxModel(nn.Module):
    def __init__(self, sam):
        super().__init__()
        self.image_encoder = sam.image_encoder
        self.mask_decoder = sam.mask_decoder
        self.prompt_encoder = sam.prompt_encoder
        for parameter in self.prompt_encoder.parameters():
            parameter.requires_grad = False

    def forward(self, image, box):
        embedding = self.image_encoder(image)
        with torch.no_grad():
            box = torch.as_tensor(box, dtype=torch.float32, device=image.device)
            if len(box.shape) == 2:
                box = box[:, None, :]
            sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
        low_res, _ = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return F.interpolate(low_res, size=image.shape[-2:], mode="bilinear", align_corners=False)


def run(checkpoint):
    sam = sam_model_registry["small"](checkpoint=checkpoint)
    sam.requires_grad_(True)
    model = BoxModel(sam)
    model.train()
    side = model.image_encoder.img_size
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, side, side, generator=generator)
    truth = torch.zeros(1, 1, side, side)
    truth[..., 60:150, 80:200] = 1
    parts = list(model.image_encoder.parameters()) + list(model.mask_decoder.parameters())
    optimizer = torch.optim.AdamW(parts, lr=1e-4, weight_decay=0.01)
    losses = []
    for _ in range(3):
        loss = F.binary_cross_entropy_with_logits(model(image, np.array([[80, 60, 200, 150]])), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": np.array(losses), "keys": sorted(sam.state_dict())}
