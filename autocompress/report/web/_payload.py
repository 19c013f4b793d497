"""A study as the one JSON object that the HTML report carries."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from autocompress.report.figures import diagnostics
from autocompress.report.figures.plots import front_figure, front_figure_3d
from autocompress.report.formatting import compare, description, is_percentage
from autocompress.report.importance import Importance
from autocompress.report.ties import ties
from autocompress.studies.ablation import Ablation, recommended
from autocompress.studies.confusion import Confusion
from autocompress.studies.constraints import Constraint
from autocompress.studies.results import Evaluation, LayerSummary
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score

_OPTIONS = {
    "latency_ms": ("--max-latency-ms", "--min-speedup"),
    "size_bytes": ("--max-size-bytes", "--min-compression"),
    "peak_memory_bytes": ("--max-memory-bytes", ""),
    "energy_mj": ("--max-energy-mj", ""),
}
"""Options of `search` for limits from above: absolute, and relative to the fp32 baseline."""


def payload(
    study: Study,
    ablation: Ablation | None = None,
    confusions: Mapping[int, Confusion] | None = None,
    knobs: Sequence[Importance] = (),
) -> dict[str, Any]:
    """Everything that the report's script needs, as plain data."""
    base, percent = study.reference, is_percentage(study)
    on_front = {e.trial for e in study.front}
    tied, picks = ties(study.front), recommended(study)
    layers: dict[tuple[str, str, int, float], int] = {}
    trials = []
    for e in study.evaluations:
        row = _trial(e) | {"front": e.trial in on_front, "layers": [_layer(x, layers) for x in e.layers]}
        chosen, best = compare(e, base, percent, "validation"), compare(e, base, percent)
        row |= {"versus": chosen.text()} if chosen else {}
        row |= {"final": best.text(), "basis": best.basis()} if best else {}
        row |= {"ties": list(tied.get(e.trial, ())), "picks": list(picks.get(e.trial, ()))}
        trials.append(_without_empty(row))
    plotted = figures(study, ablation, knobs)
    data = {
        "metric": study.settings.metric,
        "percent": percent,
        "final": study.final,
        "study": str(study.path),
        "commands": _commands(study),
        "layers": [list(key) for key in layers],
        "trials": trials,
        "classes": _classes(study, confusions or {}),
        "hovers": _take_hovers(plotted),
        "figures": plotted,
    }
    cleaned: dict[str, Any] = finite(data)
    return cleaned


def figures(study: Study, ablation: Ablation | None = None, knobs: Sequence[Importance] = ()) -> dict[str, Any]:
    """Return the plots of the report as plain data, by the id of their place."""
    made = {
        "front": front_figure(study, ablation=ablation),
        "front3d": front_figure_3d(study),
        "measured": diagnostics.measured_figure(study),
        "budget": diagnostics.budget_figure(study),
        "progress": diagnostics.progress_figure(study),
    }
    if study.final:
        made["fronttest"] = front_figure(study, "test", ablation)
    if any(e.exits for e in study.front):
        made["exits"] = diagnostics.exits_figure(study)
    if knobs:
        made["importance"] = diagnostics.importance_figure(knobs)
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def _take_hovers(plotted: dict[str, Any]) -> dict[str, str]:
    """Move the hover texts that the views of the front share out of them, by trial: each is carried once."""
    hovers: dict[str, str] = {}
    for name in ("front", "fronttest", "front3d"):
        for trace in plotted.get(name, {"data": []})["data"]:
            if not trace.get("customdata"):  # no trials: hand-made pipelines keep theirs
                continue
            texts = trace.pop("hovertext", None) or []
            hovers |= {str(n): text for n, text in zip(trace["customdata"], texts, strict=True)}
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
    pairs += [(f"final figures: {name}", text) for name, text in _conditions(study)]
    pairs += [(f"version of {name}", version) for name, version in settings.versions.items()]
    pairs += [(f"not prunable: {name}", reason) for name, reason in settings.unprunable.items()]
    return [(name, value) for name, value in pairs if value]


