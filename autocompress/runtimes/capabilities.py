"""What a runtime can execute of what a recipe can make, and how the ONNX file gets there. Facts only.

A device profile names the runtime (`DeviceProfile.runtime`); `SearchSpace.restrict` keeps to what it can execute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Support:
    """What one runtime can execute."""

    way: str
    """How the ONNX file of a recipe gets onto the device, in a few words."""
    weight_bits: frozenset[int]
    """Of a layer's weights, in the file: 32 and 16 compute in float, 8 and 4 may compute in integers."""
    activation_bits: frozenset[int]
    """8 computes in integers; 32 beside 8-bit or 4-bit weights unpacks them and computes in float."""
    early_exits: bool
    """Whether it executes the `If` operators of early exits."""
    reads_quantized: bool
    """Whether it takes over our scales; if not, its converter quantises the float file again by its own rules."""
    sparse: str = ""
    """Which weights of 0 it computes faster with, in words; empty where it stores and multiplies them like others."""


def _support(way: str, *, floats: bool, reads_quantized: bool, sparse: str = "") -> Support:
    return Support(way, frozenset({8, 32} if floats else {8}), frozenset({8}), False, reads_quantized, sparse)


_AGAIN = "converted from the float file; its own quantiser decides the int8 accuracy"

ELSEWHERE: Mapping[str, Support] = {
    "qnn": _support("runs the file as it is, ONNX Runtime with the QNN provider", floats=True, reads_quantized=True),
    "stm32-cube-ai": _support("ST Edge AI makes C code from the file", floats=True, reads_quantized=True),
    "paddle-lite": _support(f"X2Paddle and its optimiser, {_AGAIN}", floats=True, reads_quantized=False),
    "tflite-micro": _support(f"onnx2tf, {_AGAIN}", floats=True, reads_quantized=False),
    "tensorrt": _support(
        "TensorRT builds an engine; int8 needs zero points of 0, so it quantises the float file again",
        floats=True,
        reads_quantized=False,
        sparse="2 of every 4 weights at 0 (GPUs since Ampere, built with sparse weights allowed)",
    ),
    "rknn": _support(f"RKNN-Toolkit2, {_AGAIN}", floats=True, reads_quantized=False),
    "edgetpu": _support(f"onnx2tf and the Edge TPU compiler, {_AGAIN}", floats=False, reads_quantized=False),
    "hailo": _support(f"Hailo Dataflow Compiler, {_AGAIN}", floats=False, reads_quantized=False),
    "vitis-ai": _support(f"Vitis AI quantiser and compiler, {_AGAIN}", floats=False, reads_quantized=False),
    "axera-pulsar2": _support(f"Pulsar2, {_AGAIN}", floats=False, reads_quantized=False),
    "horizon-bpu": _support(f"D-Robotics' OpenExplorer, {_AGAIN}", floats=False, reads_quantized=False),
    "tidl": _support(f"TI's edgeai-tidl-tools, {_AGAIN}", floats=False, reads_quantized=False),
    "synap": _support(f"Synaptics' SyNAP toolkit, {_AGAIN}", floats=False, reads_quantized=False),
    "drp-ai": _support(f"Renesas' DRP-AI TVM, {_AGAIN}", floats=True, reads_quantized=False),
    "esp-dl": _support(f"ESP-PPQ, {_AGAIN} (scales are powers of two)", floats=False, reads_quantized=False),
}
"""Of the runtimes that a profile can name and that cannot execute files on this machine; the others say it themselves
(`runtimes.base.Runtime.capabilities`)."""
FORMER_NAMES: Mapping[str, str] = {"tflite": "litert"}
"""What runtimes were called in profiles of earlier versions."""
