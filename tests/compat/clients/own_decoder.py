"""A decoder of the client's own over the reference's: one more token and head, with its parts taken apart."""

import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import nn


class SharpDecoder(MaskDecoder):
    def __init__(self, dim, mlp_dim, head_dim):
        transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp_dim, num_heads=8)
        super().__init__(
            transformer_dim=dim,
            transformer=transformer,
            num_multimask_outputs=3,
            activation=nn.GELU,
            iou_head_depth=3,
            iou_head_hidden_dim=head_dim,
        )
        torch.manual_seed(0)
        self.sharp_token = nn.Embedding(1, dim)
        self.sharp_head = MLP(dim, dim, dim // 8, 3)
        self.sharp_filter = nn.Sequential(nn.Conv2d(dim // 8, dim // 8, 3, padding=1), LayerNorm2d(dim // 8), nn.GELU())

    def predict_masks(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings):
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.sharp_token.weight], dim=0)
        own = own.unsqueeze(0).expand(sparse_prompt_embeddings.size(0), -1, -1)
        tokens = torch.cat((own, sparse_prompt_embeddings), dim=1)
        src = torch.repeat_interleave(image_embeddings, tokens.shape[0], dim=0) + dense_prompt_embeddings
        pos = torch.repeat_interleave(image_pe, tokens.shape[0], dim=0)
        batch, channels, height, width = src.shape
        hidden, src = self.transformer(src, pos, tokens)
        upscaled = self.output_upscaling(src.transpose(1, 2).view(batch, channels, height, width))
        heads = [
            self.output_hypernetworks_mlps[index](hidden[:, 1 + index, :]) for index in range(self.num_mask_tokens)
        ]
        masks = torch.einsum("bnc,bchw->bnhw", torch.stack(heads, dim=1), upscaled)
        sharp = self.sharp_head(hidden[:, 1 + self.num_mask_tokens, :])
        masks = masks + torch.einsum("bc,bchw->bhw", sharp, self.sharp_filter(upscaled))[:, None]
        return masks, self.iou_prediction_head(hidden[:, 0, :])


def run(checkpoint, image, mlp_dim, head_dim):
    sam = sam_model_registry["small"](checkpoint=checkpoint)
    decoder = SharpDecoder(sam.mask_decoder.transformer_dim, mlp_dim, head_dim)
    missing, unexpected = decoder.load_state_dict(sam.mask_decoder.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("sharp_") for key in missing)
    sam.mask_decoder = decoder.eval()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    boxes = predictor.transform.apply_boxes_torch(torch.tensor([[25, 15, 60, 48], [60, 50, 95, 70]]), image.shape[:2])
    return {"masks": predictor.predict_torch(None, None, boxes, multimask_output=True, return_logits=True)}
