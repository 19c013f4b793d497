"""ONNX Runtime: its sessions and timings, and what it makes of a graph before it runs it."""
