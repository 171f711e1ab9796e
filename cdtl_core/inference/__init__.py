"""Model folders, their predictions, and their export to ONNX."""
