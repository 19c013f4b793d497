"""Hand over one point of a study: the file, the recipe that makes it, and a card that says what it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from autocompress._files import write_atomically, write_json
from autocompress.errors import StudyError
from autocompress.results import Evaluation
from autocompress.study import Study


def export_point(study: Study, point: Evaluation, folder: Path) -> Path:
    """Write model.onnx, recipe.yaml, card.md and card.json into `folder`.

    Raises:
        StudyError: the point has no file: it was rejected or failed, or the file is gone.
    """
    source = study.path / str(point.artifact)
    if point.artifact is None or point.state != "complete":
        raise StudyError(f"{study.path}: trial {point.trial} has no file: it was {point.state} ({point.reason})")
    if not source.exists():
        raise StudyError(f"{source}: the file of trial {point.trial} is gone; repeat it with `autocompress apply`")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "model.onnx")
    point.recipe.save(folder / "recipe.yaml")
    card = _card(study, point)
    write_json(folder / "card.json", card)
    write_atomically(folder / "card.md", _markdown(study, point, card))
    return folder


def _card(study: Study, point: Evaluation) -> dict[str, Any]:
    s = study.settings
    return {
        "point": point.as_row(),
        "exits": [e.model_dump(mode="json") for e in point.exits],
        "baselines": [b.as_row() for b in study.baselines],
        "task": {"reference": s.task, "name": s.task_name, "metric": s.metric},
        "device": {"name": s.device["name"], "threads": s.device["threads"], "runtime": s.device["runtime"]},
        "model_sha256": s.model_sha256,
        "data_sha256": s.data_sha256,
        "seed": s.seed,
        "versions": s.versions,
        "notes": list(point.notes),
    }


def _markdown(study: Study, point: Evaluation, card: dict[str, Any]) -> str:
    score = point.score
    assert score is not None
    base = next((b for b in study.baselines if b.label == "fp32"), None)
    rows = [("this file", point)] + [(f"baseline {b.label}", b) for b in study.baselines]
    lines = [
        f"# Trial {point.trial} of {study.path.name}",
        "",
        f"{point.label}",
        "",
        f"| | {study.settings.metric} | 95 % interval | latency ms | source | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for name, e in rows:
        if e.score is not None and e.latency_ms is not None:
            lines.append(
                f"| {name} | {e.score.value:.4f} ({e.score.split}, n = {e.score.n_samples}) | "
                f"{e.score.low:.4f} to {e.score.high:.4f} | {e.latency_ms:.4f} | {e.latency_source} | "
                f"{e.size_bytes:,} |"
            )
    if base is not None and base.latency_ms and point.latency_ms and base.size_bytes and point.size_bytes:
        same = base.latency_source == point.latency_source
        factor = f"{base.latency_ms / point.latency_ms:.2f}x faster and " if same else ""
        lines += ["", f"{factor}{base.size_bytes / point.size_bytes:.2f}x smaller than the fp32 baseline."]
    if point.exits:
        lines += [
            "",
            f"Latency is the expectation over the validation data; worst case {point.worst_case_latency_ms:.4f} ms.",
            "",
            "| leaves at | threshold | share | latency ms | accuracy there |",
            "|---|---|---|---|---|",
            *(
                f"| {e.place} | {e.threshold:g} | {e.rate:.1%} | {e.latency_ms:.4f} | "
                f"{'none left here' if e.accuracy < 0 else format(e.accuracy, '.4f')} |"
                for e in point.exits
            ),
        ]
    settings = study.settings
    lines += [
        "",
        "## Conditions",
        "",
        f"- device: {settings.device['name']}, {settings.device['threads']} thread(s), batch 1, "
        f"{settings.device['runtime']}",
        f"- parity with the torch model: {'unknown' if point.parity is None else format(point.parity, '.1%')}",
        f"- file sha256: `{point.sha256}`",
        f"- model sha256: `{settings.model_sha256}`",
        f"- data sha256: `{settings.data_sha256}`",
        f"- seed: {settings.seed}; versions: {', '.join(f'{k} {v}' for k, v in settings.versions.items())}",
        *(f"- {note}" for note in card["notes"]),
        "",
        "## Repeat it",
        "",
        "```",
        f"autocompress apply recipe.yaml {settings.task} --device {settings.device['name']} "
        f"--seed {settings.seed} --out model.onnx",
        "```",
        "",
    ]
    return "\n".join(lines)
