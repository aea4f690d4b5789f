"""A command-line program: the decoder as an ONNX file, then asked through onnxruntime."""

import argparse

import numpy as np
import onnxruntime
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.utils.onnx import SamOnnxModel


def run(arguments, image):
    parser = argparse.ArgumentParser()
    for name in ("--checkpoint", "--output", "--model-type"):
        parser.add_argument(name, required=True)
    for name in ("--return-single-mask", "--gelu-approximate", "--use-stability-score", "--return-extra-metrics"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--opset", type=int, default=17)
    args = parser.parse_args(arguments)

    sam = sam_model_registry[args.model_type](checkpoint=args.checkpoint)
    model = SamOnnxModel(
        model=sam,
        return_single_mask=args.return_single_mask,
        use_stability_score=args.use_stability_score,
        return_extra_metrics=args.return_extra_metrics,
    )
    if args.gelu_approximate:
        for module in model.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"

    embed_dim, embed_size = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    low_size = [4 * side for side in embed_size]
    examples = {
        "image_embeddings": torch.randn(1, embed_dim, *embed_size, dtype=torch.float),
        "point_coords": torch.randint(low=0, high=200, size=(1, 5, 2), dtype=torch.float),
        "point_labels": torch.randint(low=0, high=4, size=(1, 5), dtype=torch.float),
        "mask_input": torch.randn(1, 1, *low_size, dtype=torch.float),
        "has_mask_input": torch.tensor([1], dtype=torch.float),
        "orig_im_size": torch.tensor([150, 200], dtype=torch.float),
    }
    _ = model(**examples)
    output_names = ["masks", "iou_predictions", "low_res_masks"]
    torch.onnx.export(
        model,
        tuple(examples.values()),
        args.output,
        export_params=True,
        verbose=False,
        opset_version=args.opset,
        do_constant_folding=True,
        input_names=list(examples.keys()),
        output_names=output_names,
        dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        dynamo=False,
    )

    session = onnxruntime.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    coords = np.concatenate([np.array([[40, 30]]), np.array([[0.0, 0.0]])], axis=0)[None, :, :]
    inputs = {
        "image_embeddings": predictor.get_image_embedding().cpu().numpy(),
        "point_coords": predictor.transform.apply_coords(coords, image.shape[:2]).astype(np.float32),
        "point_labels": np.array([[1, -1]], dtype=np.float32),
        "mask_input": np.zeros((1, 1, *low_size), dtype=np.float32),
        "has_mask_input": np.zeros(1, dtype=np.float32),
        "orig_im_size": np.array(image.shape[:2], dtype=np.float32),
    }
    masks, scores, logits = session.run(None, inputs)
    return {"masks": masks > predictor.model.mask_threshold, "scores": scores, "logits": logits}
