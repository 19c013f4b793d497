"""Workload analysis: what is fused, what is int8, what is alive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.devices.calibration.net_builder import NetBuilder
from autocompress.errors import InputError
from autocompress.runtimes.adapters.onnxruntime.reader import read_workload
from autocompress.runtimes.workload import Op, Workload


def _load(content: bytes) -> Workload:
    return read_workload(onnx.load_from_string(content))


def _kinds(work: Workload) -> list[tuple[str, str]]:
    return [(op.kind, op.dtype) for op in work.ops]


def _model(
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    outputs: list[str],
    weights: dict[str, np.ndarray] | None = None,  # type: ignore[type-arg]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_conv_absorbs_relu_and_residual_add() -> None:
    net = NetBuilder((1, 16, 8, 8))
    first = net.conv("input", 16)
    second = net.conv(first, 16)
    out = net.unary("Relu", net.binary("Add", net.conv(second, 16, relu=False), first))
    work = _load(net.build(out))
    convs = [op for op in work.ops if op.kind == "conv"]
    assert [op.kind for op in work.ops if op.kind not in {"conv", "layout"}] == []
    assert convs[0].macs == 64 * 16 * 16 * 9
    assert [op.bytes_in for op in convs] == [4096, 4096, 2 * 4096]
    assert convs[0].bytes_weights == (16 * 16 * 9 + 16) * 4
    assert (convs[0].cin, convs[0].cout, convs[0].kernel, convs[0].out_hw) == (16, 16, (3, 3), 64)


def test_int8_is_seen_through_qdq_and_borders_are_counted() -> None:
    work = _two_convs()
    assert _kinds(work) == [
        ("quantize", "float32"),
        ("conv", "int8"),
        ("conv1x1", "int8"),
        ("pool", "int8"),
        ("layout", "int8"),
        ("view", "float32"),
        ("linear", "int8"),
    ]
    assert work.ops[1].bytes_out == 16 * 64
    assert work.ops[1].bytes_weights == 16 * 27 + 16


def test_relu_with_a_zero_point_in_the_middle_keeps_the_conv_in_fp32() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"]),
    ]
    weights = {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.ones((8, 4, 1, 1), np.int8),
        "zw": np.array(0, np.int8),
    }
    middle = read_workload(_model(nodes, [1, 4, 4, 4], ["y"], weights))
    assert ("conv1x1", "float32") in _kinds(middle)
    assert any(op.kind == "dequantize" and op.bytes_weights for op in middle.ops)
    weights["z"] = np.array(0, np.uint8)
    lowest = read_workload(_model(nodes, [1, 4, 4, 4], ["y"], weights))
    assert ("conv1x1", "int8") in _kinds(lowest)


def test_int4_weights_behind_a_cast_count_as_one_byte() -> None:
    packed = TensorProto(name="w4", data_type=TensorProto.INT4, dims=[8, 4, 1, 1], raw_data=bytes(16))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("Cast", ["w4"], ["w8"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["w8", "s"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    model = _model(nodes, [1, 4, 4, 4], ["y"], {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)})
    model.graph.initializer.append(packed)
    conv = next(op for op in read_workload(model).ops if op.kind == "conv1x1")
    assert (conv.dtype, conv.bytes_weights) == ("int8", 32)


def test_kinds_of_convolution_and_matrix_product() -> None:
    net = NetBuilder((1, 16, 8, 8))
    out = net.conv(net.conv("input", 16, 3, groups=16), 32, 3, groups=4)
    assert [op.kind for op in _load(net.build(out)).ops if op.macs] == ["depthwise", "grouped"]
    net = NetBuilder((1, 10, 16))
    hidden = net.linear("input", 24)
    work = _load(net.build(net.matmul(hidden, net.transpose(hidden, (0, 2, 1)))))
    products = [op for op in work.ops if op.macs]
    assert [(op.kind, op.macs) for op in products] == [("linear", 10 * 16 * 24), ("attention", 10 * 24 * 10)]


def test_symbolic_batch_is_fixed_and_batch_scales_the_work() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = _model(nodes, ["N", 3, 4, 4], ["y"], {"w": np.ones((8, 3, 1, 1), np.float32)})
    one, four = read_workload(model), read_workload(model, batch=4)
    assert one.macs == 16 * 24
    assert four.macs == 4 * one.macs


def test_outputs_restrict_to_their_ancestors() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["early"], name="exit"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="second"),
        helper.make_node("Tanh", ["b"], ["late"], name="last"),
    ]
    model = _model(nodes, [1, 4, 4, 4], ["early", "late"], {"w": np.ones((4, 4, 1, 1), np.float32)})
    names = [op.name for op in read_workload(model, outputs=["early"]).ops if op.kind != "layout"]
    assert names == ["first", "exit"]
    both = read_workload(model)
    assert both.macs == 2 * read_workload(model, outputs=["early"]).macs
    with pytest.raises(InputError, match=r"no tensor 'lat'; its outputs are: early, late"):
        read_workload(model, outputs=["lat"])


def test_a_nested_if_counts_the_deeper_branch_and_one_if_op() -> None:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    short = helper.make_graph([helper.make_node("Identity", ["a"], ["s"])], "short", [], [info("s")])
    deep_nodes = [helper.make_node("Conv", ["a", "w"], ["b"]), helper.make_node("Conv", ["b", "w"], ["d"])]
    deep = helper.make_graph(deep_nodes, "deep", [], [info("d")])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "t"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=short, else_branch=deep),
    ]
    weights = {"w": np.ones((4, 4, 1, 1), np.float32), "t": np.array(0.5, np.float32)}
    work = read_workload(_model(nodes, [1, 4, 2, 2], ["y"], weights))
    assert sum(op.kind == "conv1x1" for op in work.ops) == 3
    assert sum(op.kind == "if" for op in work.ops) == 1


def test_fingerprint_ignores_names_and_weights_but_not_shapes() -> None:
    def build(width: int, value: float, name: str) -> Workload:
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name=name)]
        return read_workload(_model(nodes, [1, 4, 4, 4], ["y"], {"w": np.full((width, 4, 1, 1), value, np.float32)}))

    assert build(8, 1.0, "a").fingerprint == build(8, 2.0, "b").fingerprint
    assert build(8, 1.0, "a").fingerprint != build(16, 1.0, "a").fingerprint


def test_peak_activation_bytes_of_a_hand_computed_graph() -> None:
    # 100 floats in x, a and b each, 200 in y; x is dead when y is written
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]),
        helper.make_node("Tanh", ["x"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    work = read_workload(_model(nodes, [1, 100], ["y"]))
    assert work.peak_activation_bytes == (100 + 100 + 200) * 4
    chain = [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    assert read_workload(_model(chain, [1, 100], ["y"])).peak_activation_bytes == 200 * 4


def test_reshape_is_a_view_and_gelu_written_out_is_one_kernel() -> None:
    nodes = [
        helper.make_node("Div", ["x", "r"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["p"]),
        helper.make_node("Mul", ["x", "p"], ["q"]),
        helper.make_node("Mul", ["q", "half"], ["g"]),
        helper.make_node("Reshape", ["g", "shape"], ["y"]),
    ]
    weights = {
        "r": np.array(1.41, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "shape": np.array([4, 5], np.int64),
    }
    work = read_workload(_model(nodes, [1, 20], ["y"], weights))
    assert [op.kind for op in work.ops] == ["gelu", "view"]
    assert work.ops[1].bytes_moved == 0


@pytest.mark.parametrize("int8", [False, True])
def test_joining_channels_keeps_their_order(int8: bool) -> None:
    net = NetBuilder((1, 3, 8, 8), int8)
    stem = net.conv("input", 16)
    both = net.max_pool(net.concat(net.conv(stem, 16, 1), net.conv(stem, 16)))
    work = _load(net.build(net.gemm(net.global_pool(net.conv(both, 32, 1)), 10)))
    assert sum(op.kind == "layout" for op in work.ops) == 1, "only at the end"


def test_gates_leave_the_blocks_of_float_convolutions_but_not_channels_last() -> None:
    def layouts(int8: bool) -> int:
        net = NetBuilder((1, 3, 8, 8), int8)
        gated = net.excite(net.conv("input", 16), 8)
        work = _load(net.build(net.gemm(net.global_pool(net.conv(gated, 32, 1)), 10)))
        return sum(op.kind == "layout" for op in work.ops)

    # floats: before the mean, around the two convolutions of the gate, after the product, at the end
    assert (layouts(int8=False), layouts(int8=True)) == (5, 1)


@pytest.mark.parametrize(("int8", "kinds"), [(False, {"layout": 4, "movement": 1}), (True, {"layout": 1})])
def test_transposes_to_channels_last_merge_with_the_order_of_the_runtime(int8: bool, kinds: dict[str, int]) -> None:
    """A block of ConvNeXt: as many changes of order as the optimised graph of ONNX Runtime has."""
    net = NetBuilder((1, 3, 8, 8), int8)
    stem = net.conv("input", 16, relu=False)
    hidden = net.layer_norm(net.transpose(net.conv(stem, 16, 3, groups=16, relu=False), (0, 2, 3, 1)))
    out = net.binary("Add", stem, net.transpose(net.linear(net.linear(hidden, 32), 16), (0, 3, 1, 2)))
    work = _load(net.build(net.gemm(net.global_pool(net.conv(out, 32, 1)), 10)))
    found = [op.kind for op in work.ops]
    assert {kind: found.count(kind) for kind in ("layout", "movement") if kind in found} == kinds


def test_a_convolution_in_one_dimension_does_not_add() -> None:
    net = NetBuilder((1, 16, 32))
    first = net.conv("input", 16)
    work = _load(net.build(net.binary("Add", first, net.conv(first, 16, relu=False))))
    assert [op.kind for op in work.ops] == ["conv", "conv", "elementwise"]
    assert work.ops[0].kernel == (3,)


@pytest.mark.parametrize(
    ("act", "kinds"), [("Relu", ["conv"]), ("Clip", ["conv", "epilogue"]), ("HardSwish", ["conv", "epilogue"])]
)
def test_only_relu_is_free_after_a_float_convolution(act: str, kinds: list[str]) -> None:
    bounds = ["low", "high"] if act == "Clip" else []
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node(act, ["c", *bounds], ["y"]),
    ]
    weights = {"w": np.zeros((16, 3, 3, 3), np.float32), "low": np.float32(0), "high": np.float32(6)}
    ops = read_workload(_model(nodes, [1, 3, 8, 8], ["y"], weights)).ops
    assert [op.kind for op in ops if op.kind != "layout"] == kinds
    assert ops[-1].bytes_out == 16 * 8 * 8 * 4


def test_padded_macs_round_channels_up_to_the_block() -> None:
    op = Op("conv", "float32", "c", macs=9 * 50 * 50 * 4, cin=50, cout=50, kernel=(3, 3), out_hw=4)
    assert op.padded_macs(8) == 9 * 56 * 56 * 4
    assert op.padded_macs(1) == op.macs
    first = Op("conv", "float32", "c", macs=9 * 3 * 8, cin=3, cout=8, kernel=(3, 3), out_hw=1)
    assert first.padded_macs(8) == first.macs


def test_an_unreadable_file_is_an_input_error(tmp_path: object) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx: this file cannot be read as ONNX"):
        read_workload("missing.onnx")


def _two_convs() -> Workload:
    net = NetBuilder((1, 3, 8, 8), int8=True)
    return _load(net.build(net.gemm(net.global_pool(net.conv(net.conv("input", 16), 16, 1)), 10)))


def test_kept_text_says_all_that_matters() -> None:
    work = _two_convs()
    read = Workload.from_json(work.to_json())
    assert read.fingerprint == work.fingerprint and read.peak_activation_bytes == work.peak_activation_bytes
    assert [replace(op, name="") for op in work.ops] == list(read.ops)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', "\x00"])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Workload.from_json(text)
    rows = _two_convs().to_json().replace('"macs",', "")
    with pytest.raises(ValueError, match="another version"):
        Workload.from_json(rows)


def test_working_memory_is_weights_and_activations() -> None:
    work = _two_convs()
    assert work.weight_bytes > 0 and work.peak_activation_bytes > 0
    assert work.peak_memory_bytes() == work.weight_bytes + work.peak_activation_bytes
    assert work.peak_memory_bytes(weights_in_flash=True) == work.peak_activation_bytes


def test_int8_windows_are_padded_as_a_whole_or_by_channels() -> None:
    op = Op("conv", "int8", "c", macs=49 * 3 * 16, cin=3, cout=16, kernel=(7, 7), out_hw=1)
    assert op.padded_macs(16) == op.macs
    assert op.padded_macs(4) == op.macs * 4 // 3


def _custom_gelu(shape: list[int | str]) -> onnx.ModelProto:
    """Tokens through a GELU of ONNX Runtime's own, which onnx has no shapes for, and a linear layer."""
    weight = np.zeros((8, 300), np.float32)
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    model = _model(nodes, shape, ["y"], {"w": weight})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_a_shape_that_onnx_cannot_infer_is_found_by_one_run() -> None:
    work = read_workload(_custom_gelu(["batch", 5, 8]))
    assert [(op.kind, op.macs, op.bytes_out) for op in work.ops] == [("gelu", 0, 160), ("linear", 12_000, 6_000)]
    assert work.assumptions == ()


