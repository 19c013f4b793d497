"""Neural processors whose vendors publish times of whole networks: D-Robotics, Axera, Renesas, TI, SpacemiT, Arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress.devices.profile import Dtype
from public_data.boards import log_threads
from public_data.collection import Collection
from public_data.hierarchy import Settings
from public_data.layered import Chip, Table, collect

_INT8: tuple[tuple[Dtype, float], ...] = (("int8", 0.3),)
_VENDOR = Settings(noise=0.2, deviation=0.4, effect=0.4, rounds=10)
_INT8_ONLY = ("float: the compiler takes int8 only, so was nothing else timed",)
_TRANSFORMERS = r"(?i)vit|deit|swin|former|clip|text|world|depth|detr|cas_|xcit|beit|mixer|gmlp|eva02|segment_anything"


def _npu(name: str, title: str, runtime: str, version: str, where: dict[str, str], facts: tuple[float, ...]) -> Chip:
    profile: dict[str, Any] = {
        "device_class": "npu",
        "processor": title.split(",")[0],
        "runtime": runtime,
        "measured_with": version,
    }
    return Chip(name, title, where, profile, facts)


_RDK = Table(
    "rdk_bpu_latency.csv",
    "D-Robotics/rdk_model_zoo (commits be4f89bd, 1100150e, 934a348), Apache-2.0",
    "2026-02-04",
    tuple(
        _npu(f"rdk-{board.lower()}-bpu", f"D-Robotics RDK {board}, {title}", "horizon-bpu",
             "hrt_model_exec perf (OpenExplorer)", {"device": f"RDK {board}$", "threads": "1$"}, facts)
        for board, title, facts in (
            ("X5", "BPU Bayes-e", (0.0, 0.0)),
            ("X3", "BPU Bernoulli2", (1.0, 0.0)),
            ("S100", "BPU Nash-e", (0.0, 1.0)),
            ("S100P", "BPU Nash-m", (0.0, 1.0)),
        )
    ),
    _INT8_ONLY,
    _TRANSFORMERS,
)  # fmt: skip


def d_robotics(data: Path) -> Collection:
    """BPUs of the RDK boards, int8, one thread."""
    return collect(data, (_RDK,), _INT8, _VENDOR)


def _axera(name: str, title: str, where: dict[str, str], facts: tuple[float, ...]) -> Chip:
    return _npu(name, title, "axera-pulsar2", "Pulsar2", where, facts)


_AXERA = Table(
    "axera_npu_latency.csv",
    "AXERA-TECH/ax-samples (commits 2d08c3c7, 7eb361d7), BSD-3-Clause",
    "2026-07-28",
    tuple(
        _axera(f"axera-{name}-npu", f"Axera {title}", {"device": device, "processor": processor}, facts)
        for name, title, device, processor, facts in (
            ("ax650n-1core", "AX650N, 1 core", "AXera-Pi Pro", "npu: 1", (1.0, 0.0)),
            ("ax650n-3cores", "AX650N, 3 cores", "AXera-Pi Pro", "npu: 3", (1.0, 1.0)),
            ("ax8850-3cores", "AX650/AX8850, 3 cores", "AX650 / AX8850", "", (1.0, 1.0)),
            ("ax615-1core", "AX615, 1 core", "AX615", "npu: 1", (0.0, 0.0)),
            ("ax615-2cores", "AX615, 2 cores", "AX615", "npu: 2", (0.0, 1.0)),
            ("ax637", "AX637", "AX637 board", "", (1.0, 0.0)),
            ("ax8910", "AX637/AX8910", "AX637 / AX8910", "", (1.0, 0.0)),
            ("ax630c", "AX630C", "AX630C", "", (0.0, 0.0)),
            ("ax620q", "AX620Q", "AX620Q", "", (0.0, 0.0)),
            ("ax620a", "AX620A", "AXera-Pi$", "", (0.0, 0.0)),
        )
    ),
    (*_INT8_ONLY, "the source gives its figures for reference only and states no method"),
    _TRANSFORMERS,
)  # fmt: skip


def axera(data: Path) -> Collection:
    """NPUs of Axera, int8."""
    return collect(data, (_AXERA,), _INT8, _VENDOR)


def _renesas(name: str, board: str, *, integer: bool) -> Chip:
    chip = _npu(
        name, f"Renesas {board}", "drp-ai", "DRP-AI TVM", {"device": f"Renesas {board} ", "processor": "npu"}, ()
    )
    return Chip(chip.name, chip.description, chip.where,
                {**chip.profile, "float_format": "float32" if integer else "float16"}, (float(integer),))  # fmt: skip


_PLAIN = (
    r"resnet(v2_)?\d+d?$|gluon_resnet\d+_v1|mobilenet_?v2|mnasnet|efficientnet_e[sml]|fbnetc|gernet|hrnet_w|darknet53"
)
_PLAIN += r"|deeplabv3_resnet|fcn_resnet|selecsls|vgg\d|wide_resnet|dla34|squeezenet"
"""Networks of nothing but dense and depthwise convolutions, ReLU, additions and pooling."""
_DRP = Table(
    "renesas_drpai_latency.csv",
    "renesas-rz/rzv_drp-ai_tvm (commit a5575524) docs/model_list, Apache-2.0",
    "2025-12-25",
    (
        _renesas("renesas-rzv2l-drpai", "RZ/V2L", integer=False),
        _renesas("renesas-rzv2m-drpai", "RZ/V2M", integer=False),
        _renesas("renesas-rzv2ma-drpai", "RZ/V2MA", integer=False),
        _renesas("renesas-rzv2h-drpai3", "RZ/V2H", integer=True),
    ),
    (
        "operators that the accelerator leaves to the CPU: the data are of networks of dense and depthwise "
        "convolutions, ReLU and additions; grouped ones, squeeze-and-excitation and SiLU are up to 20 times slower",
        "whole milliseconds in the source: times of 1 to 5 ms are up to half off",
    ),
    rf"^(?!{_PLAIN})",
)


def renesas(data: Path) -> Collection:
    """DRP-AI: fp16 on the older chips, int8 on RZ/V2H."""
    settings = Settings(noise=0.3, deviation=0.4, effect=0.4, rounds=10)
    return collect(data, (_DRP,), (("float32", 5.0), ("int8", 0.5)), settings)


_TIDL = Table(
    "ti_edgeai_latency.csv",
    "TexasInstruments/edgeai-tensorlab (commits 6e83b7a1, f272548e), BSD-3-Clause",
    "2024-09-01",
    (
        _npu("ti-am68a-tidl", "TI AM68A, C7x and MMA", "tidl", "TIDL through ONNX Runtime",
             {"device": "TI AM68A", "processor": "npu:"}, (0.0,)),
        _npu("ti-tda4vm-tidl", "TI TDA4VM by its figures, C7x and MMA", "tidl", "TIDL",
             {"device": "TI EVM", "processor": "npu:"}, (1.0,)),
    ),
    (*_INT8_ONLY, "board: of one of the two the source does not state it"),
)  # fmt: skip


def ti(data: Path) -> Collection:
    """The accelerators of TI's Jacinto chips, int8."""
    return collect(data, (_TIDL,), _INT8, _VENDOR)


