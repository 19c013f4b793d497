"""A study as the one JSON object that the HTML report carries."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from typing import Any

from autocompress.report import plots
from autocompress.report._words import compare, description, is_percentage, reference
from autocompress.results import Evaluation, LayerSummary, Score
from autocompress.study import Study


def payload(study: Study) -> dict[str, Any]:
    """Everything that the report's script needs, as plain data."""
    base, percent = reference(study), is_percentage(study)
    on_front = {e.trial for e in study.front}
    layers: dict[tuple[str, str, int, float], int] = {}
    trials = []
    for e in study.evaluations:
        row = _trial(e) | {"front": e.trial in on_front, "layers": [_layer(x, layers) for x in e.layers]}
        versus = compare(e, base, percent)
        row |= {"versus": versus.text(), "basis": versus.basis()} if versus else {}
        trials.append(_without_empty(row))
    plotted = figures(study)
    data = {
        "metric": study.settings.metric,
        "percent": percent,
        "final": study.final,
        "study": str(study.path),
        "commands": _commands(study),
        "layers": [list(key) for key in layers],
        "trials": trials,
        "hovers": _take_hovers(plotted),
        "figures": plotted,
    }
    cleaned: dict[str, Any] = _finite(data)
    return cleaned


def figures(study: Study) -> dict[str, Any]:
    """Return the plots of the report as plain data, by the id of their place."""
    made = {
        "front": plots.front_figure(study),
        "front3d": plots.front_figure_3d(study),
        "measured": plots.measured_figure(study),
        "budget": plots.budget_figure(study),
        "progress": plots.progress_figure(study),
    }
    if study.final:
        made["fronttest"] = plots.front_figure(study, "test")
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def _take_hovers(plotted: dict[str, Any]) -> dict[str, str]:
    """Move the hover texts that the views of the front share out of them, by trial: each is carried once."""
    hovers: dict[str, str] = {}
    for name in ("front", "fronttest", "front3d"):
        for trace in plotted.get(name, {"data": []})["data"]:
            texts = trace.pop("hovertext", None) or []
            hovers |= {str(n): text for n, text in zip(trace.get("customdata") or [], texts, strict=True)}
    return hovers


def provenance(study: Study) -> list[tuple[str, str]]:
    """Return the inputs of the study and what they ran on, as pairs of name and value."""
    settings, device = study.settings, study.settings.device
    calibration = device.get("calibration") or {}
    pairs = [
        ("task", f"{settings.task_name} ({settings.task})"),
        ("metric", settings.metric),
        ("study folder", str(study.path)),
        ("created", settings.created_at),
        ("sampler, seed", f"{settings.sampler}, {settings.seed}"),
        ("constraints", "; ".join(map(str, settings.constraints)) or "none"),
        ("model sha256", settings.model_sha256),
        ("data sha256", settings.data_sha256),
        ("device", " ".join(str(device[k]) for k in ("name", "processor") if device.get(k))),
        ("runtime", " ".join(str(device[k]) for k in ("runtime", "runtime_version") if device.get(k))),
        ("threads", str(device.get("threads", ""))),
        ("int8 arithmetic", str(device.get("int8_arithmetic", ""))),
        ("instruction set", ", ".join(device.get("instruction_set") or ())),
        ("device calibration", ", ".join(f"{key} {value}" for key, value in calibration.items())),
    ]
    pairs += [(f"version of {name}", version) for name, version in settings.versions.items()]
    pairs += [(f"not prunable: {name}", reason) for name, reason in settings.unprunable.items()]
    return [(name, value) for name, value in pairs if value]


def reasons(study: Study) -> list[tuple[str, str, int, list[int]]]:
    """Return state, reason, count and first trials of what was rejected or failed.

    Reasons that differ in their numbers only are counted as one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, list[int]]] = {}
    for e in study.evaluations:
        if e.state == "complete":
            continue
        first_line = (e.reason or "no reason given").strip().splitlines()[0]
        key = (e.state, "".join("#" if c.isdigit() else c for c in first_line).replace("##", "#"))
        counts[key] += 1
        examples.setdefault(key, (first_line, []))[1].append(e.trial)
    return [(key[0], examples[key][0], n, examples[key][1][:12]) for key, n in counts.most_common()]


def embedded(data: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _trial(e: Evaluation) -> dict[str, Any]:
    return {
        "trial": e.trial,
        "kind": e.kind,
        "name": description(e),
        "state": e.state,
        "reason": e.reason,
        "validation": _score(e.validation),
        "test": _score(e.test),
        "predicted": e.predicted_latency_ms,
        "measured": e.measured_latency_ms,
        "worst": e.worst_case_latency_ms,
        "size": e.size_bytes,
        "artifact": e.artifact,
        "sha256": e.sha256,
        "parity": e.parity,
        "params": e.n_params,
        "macs": e.macs,
        "exits": [
            [x.place, x.threshold, x.rate, None if x.accuracy < 0 else x.accuracy, x.latency_ms] for x in e.exits
        ],
        "notes": list(e.notes),
        "seconds": e.seconds,
        "derived": e.derived_from,
        "finished": e.finished_at,
        "digest": e.recipe_digest,
        "recipe": e.recipe.to_yaml(),
    }


def _score(score: Score | None) -> list[float] | None:
    return [score.value, score.low, score.high, score.n_samples] if score else None


def _layer(layer: LayerSummary, known: dict[tuple[str, str, int, float], int]) -> list[float]:
    """Return what differs from trial to trial, after the number of the layer in the shared table."""
    key = (layer.name, layer.kind, layer.channels_before, layer.latency_ms_before)
    number = known.setdefault(key, len(known))
    cost = float(f"{layer.latency_ms:.4g}")
    return [number, layer.channels_after, layer.weight_bits, layer.activation_bits, cost]


def _commands(study: Study) -> dict[str, str]:
    """Shell commands for one trial; the script puts its number in the place of {trial}."""
    folder, task = shlex.quote(str(study.path)), shlex.quote(study.settings.task)
    device = shlex.quote(str(study.settings.device["name"]))
    return {
        "export": f"autocompress export {folder} --trial {{trial}}",
        "apply": f"autocompress apply recipe.yaml {task} --device {device} --out model.onnx",
    }


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in row.items()
        if value is not None and value is not False and value not in ("", [], {})
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
