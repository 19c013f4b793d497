"""A network that is given as an ONNX file instead of a torch module, with samples instead of a training set."""