def _spacemit(chip: str, threads: int) -> Chip:
    profile = {
        "device_class": "board",
        "processor": "X60 RISC-V" if chip == "K1" else "K3 RISC-V AI cores",
        "runtime": "onnxruntime",
        "measured_with": "spacemit-ort 2.0.6 (SpaceMIT provider)",
        "threads": threads,
        "float_format": "float16",
        "instruction_set": ("rvv",),
    }
    name = f"spacemit-{chip.lower()}" + (f"-{threads}threads" if threads > 1 else "")
    title = f"SpacemiT {chip}, {threads} core{'s' if threads > 1 else ''}"
    facts = (float(chip == "K3"), log_threads(threads))
    return Chip(name, title, {"device": f"SpacemiT {chip}", "threads": f"{threads}$"}, profile, facts)


_SPACEMIT = Table(
    "spacemit_latency.csv",
    "spacemit-com/docs-ai (commit be40f44b) modelzoo.md, facts only",
    "2026-07-27",
    tuple(_spacemit("K1", n) for n in (1, 2, 4)) + tuple(_spacemit("K3", n) for n in (1, 2, 4, 8)),
    ("early exits: not tested with the vendor's provider", "float32: computed in fp16; five networks were timed"),
)


def spacemit(data: Path) -> Collection:
    """RISC-V cores with matrix extensions under the vendor's build of ONNX Runtime, fp16 and int8."""
    settings = Settings(noise=0.15, deviation=0.4, effect=0.4, rounds=10)
    return collect(data, (_SPACEMIT,), (("float32", 20.0), ("int8", 5.0)), settings)


_ETHOS = Table(
    "netspresso_latency.csv",
    "Nota-NetsPresso/netspresso-trainer (commit cdefe125) docs/benchmarks/device_matrix/tflite.md, Apache-2.0",
    "2024-09-06",
    (_npu("imx93-ethos-u65", "NXP i.MX93, Ethos-U65", "litert", "TFLite with the Ethos-U delegate",
          {"device": "NXP i.MX93"}, ()),),
    _INT8_ONLY,
    _TRANSFORMERS,
)  # fmt: skip


def ethos(data: Path) -> Collection:
    """Ethos-U65 of the i.MX93, int8."""
    return collect(data, (_ETHOS,), _INT8, Settings(noise=0.2, deviation=0.6, rounds=10))
