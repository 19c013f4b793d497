"""Export one point of a study: the file, a script that runs it, the recipe that makes it, and a card about it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from autocompress.devices.profile import DeviceProfile
from autocompress.errors import StudyError
from autocompress.files import Folder, json_text
from autocompress.packaging._infer import SIGNATURE, SUMS
from autocompress.report.against import costs_text
from autocompress.runtimes.base import get, own_names
from autocompress.runtimes.capabilities import ELSEWHERE
from autocompress.studies.folder import read_artifact
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks import boxes
from autocompress.tasks.kind import of_study
from autocompress.tasks.metric import Split

FILES = ("model.onnx", "infer.py", "recipe.yaml", "device.yaml", "card.md", "card.json")
"""What an export folder holds; see `files_of`."""
SIGNED = (SUMS, SIGNATURE)
"""What a signature adds."""

_INFER, _BOXES = Path(__file__).with_name("_infer.py"), Path(boxes.__file__)
_SESSION = "session.py"


def files_of(study: Study, point: Evaluation) -> tuple[str, ...]:
    """What an export folder holds of a point: `FILES`.

    With a file that is no ONNX file there is `session.py`, which loads it, beside the script that runs it, or neither.
    That of a detector has the code that makes boxes of its outputs besides.
    """
    suffix = Path(str(point.artifact)).suffix
    if suffix != ".onnx" and _alone(suffix) is None:
        return (f"model{suffix}", *FILES[2:])
    more = [
        name for name, is_there in ((_SESSION, suffix != ".onnx"), (_BOXES.name, study.settings.decoder)) if is_there
    ]
    return (f"model{suffix}", *FILES[1:], *more)


def _alone(suffix: str) -> Path | None:
    """What loads files of this kind where autocompress is not installed."""
    return next((get(name).alone for name in own_names() if get(name).suffix == suffix), None)


def export_point(study: Study, point: Evaluation, folder: Path, key: Path | None = None) -> Path:
    """Write the files of a point into `folder`; with a secret `key` sign them (see `signing`).

    Raises:
        StudyError: the point has no file: it was rejected or failed, or the file is gone or not the one evaluated.
    """
    if point.artifact is None or point.state != "complete":
        raise StudyError(f"{study.path}: trial {point.trial} has no file: it was {point.state} ({point.reason})")
    model, card = read_artifact(study.path, point), _card(study, point)
    target = Folder(study.path).holding(folder)  # inside the study, where no link is followed, or the user's own
    contents: dict[str, str | bytes] = {
        "infer.py": _INFER.read_bytes(),
        _BOXES.name: _BOXES.read_bytes(),
        "recipe.yaml": point.recipe.to_yaml(),
        "device.yaml": DeviceProfile.parse(study.settings.device).to_yaml(),
        "card.md": _markdown(study, point, card),
        "card.json": json_text(card),
    }
    if alone := _alone(Path(str(point.artifact)).suffix):
        contents[_SESSION] = alone.read_bytes()
    contents = {name: contents.get(name, model) for name in files_of(study, point)}
    files = {name: c.encode() if isinstance(c, str) else c for name, c in contents.items()}
    for name, content in files.items():
        target.write(name, content)
    if key is not None:
        from autocompress.packaging.signing import sign_folder

        sign_folder(target, files, key, f"trial {point.trial} of {study.path.name}, {point.label}")
    return folder


def _card(study: Study, point: Evaluation) -> dict[str, Any]:
    s = study.settings
    repeat = ["autocompress", "apply", "recipe.yaml", *s.task_arguments, "--device", "device.yaml"]
    return {
        "version": 1,
        "study": study.path.name,
        "point": point.as_row(_split(study, point)),
        "exits": [e.model_dump(mode="json") for e in point.exits],
        "baselines": [b.as_row(_split(study, point)) for b in study.baselines],
        "task": {
            "reference": s.task,
            "name": s.task_name,
            "kind": s.task_kind,
            "logits": of_study(s.task_kind).exits,
            "metric": s.metric,
            "classes": list(s.classes),
            "preprocessing": s.preprocessing,
            "decoder": s.decoder,
        },
        "device": {key: s.device.get(key) for key in ("name", "processor", "threads", "runtime", "runtime_version")},
        "final": study.final,
        "conditions": study.conditions,
        "model_sha256": s.model_sha256,
        "data_sha256": s.data_sha256,
        "sampler": s.sampler,
        "seed": s.seed,
        "versions": s.versions,
        "notes": list(point.notes),
        "reproduce": shlex.join([*repeat, "--seed", str(s.seed), "--out", files_of(study, point)[0]]),
    }


def _markdown(study: Study, point: Evaluation, card: dict[str, Any]) -> str:
    settings = study.settings
    lines = [f"# Trial {point.trial} of {study.path.name}", "", point.label, "", *_figures(study, point)]
    if point.exits:
        lines += _exits(point)
    lines += ["", "## Run it", "", *_how_to_run(study, point), ""]
    lines += [f"Input: {settings.preprocessing or 'prepared as in training; the task says nothing about it'}."]
    if settings.classes:
        lines += ["", f"Classes: {', '.join(settings.classes)}."]
    lines += ["", "## Conditions", "", *(f"- {fact}" for fact in _facts(study, point))]
    lines += ["", "## Repeat it", "", "```", card["reproduce"], "```", ""]
    if settings.evaluator == "elastic":
        lines += [
            "This search shared weights between its recipes; the command trains from the original: another file.",
            "",
        ]
    return "\n".join(lines)


def _split(study: Study, point: Evaluation) -> Split:
    """What file and baselines are compared on: test where the file was scored there."""
    return "test" if point.test and study.split == "test" else "validation"


def _how_to_run(study: Study, point: Evaluation) -> list[str]:
    """With the script that lies beside the file, or in the runtime that is needed."""
    names = files_of(study, point)
    library = get(str(study.settings.device["runtime"])).library if _SESSION in names else "onnxruntime"
    lines = ["```", f"pip install numpy {library}", "python infer.py", "```"] if "infer.py" in names else []
    runtime, version = (str(study.settings.device.get(key, "")) for key in ("runtime", "runtime_version"))
    if runtime in ELSEWHERE or runtime == "onnxruntime":
        return lines
    where = f"{runtime} {version}".strip()  # profiles from public data know no version
    return [
        f"All figures are those of the file in {where}: run it there.",
        *([""] if lines else []),
        *lines,
    ]


def _figures(study: Study, point: Evaluation) -> list[str]:
    """The file and the baselines, all on one split: test where the file was scored there."""
    split = _split(study, point)
    lines = [
        f"| | {study.settings.metric} ({split}) | 95 % interval | latency ms | source | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name, e in [("this file", point)] + [(f"baseline {b.label}", b) for b in study.baselines]:
        score = e.score_on(split)
        if score is not None and e.latency_ms is not None:
            interval = "{:.4f} to {:.4f}".format(*score.interval) if score.interval else "not known"
            samples = f" (n = {score.n_samples})" if score.n_samples else ""
            lines.append(
                f"| {name} | {score.value:.4f}{samples} | {interval} | {e.latency_ms:.4f} | "
                f"{e.latency_source} | {e.size_bytes:,} |"
            )
    if costs := costs_text(study, point):
        lines += ["", f"Against fp32: {costs}."]
    return lines


def _exits(point: Evaluation) -> list[str]:
    names = [f"`threshold{i}`" for i in range(len(point.exits) - 1)]
    return [
        "",
        f"Latency is the expectation over the validation data; worst case {point.worst_case_latency_ms:.4f} ms. "
        f"The thresholds are inputs of the file with these values as their defaults: {', '.join(names)}.",
        "",
        "| leaves at | threshold | share | latency ms | accuracy there (validation) |",
        "|---|---|---|---|---|",
        *(
            f"| {e.place} | {e.threshold:g} | {e.rate:.1%} | {e.latency_ms:.4f} | "
            f"{'none left here' if e.accuracy < 0 else format(e.accuracy, '.4f')} |"
            for e in point.exits
        ),
    ]


def _facts(study: Study, point: Evaluation) -> list[str]:
    s, timing = study.settings, study.conditions.get("timing", {})
    facts = [f"device: {s.device['name']}, {s.device['threads']} thread(s), batch 1, {s.device['runtime']}"]
    if timing:
        facts.append(f"timing: {timing.get('protocol', 'not known')}; {timing.get('clock', '')}")
    if not study.final:
        facts.append("the search was not finished: nothing was measured or scored on the test split")
    parity = "unknown" if point.parity is None else f"{point.parity:.1%}"
    return [
        *facts,
        f"parity with the network it was made from: {parity}",
        f"file sha256: `{point.sha256}`",
        f"model sha256: `{s.model_sha256}`",
        f"data sha256: `{s.data_sha256}`",
        f"seed: {s.seed}; versions: {', '.join(f'{k} {v}' for k, v in s.versions.items())}",
        *point.notes,
    ]
