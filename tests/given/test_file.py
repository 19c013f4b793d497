from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.onnx_files import Builder, images, keras_style, torch_style, two_inputs, written
from onnx import TensorProto, helper

from autocompress.errors import TaskError
from autocompress.given.file import layer_name, read
from autocompress.graphs.quantizable import quantizable_layers


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_files_of_many_opsets_compute_the_same_in_our_form(opset: int, tmp_path: Path) -> None:
    file = read(written(torch_style(opset), tmp_path))

    assert file.checked({"image": images(2, 3, 12, 12)}).keys() == {"scores"}
    kinds = [node.op_type for node in file.graph.graph.node]
    assert "BatchNormalization" not in kinds and "Constant" not in kinds
    assert file.graph.opset_import[0].version == 21


def test_layers_are_called_what_the_maker_called_them(tmp_path: Path) -> None:
    torch, keras = (read(written(model, tmp_path)) for model in (torch_style(), keras_style()))

    assert [layer.name for layer in quantizable_layers(torch.graph)] == ["stem", "body.0", "head"]
    assert [layer.name for layer in quantizable_layers(keras.graph)] == ["model.conv", "model.dense"]
    assert layer_name("onnx::Conv_1", ["/layer1/layer1.0/conv1/Conv"]) == "layer1.0.conv1"


def test_weights_in_another_file_and_among_the_inputs_are_found(tmp_path: Path) -> None:
    model = torch_style()
    weight = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims)))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    file = read(tmp_path / "model.onnx")

    assert [spec.name for spec in file.inputs] == ["image"]
    assert file.checked({"image": images(2, 3, 12, 12)})["scores"].shape == (2, 5)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(TaskError, match="its weights lie in another file, which cannot be read"):
        read(tmp_path / "model.onnx")


def test_free_sizes_become_those_of_the_data_and_the_file_says_so(tmp_path: Path) -> None:
    file = read(written(two_inputs(), tmp_path)).sized({"ids": (7,), "mask": (7,)})

    assert [dim.dim_value for dim in file.graph.graph.input[0].type.tensor_type.shape.dim] == [0, 7]
    assert "the files take one size of sample" in file.notes[0]
    samples = {"ids": np.arange(14).reshape(2, 7), "mask": np.ones((2, 7), np.float32)}
    assert file.checked(samples)["tokens"].shape == (2, 7, 16)


def _quantised() -> onnx.ModelProto:
    b = Builder()
    scale = b.constant("scale", np.float32(0.1))
    b.node("QuantizeLinear", ["x", scale], "q")
    b.node("DequantizeLinear", ["q", scale], "y")
    return b.model({"x": ["n", 4]}, {"y": ["n", 4]})


def _in_half() -> onnx.ModelProto:
    b = Builder()
    b.node("Cast", ["x"], "h", to=TensorProto.FLOAT16)
    b.node("MatMul", ["h", b.constant("w", np.ones((4, 4), np.float16))], "m")
    b.node("Cast", ["m"], "y", to=TensorProto.FLOAT)
    return b.model({"x": ["n", 4]}, {"y": ["n", 4]})


def _copy(**shapes: list[int | str]) -> onnx.ModelProto:
    b = Builder()
    b.node("Relu", ["x"], "y")
    return b.model({"x": shapes["x"]}, {"y": shapes["x"]})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_quantised(), "is quantised already"),
        (_in_half(), "holds weights in float16; export it in float32"),
        (_copy(x=[8, 4]), "the first dimension of every input must be free or 1"),
        (_copy(x=[]), "has no dimensions"),
    ],
)
def test_files_that_cannot_be_used_say_what_to_do(model: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=message):
        read(written(model, tmp_path))


def test_what_is_no_onnx_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"PK\x03\x04 not a network", b""):
        path.write_bytes(content)
        with pytest.raises(TaskError, match="is not an ONNX file"):
            read(path)
    with pytest.raises(TaskError, match="cannot be read"):
        read(tmp_path / "missing.onnx")


def test_outputs_that_join_samples_and_operators_of_nobody_are_refused(tmp_path: Path) -> None:
    b = Builder()
    b.node("ReduceMax", ["x"], "y", keepdims=0)
    joined = read(written(b.model({"x": ["n", 4]}, {"y": []}), tmp_path))
    with pytest.raises(TaskError, match="every output must have one row for each sample"):
        joined.checked({"x": images(2, 4)})
    b = Builder()
    b.nodes.append(helper.make_node("Mystery", ["x"], ["y"], domain="com.nobody"))
    model = b.model({"x": ["n", 4]}, {"y": ["n", 4]})
    model.opset_import.append(helper.make_opsetid("com.nobody", 1))
    with pytest.raises(TaskError, match="ONNX Runtime cannot load"):
        read(written(model, tmp_path)).checked({"x": images(2, 4)})
