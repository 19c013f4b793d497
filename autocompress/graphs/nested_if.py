"""Early exits in the deployed file: a graph with several outputs becomes nested `If` operators.

Weights lie inside the branch that uses them: ONNX Runtime prepacks only a (sub-)graph's own initialisers, and int8
kernels are about three times slower without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LOGITS = "logits"
EXIT_INDEX = "exit_index"
_ALWAYS, _NEVER = np.array(-1.0, np.float32), np.array(2.0, np.float32)
"""Thresholds that every confidence exceeds, and that none does."""


def threshold_name(index: int) -> str:
    """Name of the input (with a default) that holds the threshold of one exit."""
    return f"threshold{index}"


def path_feeds(feed: Mapping[str, NDArray[Any]], n_exits: int) -> list[dict[str, NDArray[Any]]]:
    """Feeds that force a file out at each of its exits; the last one goes through the whole network.

    Args:
        feed: inputs of the file but for its thresholds.
        n_exits: early ones.
    """
    paths = []
    for out in range(n_exits + 1):
        thresholds = {threshold_name(i): _ALWAYS if i == out else _NEVER for i in range(n_exits)}
        paths.append({**feed, **thresholds})
    return paths


def forced_out(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Copies of a file with exits that leave at each of them whatever is put in, the last one at none."""
    n_exits = len({threshold_name(i) for i in range(len(model.graph.input))} & {v.name for v in model.graph.input})
    copies = []
    for thresholds in path_feeds({}, n_exits):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            if tensor.name in thresholds:
                tensor.CopyFrom(numpy_helper.from_array(thresholds[tensor.name], tensor.name))
        copies.append(copy)
    return copies


def to_nested_if(model: onnx.ModelProto, outputs: Sequence[str], thresholds: Sequence[float]) -> onnx.ModelProto:
    """Return a graph that stops at the first exit whose confidence is above its threshold.

    Args:
        model: one output of shape (N, n_classes) per exit, in order of execution; made for any batch size.
        outputs: their names, the network's own output last.
        thresholds: one for each exit but the last. They become inputs with these values as their defaults.

    The result takes one sample at a time and returns `logits` (1, n_classes) and `exit_index` (scalar int64). Its
    batch dimension stays symbolic all the same: with fixed shapes ONNX Runtime turns MatMul + Add into Gemm, which
    has no int8 kernel without a quantised output.
    """
    builder = _Builder(model, outputs)
    nodes, initializers = builder.stage(0)
    nodes += [
        helper.make_node("Identity", [builder.result(0)], [LOGITS], name=LOGITS),
        helper.make_node("Identity", [builder.chosen(0)], [EXIT_INDEX], name=EXIT_INDEX),
    ]
    for i, value in enumerate(thresholds):
        initializers.append(numpy_helper.from_array(np.array(value, np.float32), threshold_name(i)))
    inputs = list(model.graph.input)
    inputs += [helper.make_tensor_value_info(threshold_name(i), TensorProto.FLOAT, []) for i in range(len(thresholds))]
    results = [
        helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [1, builder.n_classes]),
        helper.make_tensor_value_info(EXIT_INDEX, TensorProto.INT64, []),
    ]
    graph = helper.make_graph(nodes, "nested_ifs", inputs, results, initializers + builder.shared)
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name="autocompress"
    )


class _Builder:
    """Cuts the graph into the stages between exits and nests them."""

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        self.outputs = list(outputs)
        graph = model.graph
        self.n_classes = graph.output[-1].type.tensor_type.shape.dim[-1].dim_value
        producer = {name: node for node in graph.node for name in node.output}
        done: set[str] = set()
        self.stages: list[list[onnx.NodeProto]] = []
        for i in range(len(outputs)):
            needed = _ancestors(producer, self.outputs[: i + 1])
            self.stages.append([n for n in graph.node if n.output[0] in needed and n.output[0] not in done])
            done |= needed
        values = {initializer.name: initializer for initializer in graph.initializer}
        uses = [{name for node in stage for name in node.input if name in values} for stage in self.stages]
        self.own = [
            [values[n] for n in values if n in used and sum(n in other for other in uses) == 1] for used in uses
        ]
        self.shared = [values[n] for n in values if sum(n in used for used in uses) > 1]

    def result(self, i: int) -> str:
        return f"exit{i}/result"

    def chosen(self, i: int) -> str:
        return f"exit{i}/chosen"

    def stage(self, i: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes and initialisers from exit `i - 1` to exit `i`, with all that follows nested in its else branch."""
        nodes, initializers = list(self.stages[i]), list(self.own[i])
        if i == len(self.stages) - 1:
            answer, constant = self._answer(i, self.result(i), self.chosen(i))
            return nodes + answer, [*initializers, constant]
        then_names = (f"exit{i}/taken", f"exit{i}/index")
        answer, constant = self._answer(i, *then_names)
        then = helper.make_graph(answer, f"exit{i}_taken", [], self._infos(*then_names), [constant])
        rest, rest_initializers = self.stage(i + 1)
        otherwise = helper.make_graph(
            rest,
            f"exit{i}_passed",
            [],
            self._infos(self.result(i + 1), self.chosen(i + 1)),
            rest_initializers,
        )
        p = f"exit{i}"
        nodes += [
            helper.make_node("Softmax", [self.outputs[i]], [f"{p}/softmax"], name=f"{p}/softmax", axis=-1),
            helper.make_node("ReduceMax", [f"{p}/softmax"], [f"{p}/confidence"], name=f"{p}/max", keepdims=0),
            helper.make_node("Greater", [f"{p}/confidence", threshold_name(i)], [f"{p}/go"], name=f"{p}/greater"),
            helper.make_node(
                "If",
                [f"{p}/go"],
                [self.result(i), self.chosen(i)],
                name=f"{p}/if",
                then_branch=then,
                else_branch=otherwise,
            ),
        ]
        return nodes, initializers

    def _answer(self, i: int, result: str, chosen: str) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
        constant = numpy_helper.from_array(np.array(i, np.int64), f"exit{i}/number")
        return [
            helper.make_node("Identity", [self.outputs[i]], [result], name=result),
            helper.make_node("Identity", [constant.name], [chosen], name=chosen),
        ], constant

    def _infos(self, result: str, chosen: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(result, TensorProto.FLOAT, None),
            helper.make_tensor_value_info(chosen, TensorProto.INT64, []),
        ]


def _ancestors(producer: dict[str, onnx.NodeProto], outputs: Sequence[str]) -> set[str]:
    """First output names of all nodes that the given values depend on."""
    found: set[str] = set()
    pending = list(outputs)
    while pending:
        node = producer.get(pending.pop())
        if node is not None and node.output[0] not in found:
            found.add(node.output[0])
            pending.extend(name for name in node.input if name)
    return found
