"""The reference's helpers: resizing to the model's frame, automatic masks, the ONNX decoder."""
