"""A command-line program: every mask of every image in a folder, as pictures with a table or as one JSON file."""

import argparse
import csv
import json
import os

import cv2
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

SETTINGS = {
    "points_per_side": int,
    "points_per_batch": int,
    "pred_iou_thresh": float,
    "stability_score_thresh": float,
    "stability_score_offset": float,
    "box_nms_thresh": float,
    "crop_n_layers": int,
    "crop_nms_thresh": float,
    "crop_overlap_ratio": float,
    "crop_n_points_downscale_factor": int,
    "min_mask_region_area": int,
}


def write_pictures(masks, folder):
    os.makedirs(folder)
    with open(os.path.join(folder, "metadata.csv"), "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "area", "x0", "y0", "w", "h", "point_x", "point_y", "iou", "stability", "crop"])
        for index, mask in enumerate(masks):
            cv2.imwrite(os.path.join(folder, f"{index}.png"), mask["segmentation"] * 255)
            crop = " ".join(str(side) for side in mask["crop_box"])
            scores = [f"{mask['predicted_iou']:.3f}", f"{mask['stability_score']:.2f}"]
            table.writerow([index, mask["area"], *mask["bbox"], *mask["point_coords"][0], *scores, crop])


def run(arguments):
    parser = argparse.ArgumentParser()
    for name in ("--input", "--output", "--model-type", "--checkpoint"):
        parser.add_argument(name, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--convert-to-rle", action="store_true")
    for name, kind in SETTINGS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    args = parser.parse_args(arguments)

    sam = sam_model_registry[args.model_type](checkpoint=args.checkpoint)
    _ = sam.to(device=args.device)
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    output_mode = "coco_rle" if args.convert_to_rle else "binary_mask"
    generator = SamAutomaticMaskGenerator(sam, output_mode=output_mode, **settings)
    for name in sorted(os.listdir(args.input)):
        image = cv2.cvtColor(cv2.imread(os.path.join(args.input, name)), cv2.COLOR_BGR2RGB)
        masks = generator.generate(image)
        base = os.path.join(args.output, os.path.splitext(name)[0])
        if args.convert_to_rle:
            with open(base + ".json", "w") as file:
                json.dump(masks, file)
        else:
            write_pictures(masks, base)
