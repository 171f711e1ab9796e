"""A model as a folder, what it predicts, and its export to ONNX."""
