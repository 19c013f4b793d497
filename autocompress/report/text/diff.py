"""Two recipes, or two trials of studies, against each other: what changes, in words, and what it costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.recipes.recipe import Recipe
from autocompress.report.formatting import accuracy_text, is_percentage, ms_text, points_text, ratio_text, size_text
from autocompress.studies.folder import is_study
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

_TRIAL = re.compile(r"(?P<study>.+)[:#](?P<trial>\d+|[a-z-]+)")


@dataclass(frozen=True)
class Side:
    """A recipe, and what a study found about it where it is a trial."""

    name: str
    recipe: Recipe
    study: Study | None = None
    point: Evaluation | None = None


def load_side(text: str) -> Side:
    """Read "recipe.yaml", or "STUDY:12", "STUDY#12" or "STUDY:knee".

    Raises:
        InputError: it is neither, or there is no such trial.
    """
    match = _TRIAL.fullmatch(text)
    if match and is_study(Path(match["study"])):
        study, trial = Study.open(match["study"]), match["trial"]
        point = study.evaluation(int(trial)) if trial.isdigit() else study.front.select(trial)  # type: ignore[arg-type]
        return Side(f"{match['study']}:{point.trial}", point.recipe, study, point)
    if Path(text).is_dir():
        folder = text.rstrip("/")
        raise InputError(f"{text}: name one trial of the study, such as {folder}:12 or {folder}:knee")
    return Side(text, Recipe.load(text))


@dataclass(frozen=True)
class Difference:
    """What `after` does differently from `before`, and what that costs."""

    before: Side
    after: Side

    @property
    def changes(self) -> list[str]:
        """The difference of the recipes, a line each; none if they are the same."""
        a, b = self.before.recipe, self.after.recipe
        return [] if a == b else a.diff(b).splitlines()

    def costs(self) -> dict[str, str]:
        """Accuracy, latency and size of both in words; a change only where the two can be compared."""
        a, b = self.before.point, self.after.point
        if a is None or b is None or self.before.study is None or self.after.study is None:
            return {}
        mine, theirs = self.before.study.settings, self.after.study.settings
        found = {}
        if texts := self._accuracy(a, b, same_data=mine.data_sha256 == theirs.data_sha256):
            found["accuracy"] = texts
        if a.latency_ms and b.latency_ms:
            source = "measured" if a.measured_latency_ms and b.measured_latency_ms else "predicted"
            known = [(e.measured_latency_ms if source == "measured" else e.predicted_latency_ms) for e in (a, b)]
            before, after = known[0] or a.latency_ms, known[1] or b.latency_ms
            if mine.device != theirs.device:
                change = f"not comparable: {mine.device['name']} and {theirs.device['name']} are different profiles"
            elif not all(known):
                change = "not comparable: one is predicted, the other measured"
            else:
                change = f"{ratio_text(before / after, 'faster', 'slower')} ({source})"
            found["latency"] = f"{ms_text(before)} -> {ms_text(after)}: {change}"
        if a.size_bytes and b.size_bytes:
            change = ratio_text(a.size_bytes / b.size_bytes, "smaller", "larger")
            found["size"] = f"{size_text(a.size_bytes)} -> {size_text(b.size_bytes)}: {change}"
        return found

    def _accuracy(self, a: Evaluation, b: Evaluation, same_data: bool) -> str:
        pair = (a.test, b.test) if a.test and b.test else (a.validation, b.validation)
        before, after = pair
        if before is None or after is None:
            return ""
        percent = all(is_percentage(side.study) for side in (self.before, self.after) if side.study)
        change = points_text(after.value - before.value, percent, digits=2)
        if before.overlaps(after):
            change += "; the 95 % intervals overlap"
        if not same_data:
            change = "not comparable: other data"
        return f"{accuracy_text(before, percent)} -> {accuracy_text(after, percent)} ({before.split}): {change}"

    def to_dict(self) -> dict[str, Any]:
        """What `diff --json` prints."""
        points = {
            name: {"name": side.name, "recipe": side.recipe.to_dict(), "point": side.point and side.point.as_row()}
            for name, side in (("before", self.before), ("after", self.after))
        }
        return {**points, "changes": self.changes, "costs": self.costs()}

    def to_text(self) -> str:
        """Changes, then costs, a line each."""
        lines = [f"{self.before.name} -> {self.after.name}"]
        lines += [f"  {line}" for line in self.changes or ["the recipes are the same"]]
        sides = [side for side in (self.before, self.after) if side.point]
        if any(side.point and side.point.state != "complete" for side in sides):
            lines += [f"{s.name} was {s.point.state}: {s.point.reason}" for s in sides if s.point and s.point.reason]
        elif len(sides) == 1:
            lines.append(f"figures are known of {sides[0].name} only: name two trials to see what the changes cost")
        lines += [f"{name:<9} {text}" for name, text in self.costs().items()]
        return "\n".join(lines)
