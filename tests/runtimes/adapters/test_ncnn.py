"""ncnn beyond the conformance suite: every operator, the integers, and whole searches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.onnx_files import Builder
from helpers.plans import use_tiny_plan
from helpers.quantised_files import quantised
from helpers.small import SPACE, small_task, space

from autocompress import Budget, DeviceProfile, search
from autocompress.devices.calibration.fit import calibrate_host
from autocompress.errors import CandidateError, DeviceError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.inventory import inventory
from autocompress.packaging.package import export_point
from autocompress.runtimes import base, timing
from autocompress.runtimes.adapters.ncnn.session import unpack
from autocompress.studies.folder import read_artifact

installed = pytest.mark.skipif(not importlib.util.find_spec("ncnn"), reason="ncnn is not installed (extra ncnn)")
RUNTIME = base.get("ncnn")
NETS = ["resnet", "vit", "audio1d", "shared", "grouped"]


def lines(file: bytes) -> list[list[str]]:
    """The layers of a file, as words."""
    return [line.split() for line in unpack(file)[0].decode().splitlines()[2:]]


def test_integers_are_those_of_the_quantised_file() -> None:
    file = quantised("resnet")
    written = RUNTIME.convert(file.graph)
    stored = unpack(written)[1]
    assert all(weight.values.tobytes() in stored for weight in file.weights.values())
    integer = [words for words in lines(written) if any(word.startswith("8=") for word in words)]
    assert len(integer) == len(file.weights)
    assert any("8=102" in words for words in integer), "some hand their results on as integers"
    assert len(written) < len(file.graph.SerializeToString())


def test_weights_of_16_bits_are_halves() -> None:
    whole, half = (unpack(RUNTIME.convert(quantised("resnet", bits).graph))[1] for bits in (32, 16))
    assert len(half) < 0.6 * len(whole)


def test_recipe_and_provenance_stay_in_the_file() -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(quantised("mlp").graph)
    graph.metadata_props.add(key="autocompress.recipe", value='{"stages":[]}')
    about = unpack(RUNTIME.convert(graph))[2]
    assert about["metadata"] == {"autocompress.recipe": '{"stages":[]}'}
    assert about["inputs"]["input"]["shape"] == [1, 24] and list(about["outputs"]) == ["logits"]


@pytest.mark.parametrize(("activation_bits", "kept"), [(8, 8), (32, 16)])
def test_weights_beside_floats_are_recorded_as_it_keeps_them(activation_bits: int, kept: int) -> None:
    graph = quantised("resnet", 8, activation_bits).graph
    layers = inventory(graph, RUNTIME)
    assert {layer.weight_bits for layer in layers} == {kept}
    assert 1 <= len(unpack(RUNTIME.convert(graph))[1]) / sum(layer.weight_bytes for layer in layers) < 1.2


def test_its_own_layers_are_what_latency_is_predicted_from() -> None:
    file = quantised("resnet")
    ops = RUNTIME.kernels(file.graph).workload().ops
    assert len([op for op in ops if op.dtype == "int8"]) == len(file.weights)
    additions = [node for node in file.graph.graph.node if node.op_type == "Add"]
    assert len([op for op in ops if op.kind == "elementwise"]) > len(additions), "they, and the activations after them"


def test_what_it_cannot_run_is_named() -> None:
    b = Builder()
    b.node("Conv", ["x", b.weight("w", 4, 3, 3, 3)], "y", "stem")
    b.node("Det", ["y"], "z", "odd/Det")
    with pytest.raises(CandidateError, match="ncnn cannot run Det 'odd/Det': no layer"):
        RUNTIME.convert(b.model({"x": ["n", 3, 6, 6]}, {"z": ["n", 4]}))
    b = Builder()
    b.node("Reshape", ["x", b.constant("shape", np.array([1, 2, 3, 2, 3, 2]))], "y")
    b.node("Transpose", ["y"], "z", "turn", perm=[0, 3, 1, 5, 2, 4])
    with pytest.raises(CandidateError, match="ncnn cannot run Transpose 'turn': tensors have up to four dimensions"):
        RUNTIME.convert(b.model({"x": [1, 72]}, {"z": []}))
    b = Builder()
    b.node("Softmax", ["x"], "z")
    with pytest.raises(CandidateError, match="from opset 13 on, and this graph has 12"):
        RUNTIME.convert(b.model({"x": ["n", 3, 6]}, {"z": ["n", 3, 6]}, opset=12))
    b = Builder()
    b.node("Gather", [b.weight("table", 9, 4), "ids"], "z")
    with pytest.raises(CandidateError, match="float32 only, and 'ids'"):
        RUNTIME.convert(b.model({"ids": ["n", 5]}, {"z": ["n", 5, 4]}, ids=onnx.TensorProto.INT64))


def test_profiles_say_what_it_executes() -> None:
    cpu, gpu = DeviceProfile.load("raspberry-pi-5.ncnn"), DeviceProfile.load("adreno-640-vulkan")
    assert cpu.weight_bits == {8, 16, 32} and gpu.weight_bits == {16, 32}
    assert not cpu.support.early_exits and cpu.support.reads_quantized


@installed
def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file = RUNTIME.convert(quantised("mlp").graph)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    monkeypatch.setattr(type(RUNTIME), "library", "no-such-library")
    with pytest.raises(DeviceError, match=r"ncnn is not installed here; .*: pip install 'autocompress\[ncnn\]'"):
        RUNTIME.load(file)


def difference(model: onnx.ModelProto, samples: np.ndarray) -> float:
    """Largest difference of an output from ONNX Runtime's, relative to the largest output."""
    ours, theirs = RUNTIME.load(RUNTIME.convert(model)), base.reference().load(model.SerializeToString())
    (name,) = theirs.inputs
    found = [[model({name: samples[k : k + 1]}) for k in range(len(samples))] for model in (ours, theirs)]
    a, b = (np.array([[*answer.values()] for answer in answers]) for answers in found)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