def _conditions(study: Study) -> list[tuple[str, str]]:
    """How the final figures were taken; versions only where they differ from those of the study."""
    conditions = study.conditions
    load = conditions.get("load_average")
    pairs = [("finished", str(conditions.get("finished_at", "")))]
    pairs += [(f"timing, {key}", str(value)) for key, value in (conditions.get("timing") or {}).items()]
    pairs += [("load average of the machine", ", ".join(f"{x:.1f}" for x in load))] if load else []
    now = conditions.get("versions") or {}
    return pairs + [(f"version of {k}", v) for k, v in now.items() if study.settings.versions.get(k) != v]


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
        "memory": e.peak_memory_bytes,
        "energy": e.energy_mj,
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


def _score(score: Score | None) -> list[float | None] | None:
    return [score.value, *(score.interval or (None, None)), score.n_samples] if score else None


def _layer(layer: LayerSummary, known: dict[tuple[str, str, int, float], int]) -> list[float]:
    """Return what differs from trial to trial, after the number of the layer in the shared table."""
    key = (layer.name, layer.kind, layer.channels_before, layer.latency_ms_before)
    number = known.setdefault(key, len(known))
    cost = float(f"{layer.latency_ms:.4g}")
    return [number, layer.channels_after, layer.weight_bits, layer.activation_bits, cost]


def _classes(study: Study, found: Mapping[int, Confusion]) -> dict[str, Any] | None:
    """What the files answered class by class, for the points that were scored; None without them."""
    base = study.reference
    if not found or base is None or base.trial not in found:
        return None
    n = len(found[base.trial].total)
    names = study.settings.classes
    return {
        "names": list(names) if len(names) == n else list(map(str, range(n))),
        "split": found[base.trial].split,
        "total": found[base.trial].total,
        "reference": base.trial,
        "trials": {str(t): {"correct": c.correct, "matrix": c.matrix} for t, c in found.items()},
    }


_AGAIN = {
    "standalone": "reproduce it, after the export",
    "elastic": "train it again, after the export: from the original, not from shared weights, so another file",
}


def _commands(study: Study) -> list[tuple[str, str]]:
    """What one can do with a trial, and the command for it; the script puts its number in the place of {trial}."""
    settings = study.settings
    folder, task = shlex.quote(str(study.path)), shlex.join(settings.task_arguments)
    export = f"{folder}/export-trial-{{trial}}"
    recipe, device = f"{export}/recipe.yaml", f"{export}/device.yaml"
    again = f"autocompress apply {recipe} {task} --device {device} --seed {settings.seed}"
    return [
        ("export it", f"autocompress export {folder} --trial {{trial}}"),
        (_AGAIN[settings.evaluator], f"{again} --out again.onnx"),
        (
            "apply it to another checkpoint",
            f"autocompress apply {recipe} other_task.py:task --device {device} --out model.onnx",
        ),
    ]


def study_command(study: Study) -> str:
    """Return the command that reproduces this study, with its search space in space.yaml."""
    settings = study.settings
    n = sum(e.state != "rejected" and not e.is_repeat and e.derived_from is None for e in study.candidates)
    parts = ["autocompress", "search", *settings.task_arguments, "--space", "space.yaml"]
    parts += ["--device", str(settings.device["name"]), "--sampler", settings.sampler]
    parts += ["--seed", str(settings.seed), "--trials", str(max(1, n))]
    parts += ["--evaluator", settings.evaluator] if settings.evaluator != "standalone" else []
    if any(c.quantity == "energy_mj" for c in settings.constraints):
        parts += ["--active-power-mw", _exact(settings.device["active_power_mw"])]
    for constraint in settings.constraints:
        parts += _option(constraint)
    return shlex.join([*parts, "--out", "new-study"])


def _option(c: Constraint) -> list[str]:
    if c.because:  # a limit of the device
        return []
    if c.quantity == "accuracy":
        return ["--max-accuracy-drop" if c.relative_to_baseline else "--min-accuracy", _exact(c.limit)]
    absolute, relative = _OPTIONS[c.quantity]
    if c.relative_to_baseline:
        return [relative, _exact(1 / c.limit)] if relative else []
    return [absolute, _exact(c.limit)]


def _exact(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(float(number))


def space_text(study: Study) -> str:
    """Return the search space as YAML, as far as this network, device and task can use it."""
    return yaml.safe_dump(study.settings.space, sort_keys=False)


def _without_empty(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in row.items()
        if value is not None and value is not False and value not in ("", [], {})
    }


def finite(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value
