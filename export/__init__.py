"""Export: torch module -> ONNX graph -> verified bundle."""
