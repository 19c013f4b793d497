"""LiteRT beyond the conformance suite: every operator, whole networks, and in which arithmetic they are computed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.onnx_files import FLOAT
from helpers.plans import use_tiny_plan
from helpers.quantised_files import embedding, float_graph, quantise, quantised
from helpers.small import NUMERICS, SPACE, device, small_task, space
from onnx import helper, numpy_helper
from torch import nn

from autocompress import Budget, search
from autocompress.devices.calibration.fit import calibrate_host
from autocompress.devices.profile import DeviceProfile, host_name
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.integers import integer_file
from autocompress.graphs.export import INPUT, export
from autocompress.graphs.observe import activation_range
from autocompress.packaging.package import export_point
from autocompress.runtimes import timing
from autocompress.runtimes.adapters.litert import LiteRt
from autocompress.runtimes.adapters.litert.integers import IntegerSession
from autocompress.runtimes.adapters.litert.session import Session
from autocompress.runtimes.adapters.litert.table import OPERATORS
from autocompress.runtimes.base import get, pieces, reference
from autocompress.runtimes.quantized_graph import Code
from autocompress.studies.folder import read_artifact
from autocompress.tasks.interface import joined

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed (extra litert)")
RUNTIME = get("litert")
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def graph(op_type: str, shape: tuple[int, ...], constants: list[np.ndarray], **attributes: Any) -> onnx.ModelProto:
    """Twice the operator's input, so that it is a tensor of the graph, and one operator that reads it and constants."""
    names = [f"c{k}" if value is not None else "" for k, value in enumerate(constants)]
    n_outputs = attributes.pop("n_outputs", 1)
    outputs = [f"y{k}" for k in range(n_outputs)]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node(op_type, ["twice", *names], outputs, name="the node", **attributes),
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=True) if v is not None],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def difference(model: onnx.ModelProto, shape: tuple[int, ...]) -> float:
    """Between LiteRT and ONNX Runtime."""
    sample = {"x": floats(*shape)}
    ours = RUNTIME.load(RUNTIME.convert(model))(sample)
    theirs = reference().load(model.SerializeToString())(sample)
    assert all(ours[name].shape == theirs[name].shape for name in theirs)
    return max(float(np.abs(ours[n] - theirs[n]).max() / max(1, np.abs(theirs[n]).max())) for n in theirs)


