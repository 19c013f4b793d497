"""The text of a task file from answers: short, commented, complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autocompress.errors import InputError

Form = Literal["images", "sounds", "table", "series", "arrays"]

FORMS: dict[str, tuple[Form, ...]] = {
    "classification": ("images", "sounds", "table", "arrays"),
    "regression": ("table", "arrays"),
    "forecasting": ("series", "arrays"),
    "segmentation": ("arrays",),
    "image_to_image": ("arrays",),
    "embedding": ("images", "sounds", "table", "arrays"),
    "ctc": ("arrays",),
}
"""Kinds of task, and the data that a file can be written for."""
LIBRARIES = ("torchvision", "timm", "transformers")
_OF_LIBRARIES = {
    "torchvision": {"classification"},
    "timm": {"classification", "embedding"},
    "transformers": {"classification", "segmentation", "ctc"},
}
"""The kinds of task that a network of a library is loaded for."""
_AUTO = {
    "images": "ImageClassification",
    "sounds": "AudioClassification",
    "segmentation": "SemanticSegmentation",
    "ctc": "CTC",
}
_READERS = ("arrays", "audio_folder", "image_folder", "series", "table")
_HINTS = {
    "classification": '# metric="macro recall" or "macro F1" where classes are rare',
    "regression": '# metric="RMSE", "sMAPE" or "R2" instead of the mean absolute error',
    "forecasting": '# metric="RMSE", "sMAPE" or "R2" instead of the mean absolute error',
    "image_to_image": '# PSNR of values from 0 to 1; metric="SSIM"',
    "embedding": '# recall@1; metric="EER" or "TAR at FAR 0.001" for verification',
    "ctc": "# label error rate; separator=... (the class between words) for the word error rate",
}


@dataclass(frozen=True)
class Answers:
    """What is to be compressed, on which data."""

    kind: str
    data: Path
    form: Form
    model: str
    """torchvision:NAME, timm:NAME, transformers:NAME or folder, module.py:NAME, package.module:NAME, or FILE.onnx."""
    out: Path
    weights: Path | None = None
    """File with a state_dict; None: those that the library or the code brings."""
    columns: tuple[str, ...] = ()
    """Of a table, the targets; of a series, those to predict."""
    size: tuple[int, int] = (224, 224)
    """Height and width of images."""
    rate: int = 16000
    """Samples of sounds per second."""
    seconds: float = 1.0
    history: int = 96
    horizon: int = 24
    """Steps of a series that are known, and to be predicted."""
    arrays: tuple[str, str] = ("inputs", "targets")
    over_255: tuple[str, ...] = ()
    """Arrays of bytes."""
    n_classes: int | None = None
    """Of arrays of class indices."""
    is_called: bool = True
    """Whether the network of a module is what a function or class of that name returns."""


def text(answers: Answers) -> str:
    """The file.

    Raises:
        InputError: the network cannot be loaded for such a task by a few lines.
    """
    if answers.model.endswith(".onnx"):
        body = _from_onnx(answers)
    else:
        body = [*_data(answers), *_model(answers), *_returned(answers)]
    code = "\n".join(f"    {line}" for line in body)
    parts = [_head(answers, code), *(["HERE = Path(__file__).parent"] if "HERE" in code else [])]
    return "\n\n".join(parts) + f"\n\n\ndef task() -> Task:\n{code}\n"


def _head(answers: Answers, code: str) -> str:
    """Docstring and the imports that the code needs."""
    file = answers.out.as_posix()
    ours = [name for name in ("ImageOptions", "Task", "task_from_onnx") if name in f"{code} Task"]
    readers = [name for name in _READERS if f"= {name}(" in code]
    blocks = [
        f'"""A task for autocompress ({answers.kind}): the trained network and its data.\n\n'
        f"    autocompress check {file}\n"
        f'    autocompress search {file} --device host --hours 1 --out results/first\n"""',
        "from pathlib import Path" if "HERE" in code else "",
        "\n".join(_imports(answers, code)),
        f"from autocompress import {', '.join(ours)}"
        + (f"\nfrom autocompress.tasks.readers import {', '.join(readers)}" if readers else ""),
    ]
    return "\n\n".join(block for block in blocks if block)


def _imports(answers: Answers, code: str) -> list[str]:
    library, _, name = answers.model.rpartition(":")
    lines = [f"import {each}" for each in ("timm", "torch", "torchvision") if f"{each}." in code]
    if library == "transformers":
        lines.append(f"from transformers import {_auto(answers)}")
    elif library and library not in LIBRARIES:
        module = Path(library).stem if library.endswith(".py") else library
        alias = _alias(answers)
        lines.append(f"from {module} import {name}" + (f" as {alias}" if alias != name else ""))
    return lines


