"""The policy file: torch to ONNX, its manifest, and the onnxruntime runner that plays it."""
