from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from helpers.running import load, run
from helpers.zoo import ZOO, synthetic_classification
from onnx import helper

from autocompress.compression.exit_heads import ExitHead, MultiExit
from autocompress.errors import CandidateError
from autocompress.graphs.export import INPUT, export, strip
from autocompress.graphs.nested_if import EXIT_INDEX, LOGITS, threshold_name, to_nested_if
from autocompress.tasks.torch_utils import outputs_of

OUTPUTS = ("exit0", "exit1", "logits")
NEVER, ALWAYS = 2.0, -1.0


@pytest.fixture(scope="module")
def multi() -> tuple[MultiExit, onnx.ModelProto]:
    """A residual net with two heads, and its graph with three outputs."""
    backbone, example = ZOO["resnet"]()
    torch.manual_seed(0)
    heads = {"blocks.0": ExitHead(8, 4, "nchw", hidden=8), "blocks.1": ExitHead(16, 4, "nchw")}
    model = MultiExit(backbone, heads).eval()
    return model, strip(export(model, example, OUTPUTS).proto)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return synthetic_classification(ZOO["resnet"]()[1], n=40)[0].numpy()


def feed(sample: np.ndarray, *thresholds: float) -> dict[str, np.ndarray]:
    given = {threshold_name(i): np.array(t, np.float32) for i, t in enumerate(thresholds)}
    return {INPUT: sample[None], **given}


def test_every_exit_equals_the_one_of_the_network(
    multi: tuple[MultiExit, onnx.ModelProto], samples: np.ndarray
) -> None:
    model, proto = multi
    nested = to_nested_if(proto, OUTPUTS, (0.5, 0.5))
    onnx.checker.check_model(nested, full_check=True)
    session = load(nested.SerializeToString())
    for taken, thresholds in enumerate([(ALWAYS, ALWAYS), (NEVER, ALWAYS), (NEVER, NEVER)]):
        for sample in samples[:5]:
            logits, index = run(session, feed(sample, *thresholds))
            assert int(index) == taken and logits.shape == (1, 4)
            expected = outputs_of(model, torch.from_numpy(sample[None]))[taken].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_first_confident_exit_answers(multi: tuple[MultiExit, onnx.ModelProto], samples: np.ndarray) -> None:
    model, proto = multi
    outputs = outputs_of(model, torch.from_numpy(samples))
    confidence = np.stack([o.softmax(-1).max(-1).values.numpy() for o in outputs[:2]], 1)
    thresholds = tuple(float(t) for t in np.median(confidence, axis=0))
    session = load(to_nested_if(proto, OUTPUTS, thresholds).SerializeToString())
    fires = np.column_stack([confidence > np.array(thresholds, np.float32), np.ones(len(samples), bool)])
    expected = fires.argmax(1)
    clear = (np.abs(confidence - np.array(thresholds)) > 1e-5).all(1)
    assert set(expected[clear]) == {0, 1, 2}
    for i in np.flatnonzero(clear):
        logits, index = run(session, {INPUT: samples[i : i + 1]})
        assert int(index) == expected[i]
        np.testing.assert_allclose(logits[0], outputs[expected[i]][i].numpy(), atol=1e-4)


def test_thresholds_in_the_file_are_defaults(multi: tuple[MultiExit, onnx.ModelProto], samples: np.ndarray) -> None:
    session = load(to_nested_if(multi[1], OUTPUTS, (NEVER, ALWAYS)).SerializeToString())
    assert list(session.inputs) == [INPUT]
    assert list(session.options) == ["threshold0", "threshold1"]
    assert list(session.outputs) == [LOGITS, EXIT_INDEX]
    assert int(run(session, {INPUT: samples[:1]})[1]) == 1
    assert int(run(session, feed(samples[0], ALWAYS))[1]) == 0
    assert int(run(session, feed(samples[0], NEVER, NEVER))[1]) == 2


def test_nothing_behind_the_exit_is_computed(multi: tuple[MultiExit, onnx.ModelProto], samples: np.ndarray) -> None:
    """A lookup out of range, which ends any run that computes it, is put in front of the last output."""
    proto = onnx.ModelProto()
    proto.CopyFrom(multi[1])
    last = next(n for n in proto.graph.node if "logits" in n.output)
    last.output[0] = "before_trap"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(10**6, np.int64), "far"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "axis"))
    proto.graph.node.extend(
        [
            helper.make_node("Gather", ["before_trap", "far"], ["trapped"], axis=0),
            helper.make_node("Unsqueeze", ["trapped", "axis"], ["logits"]),
        ]
    )
    session = load(to_nested_if(proto, OUTPUTS, (0.5, 0.5)).SerializeToString())
    assert int(run(session, feed(samples[0], ALWAYS, ALWAYS))[1]) == 0
    assert int(run(session, feed(samples[0], NEVER, ALWAYS))[1]) == 1
    with pytest.raises(CandidateError, match="cannot run"):
        run(session, feed(samples[0], NEVER, NEVER))


def test_weights_lie_in_the_branch_that_uses_them(multi: tuple[MultiExit, onnx.ModelProto]) -> None:
    nested = to_nested_if(multi[1], OUTPUTS, (0.5, 0.5))

    def depths(graph: onnx.GraphProto, depth: int = 0) -> dict[str, int]:
        found = {i.name: depth for i in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    found |= depths(attribute.g, depth + 1)
        return found

    where = depths(nested.graph)
    assert where["backbone.blocks.0.conv1.weight"] == 0 and where["heads.0.classifier.weight"] == 0
    assert where["backbone.blocks.1.conv1.weight"] == 1 and where["heads.1.classifier.weight"] == 1
    assert where["backbone.blocks.2.conv1.weight"] == 2 and where["backbone.fc.weight"] == 2
    weights = {i.name for i in multi[1].graph.initializer if len(i.dims) > 1}
    assert weights <= set(where)


def test_one_output_is_the_network_itself(multi: tuple[MultiExit, onnx.ModelProto], samples: np.ndarray) -> None:
    backbone, example = ZOO["mlp"]()
    proto = strip(export(backbone, example, ["logits"]).proto)
    session = load(to_nested_if_of_one(proto).SerializeToString())
    logits, index = run(session, {INPUT: example.numpy()})
    assert int(index) == 0
    np.testing.assert_allclose(logits, outputs_of(backbone, example)[0].numpy(), atol=1e-5)


def to_nested_if_of_one(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The output's name is taken by the result: rename it first."""
    for node in proto.graph.node:
        for i, name in enumerate(node.output):
            if name == "logits":
                node.output[i] = "only"
    proto.graph.output[0].name = "only"
    return to_nested_if(proto, ["only"], ())
