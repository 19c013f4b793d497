"""ONNX files as other tools write them, small, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Dim = int | str
FLOAT = TensorProto.FLOAT


class Builder:
    """Collects nodes and constants of a graph."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        """A constant of these values."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """A constant of random numbers."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
        return self.constant(name, (self.rng.standard_normal(shape) / fan_in**0.5).astype(np.float32))

    def node(self, op_type: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def model(
        self, inputs: dict[str, Sequence[Dim]], outputs: dict[str, Sequence[Dim]], opset: int = 17, **types: int
    ) -> onnx.ModelProto:
        """The graph as a model; inputs are floats but for those in `types`."""
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(n, types.get(n, FLOAT), shape) for n, shape in inputs.items()],
            [helper.make_tensor_value_info(n, types.get(n, FLOAT), shape) for n, shape in outputs.items()],
            self.constants,
        )
        version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)


def torch_style(opset: int = 13, batch: Dim = "batch", classes: int = 5) -> onnx.ModelProto:
    """NCHW: convolutions with a BatchNorm that was not folded, Clip with constants from nodes, pooling, Gemm."""
    b = Builder()
    b.node("Conv", ["image", b.weight("stem.weight", 8, 3, 3, 3)], "s0", "/stem/Conv", pads=[1, 1, 1, 1])
    positive = np.abs(b.rng.standard_normal(8)).astype(np.float32) + 0.5
    norm = [b.weight(f"norm.{part}", 8) for part in ("weight", "bias", "mean")]
    b.node("BatchNormalization", ["s0", *norm, b.constant("norm.var", positive)], "s1", "/norm/BatchNormalization")
    for name, bound in (("low", 0.0), ("high", 6.0)):
        b.node("Constant", [], name, value=numpy_helper.from_array(np.array(bound, np.float32)))
    b.node("Clip", ["s1", "low", "high"], "s2")
    b.node("Conv", ["s2", b.weight("onnx::Conv_7", 8, 8, 3, 3)], "s3", "/body/body.0/Conv", pads=[1, 1, 1, 1])
    b.node("Relu", ["s3"], "s4")
    b.node("Add", ["s4", "s2"], "s5")
    b.node("GlobalAveragePool", ["s5"], "s6")
    b.node("Flatten", ["s6"], "s7")
    b.node("Gemm", ["s7", b.weight("head.weight", classes, 8), b.weight("head.bias", classes)], "scores", transB=1)
    return b.model({"image": [batch, 3, 12, 12]}, {"scores": [batch, classes]}, opset)


def keras_style(opset: int = 15) -> onnx.ModelProto:
    """NHWC in and out, as tf2onnx writes it: transposes around convolutions, MatMul and Add, softmax."""
    b = Builder(1)
    place = "StatefulPartitionedCall/model"
    b.node("Transpose", ["input_1"], "t0", perm=[0, 3, 1, 2])
    b.node("Conv", ["t0", b.weight("W0", 8, 3, 3, 3), b.weight("b0", 8)], "t1", f"{place}/conv/Conv2D", strides=[2, 2])
    b.node("Relu", ["t1"], "t2")
    b.node("Transpose", ["t2"], "t3", perm=[0, 2, 3, 1])
    b.node("Reshape", ["t3", b.constant("shape", np.array([-1, 5 * 5 * 8]))], "t4")
    b.node("MatMul", ["t4", b.weight("W1", 200, 4)], "t5", f"{place}/dense/MatMul")
    b.node("Add", ["t5", b.weight("b1", 4)], "t6")
    b.node("Softmax", ["t6"], "dense", axis=-1)
    return b.model({"input_1": ["unk__1", 12, 12, 3]}, {"dense": ["unk__2", 4]}, opset)


def two_inputs(opset: int = 17) -> onnx.ModelProto:
    """Token numbers and a mask in, two outputs: an embedding table, a linear layer on 3-D data, a masked mean."""
    b = Builder(2)
    b.node("Gather", [b.weight("table", 50, 16), "ids"], "e0")
    b.node("MatMul", ["e0", b.weight("linear.w", 16, 16)], "e1", "/linear/MatMul")
    b.node("Relu", ["e1"], "tokens")
    b.node("Unsqueeze", ["mask", b.constant("last", np.array([-1]))], "m1")
    b.node("Mul", ["tokens", "m1"], "e2")
    b.node("ReduceMean", ["e2"], "pooled", axes=[1], keepdims=0)
    inputs = {"ids": ["batch", "length"], "mask": ["batch", "length"]}
    outputs = {"tokens": ["batch", "length", 16], "pooled": ["batch", 16]}
    return b.model(inputs, outputs, opset, ids=TensorProto.INT64)


def written(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The file."""
    path = folder / name
    onnx.save(model, path)
    return path


def images(n: int, *shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random samples; every one with a scale of its own, so that the outputs differ."""
    rng = np.random.default_rng(seed)
    found: NDArray[np.float32] = (
        rng.standard_normal((n, *shape)) * rng.uniform(0.5, 2, (n, *(1,) * len(shape)))
    ).astype(np.float32)
    return found