def test_group_normalisation_as_exported_counts_the_pixels_that_there_are() -> None:
    shape = np.array([0, 4, -1], np.int64)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["c"], ["back"]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("InstanceNormalization", ["r", "one", "one"], ["n"]),
        helper.make_node("Reshape", ["n", "back"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weights = {"w": np.zeros((8, 8, 3, 3), np.float32), "shape": shape, "one": np.ones(4, np.float32)}
    work = read_workload(_model(nodes, ["batch", 8, 10, 12], ["y"], weights))
    assert [op.macs for op in work.ops if op.macs] == [120 * 8 * 8 * 9] * 2


def test_a_branch_is_run_as_well() -> None:
    inner = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"), helper.make_node("Relu", ["g"], ["deep"])],
        "deep",
        [],
        [helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)],
    )
    short = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])],
        "short",
        [],
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)],
    )
    model = _model([helper.make_node("If", ["c"], ["y"], then_branch=short, else_branch=inner)], [1, 7, 9], ["y"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "c"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert [(op.kind, op.bytes_out) for op in read_workload(model).ops] == [
        ("gelu", 252),
        ("elementwise", 252),
        ("if", 0),
    ]


def test_what_cannot_be_run_is_refused_and_named() -> None:
    model = _model([helper.make_node("Mystery", ["x"], ["y"], domain="nobody")], [1, 8], ["y"])
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(InputError, match=r"shape of tensor 'y' \(Mystery\) is not known, so no latency"):
        read_workload(model)


def test_sizes_that_depend_on_the_data_are_said() -> None:
    work = read_workload(_model([helper.make_node("NonZero", ["x"], ["y"])], [1, 8], ["y"]))
    assert work.assumptions == ("the size of 'y' (NonZero) depends on the data",)
    assert Workload.from_json(work.to_json()) == replace(work, ops=tuple(replace(op, name="") for op in work.ops))


def test_free_dimensions_beside_the_batch_need_a_size() -> None:
    model = _custom_gelu(["batch", "tokens", 8])
    with pytest.raises(InputError, match=r"\(tokens\), and latency depends .* --shape x=1xSIZEx8"):
        read_workload(model)
    assert read_workload(model, shapes={"x": (1, 5, 8)}).macs == 12_000
    assert read_workload(model, shapes={"x": (2, 7, 8)}).macs == 2 * 7 * 8 * 300


@pytest.mark.parametrize(("cell", "gates"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_layers_count_every_step(cell: str, gates: int, both_ways: bool) -> None:
    net = NetBuilder((1, 50, 12))
    work = _load(net.build(net.recurrent(cell, "input", 20, both_ways)))
    (op,) = [op for op in work.ops if op.macs]
    assert (op.kind, op.cin, op.cout, op.groups, op.out_hw) == (cell.lower(), 12, 20, 1 + both_ways, 50)
    assert op.macs == 50 * (1 + both_ways) * gates * 20 * (12 + 20)
    assert op.recurrent_macs == 50 * (1 + both_ways) * gates * 20 * 20


def test_three_dimensions_and_transposed_convolutions() -> None:
    net = NetBuilder((1, 4, 6, 8, 8))
    volume = _load(net.build(net.conv(net.conv("input", 12, (1, 3, 3), 2), 10, 3))).ops
    assert [(op.kind, op.kernel, op.macs) for op in volume if op.macs] == [
        ("conv", (1, 3, 3), 6 * 4 * 4 * 12 * 4 * 9),
        ("conv", (3, 3, 3), 6 * 4 * 4 * 10 * 12 * 27),
    ]
    assert volume[0].padded_macs(8) == volume[0].macs  # kernels on blocks of channels are 2-D
    net = NetBuilder((1, 6, 5, 5))
    (up,) = [op for op in _load(net.build(net.conv_transpose("input", 7, 4, 2))).ops if op.macs]
    assert (up.kind, up.macs, up.out_hw, up.patch_bytes) == ("conv_transpose", 25 * 6 * 7 * 16, 100, 25 * 7 * 16 * 4)


def test_a_look_up_counts_its_rows_and_keeps_its_table() -> None:
    net = NetBuilder((1, 9), ids=True)
    work = _load(net.build(net.look_up("input", 5000, 16)))
    (op,) = work.ops
    assert (op.kind, op.bytes_in, op.bytes_out, op.bytes_weights) == ("embedding", 9 * 8, 9 * 16 * 4, 5000 * 16 * 4)
    assert op.bytes_read_weights == op.bytes_out


@pytest.mark.parametrize(
    ("mode", "by_scales", "kind"),
    [
        ("nearest", True, "resize_blocked"),
        ("nearest", False, "resize"),
        ("linear", True, "resize_linear_blocked"),
        ("linear", False, "resize_linear"),
    ],
)
def test_resizing_stays_in_blocks_of_channels_only_by_constant_scales(mode: str, by_scales: bool, kind: str) -> None:
    net = NetBuilder((1, 16, 8, 8))
    out = net.conv(net.resize(net.conv("input", 16), mode, 2, by_scales), 16)
    kinds = [op.kind for op in _load(net.build(out)).ops]
    assert kind in kinds and kinds.count("layout") == (2 if by_scales else 4)


def test_normalisations_are_kinds_of_their_own() -> None:
    net = NetBuilder((1, 16, 8, 8))
    out = net.group_norm(net.group_norm(net.batch_norm("input"), 4), 0)
    assert [op.kind for op in _load(net.build(out)).ops] == ["batch_norm", "group_norm", "instance_norm"]


def test_a_float_convolution_with_dequantised_weights_is_not_said_to_be_known() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]), helper.make_node("Conv", ["x", "wd"], ["y"])]
    weights = {"w": np.ones((8, 8, 3, 3), np.int8), "s": np.array(0.1, np.float32)}
    work = read_workload(_model(nodes, ["batch", 8, 6, 6], ["y"], weights))
    assert work.assumptions == (
        "float convolutions may be slower, as their weights are dequantised at every call: 'y'",
    )


@pytest.mark.parametrize(
    ("mode", "scale", "dtype"),
    [("nearest", "s", "int8"), ("nearest", "t", "float32"), ("linear", "s", "float32")],
)
def test_the_nearest_integers_are_repeated_between_equal_scales(mode: str, scale: str, dtype: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("Resize", ["xd", "", "twice"], ["r"], mode=mode),
        helper.make_node("QuantizeLinear", ["r", scale, "z"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", scale, "z"], ["y"]),
    ]
    values = {"s": np.array(0.1, np.float32), "t": np.array(0.2, np.float32), "z": np.array(128, np.uint8)}
    values["twice"] = np.array([1, 1, 2, 2], np.float32)
    work = read_workload(_model(nodes, ["batch", 3, 4, 4], ["y"], values))
    (op,) = [op for op in work.ops if op.kind.startswith("resize")]
    assert (op.dtype, op.bytes_out) == (dtype, 3 * 64 * (1 if dtype == "int8" else 4))
    unsure = ("the channel order of linear resizing beside int8 kernels is not known: 'r'",)
    assert work.assumptions == (unsure if mode == "linear" else ())
