"""ReLU and Clip, which LiteRT computes as parts of the operator before."""

from __future__ import annotations

import numpy as np
import onnx

from autocompress.runtimes.adapters.litert.lowering import Lowering

CLIPS = {(0.0, 6.0): "RELU6", (0.0, np.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}


def end_of(low: Lowering, node: onnx.NodeProto) -> str:
    """The tensor after the ReLU or Clip behind a node."""
    reader = low.only_reader(node.output[0])
    if reader is None or reader.op_type not in ("Relu", "Clip") or low.is_rounded(reader, 0):
        return str(node.output[0])
    return str(reader.output[0])


def take(low: Lowering, output: str, coded: str | None) -> tuple[str, str]:
    """Make the activation behind a node part of it, if LiteRT has it.

    Args:
        low: the graph.
        output: of the node.
        coded: name of the quantised tensor after the activation; a bound outside the range of its codes needs no
            operator. None in floats.

    Returns:
        The tensor after it, and what LiteRT calls it.
    """
    reader = low.only_reader(output)
    if reader is None or reader.op_type not in ("Relu", "Clip") or low.is_rounded(reader, 0):
        return output, "NONE"
    bounds = bounds_of(low, reader)
    activation = CLIPS.get(bounds)
    if coded is not None:
        code = low.taken.codes[coded]
        reach, step = (-code.zero_point * code.scale, (255 - code.zero_point) * code.scale), code.scale / 2
        if bounds[0] <= reach[0] + step and reach[1] <= bounds[1] + step:
            activation = "NONE"
    if activation in (None, "RELU_0_TO_1"):  # the latter is an operator, but no part of others
        return output, "NONE"
    low.done.add(reader.output[0])
    return reader.output[0], activation


def bounds_of(low: Lowering, node: onnx.NodeProto) -> tuple[float, float]:
    """What a ReLU or Clip lets through."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    given = [*node.input[1:], "", ""][:2]
    if any(name and name not in low.constants for name in given):
        raise low.refused(node, "its bounds are not constant")
    low_, high = (float(low.constants[name].reshape(-1)[0]) if name else None for name in given)
    return -np.inf if low_ is None else low_, np.inf if high is None else high
