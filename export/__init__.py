"""From checkpoints to a bundle: graphs, parity gate, manifest (torch and onnx allowed here)."""