def _data(a: Answers) -> list[str]:
    path = _path(a.data, a.out)
    if a.form == "images":
        usual = a.model.partition(":")[0] in LIBRARIES
        options = "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)" if usual else ""
        return [
            "# values / 255, then minus mean, divided by std: as in the training of the network",
            f"options = ImageOptions({options})",
            f"data = image_folder({path}, {a.size}, options)  # one sub-folder per class",
        ]
    if a.form == "sounds":
        return [f"data = audio_folder({path}, rate={a.rate}, seconds={a.seconds:g})  # one sub-folder per class"]
    if a.form == "series":
        return [f"data = series({path}, {_literal(a.columns)}, history={a.history}, horizon={a.horizon})"]
    if a.form == "table":
        target = _literal(a.columns[0] if len(a.columns) == 1 else a.columns)
        return [
            "# all other columns are the input, as they are: scale them as in the training of the network",
            f"data = table({path}, {target}, classes={a.kind not in ('regression', 'forecasting')})",
        ]
    scaled = f", over_255={_literal(a.over_255)}" if a.over_255 else ""
    inputs, targets = map(_literal, a.arrays)
    return [f"data = arrays({path}, {inputs}, {targets}{scaled})"]


def _model(a: Answers) -> list[str]:
    library, _, name = a.model.rpartition(":")
    if library not in LIBRARIES:
        return [f"model = {_alias(a)}{'()' if a.is_called else ''}", *_loaded(a)]
    if a.kind not in _OF_LIBRARIES[library]:
        raise InputError(
            f"networks of {library} are loaded for {' or '.join(sorted(_OF_LIBRARIES[library]))}, not for {a.kind}; "
            "write a function that returns yours, and give --model my_module.py:function"
        )
    if library == "transformers":
        return [f"model = {_auto(a)}.from_pretrained({_literal(name)})", *_loaded(a)]
    classes = "0" if a.kind == "embedding" else "len(data.classes)" if a.n_classes is None else str(a.n_classes)
    makes, brought = {
        "timm": ("timm.create_model", "pretrained=True"),
        "torchvision": ("torchvision.models.get_model", 'weights="DEFAULT"'),
    }[library]
    given = [_literal(name), *([] if a.weights else [brought])]
    given += [f"num_classes={classes}"] if a.weights or a.kind == "embedding" else []
    return [f"model = {makes}({', '.join(given)})", *_loaded(a)]


def _alias(a: Answers) -> str:
    """What the user's own function or network is called here: never as a variable of the file."""
    return "make_model" if a.is_called else "trained_model"


def _loaded(a: Answers) -> list[str]:
    if a.weights is None:
        return []
    return [f"model.load_state_dict(torch.load({_path(a.weights, a.out)}, weights_only=True))"]


def _auto(a: Answers) -> str:
    found = _AUTO.get(a.kind) or _AUTO.get(a.form)
    if found is None:
        raise InputError(
            f"networks of transformers are loaded for images, sounds, segmentation and ctc, not for {a.kind} of "
            f"{a.form}; write a function that returns yours, and give --model my_module.py:function"
        )
    return f"AutoModelFor{found}"


def _returned(a: Answers) -> list[str]:
    method = "regression" if a.kind == "forecasting" else a.kind
    named = ", classes=data.classes" if a.kind == "classification" and a.form != "arrays" else ""
    given = f"model, train=data.train, val=data.val, test=data.test, example_input=data.example{named}"
    hint = [_HINTS[a.kind]] if a.kind in _HINTS else []
    return [*hint, f"return Task.{method}(", f"    {given}", ")"]


def _from_onnx(a: Answers) -> list[str]:
    if a.kind != "classification" or a.form not in ("images", "arrays"):
        raise InputError(
            f"an ONNX file starts a classification of images or of .npz arrays, not {a.kind} of {a.form}; for other "
            "outputs and labels see docs/your-model.md, Start from an ONNX file"
        )
    lines = ["options = ImageOptions()  # size, mean and std as in the training of the network"]
    call = f"task_from_onnx({_path(Path(a.model), a.out)}, {_path(a.data, a.out)}"
    return [*lines, f"return {call}, images=options)"] if a.form == "images" else [f"return {call})"]


def _path(path: Path, out: Path) -> str:
    """An expression for a path: relative to the file where it lies below its folder."""
    folder, full = out.absolute().parent, path.absolute()
    below = full.is_relative_to(folder)
    return f"HERE / {_literal(full.relative_to(folder).as_posix())}" if below else _literal(full.as_posix())


def _literal(value: str | tuple[str, ...]) -> str:
    """A string, or a list of strings, as Python writes it."""
    return json.dumps(value, ensure_ascii=False)
