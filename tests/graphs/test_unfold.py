from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from autocompress.graphs.quantizable import PlannedLayer
from autocompress.graphs.unfold import Unfolding
from autocompress.runtimes.adapters.onnxruntime.session import Session


def layer(op_type: str, axis: int = 0) -> PlannedLayer:
    return PlannedLayer("y", "layer", op_type, "w", axis, 4, 8)


@pytest.mark.parametrize(
    ("channels", "shape", "kernel", "settings"),
    [
        (3, (9, 8), (3, 2), {}),
        (4, (9, 8), (3, 3), {"groups": 2, "padding": (2, 1), "stride": (2, 3)}),
        (6, (12,), (5,), {"groups": 6, "dilation": (2,), "padding": (4,)}),
        (2, (5, 6, 4), (3, 1, 2), {"stride": (2, 1, 1)}),
    ],
)
def test_rows_times_inputs_are_what_a_convolution_computes(
    channels: int, shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, object]
) -> None:
    rank, groups = len(shape), int(settings.get("groups", 1))  # type: ignore[call-overload]
    torch.manual_seed(0)
    weight, x = torch.randn(12, channels // groups, *kernel), torch.randn(5, channels, *shape)
    expected = [torch.conv1d, torch.conv2d, torch.conv3d][rank - 1](x, weight, **settings)  # type: ignore[operator]
    padding = list(settings.get("padding", (0,) * rank))  # type: ignore[call-overload]
    written = {"strides": "stride", "dilations": "dilation"}
    attributes = {name: list(settings[key]) for name, key in written.items() if key in settings}  # type: ignore[call-overload]
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=padding * 2, **attributes)
    unfolding = Unfolding(node, layer("Conv"), tuple(weight.shape))
    inputs = unfolding.inputs([x.numpy()], 10**6, np.random.default_rng(0))[0]
    outputs = (inputs @ unfolding.rows(weight.numpy()).transpose(0, 2, 1)).transpose(0, 2, 1).reshape(12, -1)
    assert np.allclose(np.sort(outputs), np.sort(expected.transpose(0, 1).reshape(12, -1).numpy()), atol=1e-4)
    assert (unfolding.weight(unfolding.rows(weight.numpy())) == weight.numpy()).all()


@pytest.mark.parametrize(("op_type", "axis"), [("MatMul", 1), ("Gemm", 0), ("Gemm", 1)])
def test_rows_times_inputs_are_what_a_linear_layer_computes(op_type: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((4, 7)), rng.standard_normal((3, 5, 7))
    stored = weight if axis == 0 else weight.T
    unfolding = Unfolding(helper.make_node(op_type, ["x", "w"], ["y"]), layer(op_type, axis), stored.shape)
    inputs = unfolding.inputs([x, 2 * x], 10**6, rng)
    outputs = inputs[0] @ unfolding.rows(stored).transpose(0, 2, 1)
    assert np.allclose(np.sort(outputs, None), np.sort(x @ weight.T, None))
    assert np.allclose(2 * inputs[0], inputs[1])  # the same places in both
    assert (unfolding.weight(unfolding.rows(stored)) == stored).all()


def test_no_more_rows_are_drawn_than_asked_for() -> None:
    unfolding = Unfolding(helper.make_node("Conv", ["x", "w"], ["y"]), layer("Conv"), (8, 3, 3, 3))
    x = np.zeros((10, 3, 8, 8))
    assert unfolding.inputs([x], 100, np.random.default_rng(0))[0].shape == (1, 100, 27)


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_may_be_said_in_words(how: str) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=how, strides=[2, 2], kernel_shape=[3, 2])
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 8, 7), (4, 3, 3, 2)))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w", "y")]
    graph = helper.make_graph([node], "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    expected = Session(model.SerializeToString())({"x": x, "w": weight})["y"].transpose(1, 0, 2, 3).reshape(4, -1)
    unfolding = Unfolding(node, layer("Conv"), weight.shape)
    outputs = (unfolding.inputs([x], 10**6, rng)[0] @ unfolding.rows(weight).transpose(0, 2, 1))[0].T
    assert np.allclose(np.sort(outputs), np.sort(expected), atol=1e-4)
