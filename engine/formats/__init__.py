"""Models on disk: ONNX, the engine's IR and the original's -> Graph; Graph -> IR."""