@installed
@pytest.mark.parametrize("name", NETS)
def test_networks_compute_what_their_files_say(name: str) -> None:
    for bits, allowed in ((32, 1e-4), (8, 0.12)):
        file = quantised(name, bits)
        assert difference(file.graph, file.samples[:8]) < allowed


def w(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) / 2


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


IMAGE = (4, 6, 5)
OPERATORS: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = [
    ("Conv", IMAGE, [w(8, 4, 3, 3), w(8)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", IMAGE, [w(8, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    ("Conv", IMAGE, [w(4, 4, 3, 3)], {"dilations": [2, 2], "pads": [2, 1, 1, 2]}),
    ("Conv", IMAGE, [w(6, 2, 3, 3), w(6)], {"group": 2}),
    ("Conv", IMAGE, [w(8, 1, 3, 3), w(8)], {"group": 4}),
    ("Conv", (4, 9), [w(6, 4, 3), w(6)], {"pads": [2, 0], "strides": [2]}),
    ("Conv", (4, 1, 1), [w(6, 4, 1, 1), w(6)], {}),
    (
        "ConvTranspose",
        IMAGE,
        [w(4, 3, 3, 3), w(3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
    ),
    ("ConvTranspose", IMAGE, [w(4, 3, 2, 2)], {"strides": [2, 2], "group": 2}),
    ("ConvTranspose", (4, 7), [w(4, 3, 4)], {"strides": [2], "pads": [1, 1]}),
    ("Gemm", (9,), [w(9, 5), w(5)], {}),
    ("MatMul", (9,), [w(9, 5)], {}),
    ("MatMul", (7, 9), [w(9, 5)], {}),
    ("MatMul", (2, 7, 9), [w(9, 5)], {}),
    ("MatMul", (2, 7, 9), [w(1, 2, 9, 5)], {}),
    ("MatMul", (7, 9), [w(9, 5)], {}),
    ("Add", IMAGE, [w(1, 4, 1, 1)], {}),
    ("Mul", IMAGE, [w(5)], {}),
    ("Sub", (7, 9), [w(7, 1)], {}),
    ("Div", (9,), [w(1, 9)], {}),
    ("Pow", IMAGE, [np.float32(2)], {}),
    ("Max", IMAGE, [np.float32(0.1)], {}),
    ("Add", (6, 1), [w(1, 6, 5)], {}),
    ("Clip", IMAGE, [np.float32(-0.5), np.float32(6)], {}),
    ("PRelu", IMAGE, [w(4, 1, 1)], {}),
    *((op, IMAGE, [], {}) for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus", "Mish")),
    *((op, IMAGE, [], {}) for op in ("Abs", "Neg", "Floor", "Ceil", "Exp", "Sin", "Cos", "Erf", "LeakyRelu")),
    ("Gelu", (7, 9), [], {}),
    ("Gelu", (7, 9), [], {"approximate": "tanh"}),
    *(("Softmax", IMAGE, [], {"axis": axis}) for axis in (1, 2, 3)),
    ("Softmax", (9,), [], {"axis": -1}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", (4, 9), [], {"kernel_shape": [2], "strides": [2]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "count_include_pad": 1}),
    ("GlobalAveragePool", IMAGE, [], {}),
    ("GlobalMaxPool", (4, 9), [], {}),
    ("ReduceMean", IMAGE, [ints(2, 3)], {"keepdims": 0}),
    ("ReduceMean", (7, 9), [ints(1)], {"keepdims": 0}),
    ("ReduceSum", IMAGE, [ints(1)], {"keepdims": 1}),
    ("ReduceMax", IMAGE, [ints(-1, 1)], {"keepdims": 0}),
    ("ReduceMin", (9,), [ints(1)], {"keepdims": 1}),
    ("Concat", IMAGE, [w(1, 2, 6, 5)], {"axis": 1}),
    ("Concat", (7, 9), [w(1, 1, 9)], {"axis": 1}),
    ("Slice", IMAGE, [ints(1, -3), ints(3, 9), ints(1, 3)], {}),
    ("Slice", (7, 9), [ints(0), ints(4), ints(2)], {}),
    ("Gather", (7, 9), [np.int64(0)], {"axis": 1}),
    *(("Transpose", (7, 9), [], {"perm": perm}) for perm in ([0, 2, 1], [2, 0, 1])),
    *(("Transpose", IMAGE, [], {"perm": perm}) for perm in ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 3, 2, 1])),
    *(("Transpose", (2, 3, 4, 5), [], {"perm": perm}) for perm in ([0, 2, 1, 3, 4], [3, 0, 1, 4, 2], [2, 0, 3, 1, 4])),
    ("Reshape", IMAGE, [ints(0, 2, -1)], {}),
    ("Flatten", IMAGE, [], {}),
    ("Unsqueeze", (9,), [ints(1)], {}),
    ("Resize", IMAGE, [w(0), w(0), ints(1, 4, 12, 10)], {"mode": "linear"}),
    (
        "Resize",
        IMAGE,
        [w(0), w(0), ints(1, 4, 9, 7)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        IMAGE,
        [w(0), np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Pad", IMAGE, [ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0.5)], {}),
    ("Pad", IMAGE, [ints(0, 1, 0, 0, 0, 2, 0, 0)], {}),
    ("Pad", IMAGE, [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("LayerNormalization", (7, 9), [w(9), w(9)], {"axis": -1}),
    ("BatchNormalization", IMAGE, [w(4), w(4), w(4), np.abs(w(4)) + 1], {}),
    ("InstanceNormalization", IMAGE, [w(4), w(4)], {}),
    ("GroupNormalization", IMAGE, [w(4), w(4)], {"num_groups": 2}),
    ("DepthToSpace", (8, 3, 3), [], {"blocksize": 2, "mode": "CRD"}),
    ("DepthToSpace", (8, 3, 3), [], {"blocksize": 2, "mode": "DCR"}),
]


@installed
@pytest.mark.parametrize("bias", [(5,), (1, 5), (5, 1), (1,), (3, 5, 5)])
def test_what_is_added_to_a_product_keeps_its_axis(bias: tuple[int, ...]) -> None:
    b = Builder()
    b.node("MatMul", ["x", b.weight("w", 9, 5)], "product")
    b.node("Add", [b.weight("bias", *bias), "product"], "y")
    model = b.model({"x": [1, 3, 5, 9]}, {"y": []})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert difference(model, w(2, 3, 5, 9)) < 1e-4


@installed
@pytest.mark.parametrize(("op", "shape", "constants", "attributes"), OPERATORS)
def test_operators_compute_what_onnx_says(
    op: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]
) -> None:
    b = Builder()
    names = [b.constant(f"c{k}", value) for k, value in enumerate(constants)]
    b.node(op, ["x", *names], "y", **attributes)
    model = onnx.shape_inference.infer_shapes(b.model({"x": [1, *shape]}, {"y": []}, opset=22))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert difference(model, w(3, *shape)) < 1e-4


WINDOWS = ints(4, 3, 4, 4)
"""Four images of one sample: their number is no batch."""
SEVERAL = ("Reshape", ["x", WINDOWS], {})
CLOSE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
CHAINS: list[tuple[tuple[int, ...], list[tuple[str, list[Any], dict[str, Any]]]]] = [
    *(
        ((12, 4, 4), [SEVERAL, last])
        for last in (
            ("Conv", ["x", w(5, 3, 3, 3)], {}),
            ("ConvTranspose", ["x", w(3, 5, 3, 3)], {}),
            ("MaxPool", ["x"], {"kernel_shape": [2, 2]}),
            ("GlobalAveragePool", ["x"], {}),
            ("ReduceMean", ["x", ints(2, 3)], {"keepdims": 0}),
            ("BatchNormalization", ["x", w(3), w(3), w(3), np.abs(w(3)) + 1], {}),
            ("InstanceNormalization", ["x", w(3), w(3)], {}),
            ("PRelu", ["x", w(3, 1, 1)], {}),
            ("Resize", ["x", "", np.float32([1, 1, 2, 2])], {"mode": "linear"}),
        )
    ),
    ((12, 4, 4), [("Reshape", ["x", ints(3, 4, 4, 4)], {}), ("DepthToSpace", ["x"], {"blocksize": 2, "mode": "DCR"})]),
    ((4, 9), [("InstanceNormalization", ["x", w(4), w(4)], {})]),
    ((4, 2, 3, 3), [("InstanceNormalization", ["x", w(4), w(4)], {})]),
    ((4, 2, 3, 3), [("GlobalAveragePool", ["x"], {})]),
    ((4, 2, 3, 3), [("GlobalMaxPool", ["x"], {})]),
    ((4, 3, 3), [("GroupNormalization", ["x", w(2), w(2)], {"num_groups": 2})]),
    ((5, 8), [("MatMul", ["x", w(8, 5)], {}), ("Add", ["x", w(5, 1)], {})]),
    ((8,), [("MatMul", ["x", w(8, 5)], {}), ("Add", ["x", w(5, 1)], {})]),
    ((5, 8), [("MatMul", ["x", w(8, 5)], {}), ("Add", ["x", "x"], {})]),
    ((3, 8), [("Reshape", ["x", ints(3, 8)], {}), ("Gemm", ["x", w(8, 5), w(3, 1)], {})]),
    ((5, 8), [("Reshape", ["x", ints(5, 8)], {}), ("Gemm", ["x", w(8, 5), w(5, 1)], {})]),
    ((5, 8), [("Reshape", ["x", ints(5, 8)], {}), ("Gemm", ["x", w(8, 5), w(5, 5)], {})]),
    *(
        (IMAGE, [("Resize", ["x", "", np.float32([1, 1, *factors])], attributes)])
        for factors in ((1.3, 1.7), (3, 3), (0.55, 0.55))
        for attributes in (
            {"mode": "linear"},
            {"mode": "linear", "antialias": 1},
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "cubic", "cubic_coeff_a": -0.5},
            {"mode": "cubic"},
            *({**CLOSE, "nearest_mode": rounding} for rounding in ("floor", "ceil", "round_prefer_floor")),
            {"mode": "nearest", "nearest_mode": "floor"},
            {"mode": "nearest"},
        )
    ),
    *(
        (IMAGE, [("Resize", ["x", "", "", ints(1, 4, 1, 1)], {"mode": mode, "coordinate_transformation_mode": place})])
        for mode in ("linear", "cubic", "nearest")
        for place in ("pytorch_half_pixel", "align_corners")
    ),
    (IMAGE, [("Mul", ["x", np.float32(5)], {}), ("Cast", ["x"], {"to": 6}), ("Cast", ["x"], {"to": 1})]),
    (IMAGE, [("Cast", ["x"], {"to": 9}), ("Cast", ["x"], {"to": 1})]),
    ((5, 8), [("Slice", ["x", ints(4), ints(2), ints(1)], {}), ("Concat", ["x", w(1, 3, 8)], {"axis": 1})]),
    ((4, 1, 1), [("Conv", ["x", w(6, 4, 1, 1)], {"pads": [1, 1, 1, 1]})]),
    ((4, 7, 7), [("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})]),
    *(
        (shape, [(op, ["x"], {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": up, **more})])
        for op, more in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1}))
        for shape, kernel, strides, pads, up in (
            (IMAGE, [3, 2], [2, 3], [1, 1, 1, 1], 1),
            (IMAGE, [3, 2], [2, 3], [0, 1, 1, 0], 1),
            ((4, 7, 7), [2, 2], [2, 2], [0, 0, 0, 0], 1),
            ((4, 7, 7), [3, 3], [2, 2], [1, 1, 1, 1], 1),
            ((4, 8, 8), [3, 3], [2, 2], [1, 1, 1, 1], 1),
            ((4, 8, 8), [3, 3], [2, 2], [1, 1, 1, 1], 0),
            ((4, 1, 3), [3, 3], [3, 3], [0, 0, 0, 0], 1),
        )
    ),
    ((8, 8), [("PRelu", ["x", w(8)], {})]),
    ((8, 5), [("PRelu", ["x", w(8, 1)], {})]),
    ((8,), [("PRelu", ["x", w(8)], {})]),
    ((5, 6, 5), [("PRelu", ["x", w(5)], {})]),
    (IMAGE, [("ReduceMean", ["x", ints()], {})]),
    ((2, 3, 2, 3, 2), [("Relu", ["x"], {})]),
    ((72,), [("Reshape", ["x", ints(1, 2, 3, 2, 3, 2)], {})]),
    ((5,), [("ReduceMin", ["x", ints(0)], {})]),
    ((1, 4, 1, 9), [("ReduceMax", ["x", ints(1, 3)], {"keepdims": 0})]),
    ((4, 12), [("Reshape", ["x", ints(1, 4, 2, 3, 2, 1)], {}), ("BatchNormalization", ["x", *[np.abs(w(4))] * 4], {})]),
    (IMAGE, [("ReduceSum", ["x", ints()], {"noop_with_empty_axes": 1})]),
]


@installed
@pytest.mark.parametrize(("shape", "steps"), CHAINS)
def test_files_compute_what_the_graph_computes_or_are_refused(shape: tuple[int, ...], steps: list[Any]) -> None:
    b, last = Builder(), "x"
    for k, (op, inputs, attributes) in enumerate(steps):
        names = [
            b.constant(f"c{k}.{i}", v) if isinstance(v, np.ndarray | np.generic) else v for i, v in enumerate(inputs)
        ]
        last = b.node(op, [last if name == "x" else name for name in names], f"y{k}", **attributes)
    model = b.model({"x": [1, *shape]}, {last: []}, opset=20)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    try:
        RUNTIME.convert(model)
    except CandidateError:
        return
    assert difference(model, w(3, *shape)) < 1e-4


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = timing.TimingProtocol(rounds=2, runs=1, warm_up=1, max_seconds=0.02, pause_s=0.0)
    monkeypatch.setattr(timing, "FAST", protocol)
    monkeypatch.setattr(timing, "THOROUGH", protocol)


@installed
def test_a_search_for_a_board_judges_files_of_ncnn(tmp_path: Path) -> None:
    task, board = small_task("mlp", n=64), DeviceProfile.load("raspberry-pi-5.ncnn")
    found = search(task, board, space(SPACE), budget=Budget(3), out=tmp_path / "study")
    evaluator = Evaluator(task, board)
    for e in found.evaluations:
        file = read_artifact(found.path, e)
        assert str(e.artifact).endswith("/model.ncnn") and len(file) == e.size_bytes
        assert evaluator.score(file, "validation").value == e.validation.value
        assert e.latency_source == "predicted" and e.predicted_latency_ms > 0
        assert {layer.weight_bits for layer in e.layers} <= {8, 16, 32}, "it cannot execute weights of 4 bits"
    folder = export_point(found, found.evaluations[-1], tmp_path / "shipped")
    assert {"model.ncnn", "infer.py", "session.py"} < {path.name for path in folder.iterdir()}
    assert "pip install numpy ncnn" in (folder / "card.md").read_text()
    np.save(tmp_path / "samples.npy", (sample := next(iter(task.split("validation")))[0]["input"][:2]))
    script = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = [{str(folder)!r}]; import infer; infer.main()"]
    done = subprocess.run([*script, str(tmp_path / "samples.npy")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = evaluator.runtime.load(file)({"input": np.asarray(sample[:1])})
    assert f"   0: class {next(iter(logits.values())).argmax()} " in done.stdout
    assert not (folder / "__pycache__").exists() or not list((folder / "__pycache__").glob("session*"))


@installed
def test_a_profile_is_fitted_to_its_times(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_plan(monkeypatch)
    profile = calibrate_host(budget_s=5, runtime="ncnn")
    assert (profile.name, profile.runtime, profile.measured_with) == ("host.ncnn", "ncnn", "ncnn")
    assert profile.is_this_machine and profile.reference_ms and profile.reference_ms > 0