IMAGE, SOUND, TOKENS = (1, 4, 9, 8), (1, 4, 12), (1, 5, 8)
CASES: list[tuple[Any, ...]] = [
    ("Conv", IMAGE, [floats(6, 4, 3, 3), floats(6)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", IMAGE, [floats(6, 4, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ("Conv", IMAGE, [floats(6, 4, 5, 3)], {"pads": [0, 1, 2, 0]}),
    ("Conv", IMAGE, [floats(6, 2, 3, 3)], {"group": 2}),
    ("Conv", IMAGE, [floats(8, 1, 3, 3)], {"group": 4, "pads": [1, 1, 1, 1]}),
    ("Conv", SOUND, [floats(6, 4, 5), floats(6)], {"strides": [2], "pads": [2, 2]}),
    ("Conv", SOUND, [floats(4, 1, 3)], {"group": 4, "dilations": [2]}),
    ("ConvTranspose", IMAGE, [floats(4, 6, 2, 2), floats(6)], {"strides": [2, 2]}),
    ("ConvTranspose", IMAGE, [floats(4, 6, 4, 4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (
        "ConvTranspose",
        IMAGE,
        [floats(4, 6, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    ("ConvTranspose", SOUND, [floats(4, 6, 4)], {"strides": [2], "pads": [1, 1]}),
    ("Gemm", (1, 8), [floats(8, 5), floats(5)], {}),
    ("Gemm", (1, 8), [floats(5, 8)], {"transB": 1}),
    ("MatMul", TOKENS, [floats(8, 6)], {}),
    ("MatMul", (1, 2, 5, 8), [floats(2, 8, 3)], {}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", SOUND, [], {"kernel_shape": [2], "strides": [2]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    (
        "AveragePool",
        IMAGE,
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("GlobalAveragePool", IMAGE, [], {}),
    ("GlobalAveragePool", SOUND, [], {}),
    ("GlobalMaxPool", IMAGE, [], {}),
    ("ReduceMean", IMAGE, [whole(2, 3)], {"keepdims": 0}),
    ("ReduceMean", TOKENS, [whole(1)], {"keepdims": 0}),
    ("ReduceSum", IMAGE, [whole(1)], {"keepdims": 1}),
    ("ReduceMax", TOKENS, [whole(-1)], {"keepdims": 1}),
    ("BatchNormalization", IMAGE, [floats(4), floats(4), floats(4), np.abs(floats(4)) + 1], {}),
    ("BatchNormalization", (1, 4), [floats(4), floats(4), floats(4), np.abs(floats(4)) + 1], {}),
    ("InstanceNormalization", IMAGE, [floats(4), floats(4)], {}),
    ("GroupNormalization", IMAGE, [floats(4), floats(4)], {"num_groups": 2}),
    ("LayerNormalization", TOKENS, [floats(8), floats(8)], {}),
    ("LayerNormalization", TOKENS, [floats(8)], {}),
    *((name, IMAGE, [], {}) for name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "LeakyRelu")),
    *((name, IMAGE, [], {}) for name in ("Gelu", "Exp", "Neg", "Abs", "Floor", "Reciprocal", "Identity")),
    ("Gelu", TOKENS, [], {"approximate": "tanh"}),
    ("PRelu", IMAGE, [floats(4, 1, 1)], {}),
    ("Clip", IMAGE, [np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", IMAGE, [np.float32(0), np.float32(6)], {}),
    ("Clip", IMAGE, [np.float32(0.5)], {}),
    *((name, IMAGE, [np.abs(floats(4, 1, 1)) + 1], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    ("Add", SOUND, [floats(1, 4, 1)], {}),
    ("Mul", TOKENS, [np.float32(0.5)], {}),
    ("Pow", TOKENS, [np.float32(2)], {}),
    ("Softmax", TOKENS, [], {"axis": -1}),
    ("Softmax", IMAGE, [], {"axis": 1}),
    ("LogSoftmax", (1, 8), [], {"axis": 1}),
    ("Reshape", IMAGE, [whole(0, 4, -1)], {}),
    ("Reshape", IMAGE, [whole(-1, 288)], {}),
    ("Flatten", IMAGE, [], {}),
    ("Squeeze", (1, 4, 1, 1), [whole(2, 3)], {}),
    ("Unsqueeze", SOUND, [whole(2)], {}),
    ("Transpose", IMAGE, [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", IMAGE, [], {"perm": [0, 3, 1, 2]}),
    ("Transpose", TOKENS, [], {"perm": [0, 2, 1]}),
    ("Concat", IMAGE, [floats(1, 2, 9, 8)], {"axis": 1}),
    ("Concat", TOKENS, [floats(1, 1, 8)], {"axis": 1}),
    ("Slice", IMAGE, [whole(1, 2), whole(9, 3), whole(2, 1), whole(3, 1)], {}),
    ("Slice", SOUND, [whole(-4), whole(9999), whole(2)], {}),
    ("Split", IMAGE, [whole(1, 3)], {"axis": 1, "n_outputs": 2}),
    ("Split", TOKENS, [], {"axis": -1, "num_outputs": 2, "n_outputs": 2}),
    ("Pad", IMAGE, [whole(0, 0, 1, 2, 0, 0, 3, 0)], {}),
    ("Pad", SOUND, [whole(0, 0, 1, 0, 0, 2)], {"mode": "reflect"}),
    ("Gather", TOKENS, [whole(1)[0]], {"axis": 1}),
    ("Gather", TOKENS, [whole(3, 0)], {"axis": 2}),
    ("Gather", TOKENS, [whole(-1, 0)], {"axis": 2}),
    ("Expand", (1, 4, 1), [whole(1, 4, 6)], {}),
    ("Tile", SOUND, [whole(1, 1, 2)], {}),
    ("Resize", IMAGE, [None, np.float32([1, 1, 2, 2])], {"mode": "nearest", "nearest_mode": "floor",
      "coordinate_transformation_mode": "asymmetric"}),
    ("Resize", IMAGE, [None, np.float32([1, 1, 2, 2])], {"mode": "linear"}),
    ("Resize", IMAGE, [None, np.float32([1, 1, 2, 2])],
      {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("DepthToSpace", IMAGE, [], {"blocksize": 2}),
    ("SpaceToDepth", (1, 4, 8, 8), [], {"blocksize": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "shape", "constants", "attributes"), CASES)
def test_every_operator_computes_what_onnx_says(
    op_type: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]
) -> None:
    model = graph(op_type, shape, constants, **attributes)
    assert difference(model, shape) < 1e-5


def chain(
    nodes: list[tuple[Any, ...]], shape: tuple[int, ...], constants: dict[str, Any], opset: int
) -> onnx.ModelProto:
    """Operators, each (name, inputs, attributes) of one output that is called by its number; "x" comes in."""
    made = helper.make_graph(
        [helper.make_node(name, inputs, [str(k)], **options) for k, (name, inputs, options) in enumerate(nodes)],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(str(len(nodes) - 1), FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 10)


def alone(op_type: str, shape: tuple[int, ...], *constants: Any, opset: int = 21, **options: Any) -> tuple[Any, ...]:
    names = ["x", *(f"c{k}" if value is not None else "" for k, value in enumerate(constants))]
    given = {f"c{k}": value for k, value in enumerate(constants) if value is not None}
    return [(op_type, names, options)], shape, given, opset


def after_convolution(op_type: str, shape: tuple[int, ...], *constants: Any, **options: Any) -> tuple[Any, ...]:
    """The operator reads a tensor with its channels last."""
    (node,), _, given, opset = alone(op_type, shape, *constants, **options)
    kernel = floats(shape[1], shape[1], *(1,) * (len(shape) - 2))
    return (
        [("Conv", ["x", "kernel"], {}), (op_type, ["0", *node[1][1:]], options)],
        shape,
        given | {"kernel": kernel},
        opset,
    )


def as_integers(op_type: str, shape: tuple[int, ...], *constants: Any, to: int = 7, **options: Any) -> tuple[Any, ...]:
    (node,), _, given, opset = alone(op_type, shape, *constants, **options)
    nodes = [("Mul", ["x", "five"], {}), ("Cast", ["0"], {"to": to}), (op_type, ["1", *node[1][1:]], options)]
    return [*nodes, ("Cast", ["2"], {"to": 1})], shape, given | {"five": np.float32(5)}, opset


def computed(op_type: str, shape: tuple[int, ...], like: tuple[int, ...], k: int, *constants: Any) -> tuple[Any, ...]:
    """An input that is constant usually depends on the sample."""
    (node,), _, given, opset = alone(op_type, shape, *constants)
    inputs = [*node[1][:k], "1", *node[1][k + 1 :]]
    size = {"all": whole(-1), "some": whole(int(np.prod(like))), "shape": whole(*like), "zero": whole(0)}
    nodes = [("Reshape", ["x", "all"], {}), ("Slice", ["0", "zero", "some"], {}), ("Reshape", ["1", "shape"], {})]
    return [*nodes, (op_type, ["2" if name == "1" else name for name in inputs], {})], shape, given | size, opset


def resize(shape: tuple[int, ...], factor: float | None, size: int | None = None, **options: Any) -> tuple[Any, ...]:
    scales = None if factor is None else np.float32([1, 1, factor, factor])
    return alone("Resize", shape, None, scales, *([] if size is None else [whole(*shape[:2], size, size)]), **options)


BATCH, VIDEO = (4, 3, 4, 4), (1, 4, 3, 3, 2)
KINDS: dict[str, tuple[Any, ...]] = {
    **{f"{name} of integers": as_integers(name, (1, 9), whole(1)) for name in ("ReduceSum", "ReduceMax", "ReduceMin")},
    "Pad of integers": as_integers("Pad", (1, 9), whole(0, 1, 0, 1)),
    "Clip of integers": as_integers("Clip", (1, 9), whole(0)[0], whole(2)[0]),
    "Clip of integers at 0": as_integers("Clip", (1, 9), whole(0)[0]),
    "Relu of integers": as_integers("Relu", (1, 9), to=6),
    "quotient of integers": as_integers("Div", (1, 9), whole(2)[0]),
    "rows of integers": as_integers("Gather", (1, 9), whole(-1, 0), axis=1),
    **{
        f"{name} of {axes} of {len(shape) - 2}-D, keepdims={keep}": after_convolution(
            name, shape, whole(*axes), keepdims=keep
        )
        for name in ("ReduceMean", "ReduceMax")
        for shape, axes in (
            (SOUND, [2]),
            (SOUND, [-1]),
            (SOUND, [1]),
            (SOUND, [1, 2]),
            (IMAGE, [2, 3]),
            (IMAGE, [1, -1]),
        )
        for keep in (0, 1)
    },
    "largest of no axes": alone("ReduceMax", IMAGE, whole()),
    "mean that does nothing": alone("ReduceMean", IMAGE, whole(), noop_with_empty_axes=1),
    "mean without axes": alone("ReduceMean", SOUND, keepdims=0),
    **{f"{name} of five axes": alone(name, VIDEO, axis=1) for name in ("Softmax", "LogSoftmax")},
    "instances of five axes": alone("InstanceNormalization", VIDEO, floats(4), floats(4)),
    "batches of five axes": alone("BatchNormalization", VIDEO, floats(4), floats(4), floats(4), np.abs(floats(4)) + 1),
    "slopes of five axes": alone("PRelu", VIDEO, floats(4, 1, 1, 1)),
    **{f"{name} of five axes": alone(name, VIDEO) for name in ("GlobalAveragePool", "GlobalMaxPool")},
    **{f"{name} of five axes": alone(name, VIDEO, kernel_shape=[2, 2, 2]) for name in ("MaxPool", "AveragePool")},
    "transposed convolution to a size": alone(
        "ConvTranspose", IMAGE, floats(4, 6, 3, 3), strides=[2, 2], output_shape=[18, 16]
    ),
    "transposed convolution of a batch": alone("ConvTranspose", BATCH, floats(3, 5, 3, 3)),
    "transposed convolution of a batch, cut": alone(
        "ConvTranspose", BATCH, floats(3, 5, 4, 4), strides=[3, 3], pads=[1] * 4
    ),
    "groups of a batch": alone("GroupNormalization", BATCH, floats(3), floats(3), num_groups=3),
    "slopes of a batch": alone("PRelu", BATCH, floats(4, 3, 1, 1)),
    "Gemm with a column": alone("Gemm", (3, 8), floats(8, 5), floats(3, 1)),
    "Gemm with one number": alone("Gemm", (3, 8), floats(8, 5), floats(1, 1)),
    "Gemm with a computed bias": computed("Gemm", (1, 8), (5,), 2, floats(8, 5), None),
    "product plus another": (
        [("MatMul", ["x", "w"], {}), ("Add", ["0", "b"], {})],
        (1, 8),
        {"w": floats(8, 5), "b": floats(1, 1, 5)},
        21,
    ),
    "product plus a column": (
        [("MatMul", ["x", "w"], {}), ("Add", ["b", "0"], {})],
        TOKENS,
        {"w": floats(8, 5), "b": floats(5, 1)},
        21,
    ),
    "product doubled": ([("MatMul", ["x", "w"], {}), ("Add", ["0", "0"], {})], TOKENS, {"w": floats(8, 5)}, 21),
    "computed slope": computed("PRelu", IMAGE, (4, 1, 1), 1, None),
    "computed factor of batches": computed(
        "BatchNormalization", IMAGE, (4,), 1, None, floats(4), floats(4), np.abs(floats(4)) + 1
    ),
    "computed factor of instances": computed("InstanceNormalization", IMAGE, (4,), 1, None, floats(4)),
    "computed factor of layers": computed("LayerNormalization", TOKENS, (8,), 1, None, floats(8)),
    "computed offset of layers": computed("LayerNormalization", TOKENS, (8,), 2, floats(8), None),
    "computed bias": computed("Conv", IMAGE, (6,), 2, floats(6, 4, 1, 1), None),
    "computed padding value": computed("Pad", SOUND, (1,), 2, whole(0, 0, 1, 0, 0, 1), None),
    "last rows": alone("Gather", TOKENS, whole(-1, 0, -2), axis=1),
    "last of a table": (
        [("ArgMax", ["x"], {"axis": 1, "keepdims": 0}), ("Gather", ["t", "0"], {})],
        (1, 8),
        {"t": floats(8, 3)},
        21,
    ),
    "empty slice": alone("Slice", TOKENS, whole(4), whole(2), whole(1)),
    "padding that cuts": alone("Pad", IMAGE, whole(0, 0, -1, 0, 0, 0, 0, 0)),
    "old Softmax": alone("Softmax", IMAGE, opset=11),
    "old Slice": alone("Slice", TOKENS, opset=9, starts=[1], ends=[3], axes=[1]),
    "old Pad": alone("Pad", SOUND, opset=10, pads=[0, 0, 1, 0, 0, 1]),
    "old mean": alone("ReduceMean", IMAGE, opset=13, axes=[2, 3], keepdims=0),
    **{
        f"Resize by {factor}, {mode}, {places}, {rounding}": resize(
            IMAGE, factor, mode=mode, coordinate_transformation_mode=places, nearest_mode=rounding
        )
        for factor in (0.55, 1.3, 2.0, 3.0)
        for mode, places, rounding in (
            ("nearest", "asymmetric", "floor"),
            ("nearest", "asymmetric", "round_prefer_floor"),
            ("nearest", "asymmetric", "ceil"),
            ("nearest", "half_pixel", "round_prefer_floor"),
            ("nearest", "half_pixel", "floor"),
            ("linear", "half_pixel", "floor"),
            ("linear", "pytorch_half_pixel", "floor"),
            ("linear", "asymmetric", "floor"),
            ("linear", "align_corners", "floor"),
        )
    },
    "Resize with antialias": resize((1, 4, 12, 12), 0.5, mode="linear", antialias=1),
    "Resize to 1": resize(IMAGE, None, 1, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "Resize to 1, corners": resize(IMAGE, None, 1, mode="linear", coordinate_transformation_mode="align_corners"),
    "Resize by 9/7": resize((1, 3, 7, 7), 9 / 7, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_computes_what_the_graph_computes_or_is_refused(kind: str) -> None:
    nodes, shape, constants, opset = KINDS[kind]
    model = chain(nodes, shape, constants, opset)
    reference().load(model.SerializeToString())
    with suppress(CandidateError):
        assert difference(model, shape) < 1e-5


@pytest.mark.parametrize("name", ["mobilenetv2", "vit", "audio1d", "shared"])
@pytest.mark.parametrize(
    ("weight", "activation", "allowed"), [(32, 32, 1e-5), (16, 8, 1e-5), (8, 32, 1e-5), (8, 8, 0.06)]
)
def test_networks_answer_as_in_onnx_runtime(name: str, weight: int, activation: int, allowed: float) -> None:
    file, samples = quantised(name, weight, activation).graph, quantised(name).samples
    ours, theirs = (RUNTIME.load(RUNTIME.convert(file)), reference().load(file.SerializeToString()))
    batch = {INPUT: samples}
    found, expected = (joined([model(piece) for piece in pieces(model, batch)])["logits"] for model in (ours, theirs))
    assert np.abs(found - expected).max() <= allowed * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97


@pytest.mark.parametrize("counts_padding", [True, False])
def test_averages_of_codes_are_rounded_once(counts_padding: bool) -> None:
    pool = nn.AvgPool2d(3, 2, 1, count_include_pad=counts_padding)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 4, 3))
    inputs = torch.randn(80, 3, 9, 9)
    file = quantise(export(network.eval(), inputs[:2], ("y",)).proto, inputs.numpy(), 8, 8)
    ours, theirs = RUNTIME.load(RUNTIME.convert(file.graph)), reference().load(file.graph.SerializeToString())
    found, expected = (
        joined([model(s) for s in pieces(model, {INPUT: file.samples})])["y"] for model in (ours, theirs)
    )
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def operators(content: bytes) -> tuple[Counter[str], int]:
    """Operators of a loaded file by the type of their first input, and how many calls are left beside XNNPACK's."""
    interpreter = litert.Interpreter(model_content=content, num_threads=1)
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
    ops = interpreter._get_ops_details()
    counts = Counter(f"{op['op_name']} {types[op['inputs'][0]]}" for op in ops)
    interpreter.allocate_tensors()
    taken = [op for op in interpreter._get_ops_details()[len(ops) :] if op["op_name"] == "DELEGATE"]
    return counts, len(taken)


def test_int8_layers_compute_in_integers_and_all_in_xnnpack() -> None:
    counts, delegates = operators(RUNTIME.convert(quantised("mobilenetv2").graph))
    layers = sum(count for op, count in counts.items() if "CONV_2D" in op)
    assert layers == sum(node.op_type == "Conv" for node in float_graph("mobilenetv2")[0].graph.node)
    assert sum(count for op, count in counts.items() if op.endswith("CONV_2D int8")) == layers
    assert not counts["ADD float32"] and not counts["MEAN float32"] and delegates == 1


def test_weights_are_stored_once_and_as_they_are() -> None:
    file = quantised("shared")
    interpreter = litert.Interpreter(model_content=RUNTIME.convert(file.graph))
    stored = [interpreter.get_tensor(t["index"]) for t in interpreter.get_tensor_details() if t["dtype"] is np.int8
              and t["index"] not in {i for op in interpreter._get_ops_details() for i in op["outputs"]}]  # fmt: skip
    ours = [w.values.transpose(0, 2, 3, 1) if w.values.ndim == 4 else w.values for w in file.weights.values()]
    for weight in ours:
        assert sum(w.shape == weight.shape and bool((w == weight).all()) for w in stored) == 1


def test_what_litert_cannot_do_is_one_sentence() -> None:
    recurrent = graph("LSTM", (3, 1, 4), [floats(1, 20, 4), floats(1, 20, 5)], hidden_size=5)
    with pytest.raises(CandidateError, match=r"^no LiteRT operator does what LSTM 'the node' does$"):
        RUNTIME.convert(recurrent)
    cubic = graph("Resize", IMAGE, [np.float32([]), np.float32([1, 1, 2, 2])], mode="cubic")
    with pytest.raises(CandidateError, match="Resize 'the node' does: resizing with cubic"):
        RUNTIME.convert(cubic)


def test_a_file_with_other_shapes_than_the_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Sigmoid", OPERATORS["GlobalMaxPool"])
    with pytest.raises(CandidateError, match=r"shape \[1, 1, 1, 4\] where the graph has \[1, 9, 8, 4\]"):
        RUNTIME.convert(graph("Sigmoid", IMAGE, []))


def test_what_litert_has_no_kernel_for_is_refused_when_the_file_is_written() -> None:
    nodes, shape, constants, opset = as_integers("Pow", (1, 9), whole(2)[0])
    with pytest.raises(CandidateError, match="LiteRT cannot load the file"):
        RUNTIME.convert(chain(nodes, shape, constants, opset))


def test_a_free_axis_is_refused() -> None:
    model = graph("Relu", TOKENS, [])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    with pytest.raises(CandidateError, match="'x' has a free axis"):
        RUNTIME.convert(model)


def test_the_file_bears_the_recipe() -> None:
    model = graph("Relu", IMAGE, [])
    model.metadata_props.add(key="autocompress.recipe", value="[]")
    assert b"autocompress.recipe" in RUNTIME.convert(model)


@pytest.mark.parametrize(("bits", "stored"), [(4, "int8"), (8, "int8"), (16, "float16")])
def test_tokens_are_looked_up_in_small_tables(bits: int, stored: str) -> None:
    model, ids = embedding(bits)
    content = RUNTIME.convert(model)
    ours, theirs = RUNTIME.load(content), reference().load(model.SerializeToString())
    assert ours.inputs["ids"].dtype == "int64" and operators(content)[0][f"GATHER {stored}"] == 1
    assert np.allclose(ours({"ids": ids})["y"], theirs({"ids": ids})["y"])


@pytest.mark.parametrize("name", ["mobilenetv2", "mlp"])
def test_files_without_floats_differ_by_the_rounding_of_their_outputs(name: str) -> None:
    file = quantised(name)
    expected = reference().load(file.graph.SerializeToString())({INPUT: file.samples})["logits"]
    step = activation_range(float(expected.min()), float(expected.max()))
    content = LiteRt().integers_only(file.graph, {"logits": Code(step.scale, step.zero_point)})
    session, model = Session(content), IntegerSession(content)
    zeros = np.zeros([int(size) for size in session.inputs[INPUT].shape], np.int8)  # refused if it took floats
    assert session({INPUT: zeros})["logits"].dtype == np.int8
    found = joined([model(piece) for piece in pieces(model, {INPUT: file.samples})])["logits"]
    assert np.abs(found - expected).max() < 1.5 * step.scale
    assert not [op for op in operators(content)[0] if "float" in op]


def test_a_layer_of_floats_is_named_where_only_integers_are_allowed() -> None:
    with pytest.raises(CandidateError, match=r"HardSwish .* computes in floats, and only integers are allowed"):
        LiteRt().integers_only(quantised("shared").graph, {"logits": Code(1.0, 0)})


@pytest.mark.usefixtures("brief")
def test_a_point_is_exported_for_targets_without_floats(tmp_path: Path) -> None:
    task = small_task("resnet", n=64)
    onnx_device = device().model_copy(update={"name": "conformance"})
    study = search(task, onnx_device, space(NUMERICS), budget=Budget(1), out=tmp_path / "study")
    (point,) = (e for e in study.baselines if e.label == "int8")
    file = integer_file(study, point, task)
    assert file.score.value == pytest.approx(point.test.value, abs=0.1) and file.content[4:8] == b"TFL3"
    (floats,) = (e for e in study.baselines if e.label == "fp32")
    with pytest.raises(CandidateError, match="quantise all layers"):
        integer_file(study, floats, task)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = timing.TimingProtocol(rounds=2, runs=1, warm_up=1, max_seconds=0.02, pause_s=0.0)
    monkeypatch.setattr(timing, "FAST", protocol)
    monkeypatch.setattr(timing, "THOROUGH", protocol)


def here() -> DeviceProfile:
    return device().model_copy(update={"name": host_name("litert"), "runtime": "litert"})


@pytest.mark.usefixtures("brief")
def test_a_search_writes_judges_and_times_files_of_litert(tmp_path: Path) -> None:
    task = small_task("mlp", n=64)
    found = search(task, here(), space(SPACE), budget=Budget(2), out=tmp_path / "study")
    assert found.settings.versions["litert"] == RUNTIME.version()
    measured = [e for e in found.evaluations if e.latency_source == "measured"]
    assert {e.kind for e in measured} >= {"baseline"}
    evaluator = Evaluator(task, here())
    for e in measured:
        file = read_artifact(found.path, e)
        assert evaluator.score(file, "validation").value == e.validation.value
        assert file[4:8] == b"TFL3" and len(file) == e.size_bytes
    folder = export_point(found, measured[0], tmp_path / "export")
    told = subprocess.run([sys.executable, "infer.py"], cwd=folder, env={}, capture_output=True, text=True, check=True)
    assert "input: float32 (1, 24)" in told.stdout and told.stderr == ""


@pytest.mark.usefixtures("brief")
def test_a_profile_is_fitted_to_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_plan(monkeypatch)
    profile = calibrate_host(budget_s=5, runtime="litert")
    assert (profile.name, profile.runtime, profile.measured_with) == ("host.litert", "litert", "litert")
    assert profile.is_this_machine and profile.reference_ms and profile.reference_ms > 0
