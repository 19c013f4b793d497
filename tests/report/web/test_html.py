from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.small import DEVICE, small_task, space
from helpers.synthetic import candidate, make_study

from autocompress.controller import Budget, search
from autocompress.devices.profile import DeviceProfile
from autocompress.report.text.ablation import chain_sentence
from autocompress.report.text.table import headline
from autocompress.report.ties import ties
from autocompress.report.web._payload import study_command
from autocompress.report.web.html import render, write_html
from autocompress.studies.ablation import read_ablation, recommended
from autocompress.studies.constraints import at_most
from autocompress.studies.folder import write_evaluation
from autocompress.studies.retarget import retarget
from autocompress.studies.study import Study

SCRIPTS = Path(__file__).parents[3] / "autocompress/report/web"

HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\u2028'\"&"


class Page(HTMLParser):
    """The tags, scripts and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words = ""
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = (dict(attrs).get("id") or "main") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.words += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts["data"])
        return found


@pytest.fixture(scope="module")
def page(finished_study: Study) -> Page:
    return Page(render(finished_study))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("hostile") / "study"
    make_study(folder, 4, final=False, task_name=HOSTILE, metric=HOSTILE, versions={HOSTILE: HOSTILE})
    made = candidate(3, 1)
    layers = tuple(layer.model_copy(update={"name": HOSTILE, "kind": HOSTILE}) for layer in made.layers)
    bad = {"label": HOSTILE, "notes": (HOSTILE,), "layers": layers, "artifact": HOSTILE}
    write_evaluation(folder, made.model_copy(update=bad))
    failed = {
        "state": "failed",
        "reason": HOSTILE,
        "label": HOSTILE,
        "validation": None,
        "seconds": {HOSTILE: 1.0},
    }
    write_evaluation(folder, candidate(4, 1).model_copy(update=failed))
    return Page(render(Study.open(folder)))


def test_every_figure_of_the_data_is_the_study_s(page: Page, finished_study: Study) -> None:
    rows = page.data["trials"]
    assert [row["trial"] for row in rows] == [e.trial for e in finished_study.evaluations]
    on_front = {e.trial for e in finished_study.front}
    for row, e in zip(rows, finished_study.evaluations, strict=True):
        assert (row["kind"], row["state"], row.get("reason", "")) == (e.kind, e.state, e.reason)
        assert (row.get("predicted"), row.get("measured")) == (e.predicted_latency_ms, e.measured_latency_ms)
        assert (row.get("size"), row.get("sha256")) == (e.size_bytes, e.sha256)
        assert row.get("front", False) == (e.trial in on_front)
        for split in ("validation", "test"):
            score = getattr(e, split)
            expected = [score.value, score.low, score.high, score.n_samples] if score else None
            assert row.get(split) == expected
        assert row["recipe"] == e.recipe.to_yaml()


@pytest.mark.parametrize("name", ["classes.json", "ablation.json", "study.journal"])
def test_a_damaged_file_of_the_study_costs_its_own_part_of_the_report_only(tmp_path: Path, name: str) -> None:
    study = make_study(tmp_path / "s", 12)
    (study.path / name).write_text("{damaged")
    page = Page(render(Study.open(study.path)))
    assert len(page.data["trials"]) == len(study.evaluations)
    assert name in page.words or "journal cannot be read" in page.words


def test_layers_and_exits_are_the_study_s(page: Page, finished_study: Study) -> None:
    data = page.data
    for row, e in zip(data["trials"], finished_study.evaluations, strict=True):
        for packed, layer in zip(row.get("layers", []), e.layers, strict=True):
            name, kind, before, cost_before = data["layers"][packed[0]]
            assert (name, kind, before, cost_before) == (
                layer.name, layer.kind, layer.channels_before, layer.latency_ms_before
            )  # fmt: skip
            assert packed[1:4] == [layer.channels_after, layer.weight_bits, layer.activation_bits]
            assert packed[4] == pytest.approx(layer.latency_ms, rel=1e-3)
        for packed, out in zip(row.get("exits", []), e.exits, strict=True):
            assert packed[:3] == [out.place, out.threshold, out.rate]
            assert packed[3] == (None if out.accuracy < 0 else out.accuracy)


def test_every_plotted_point_has_its_hover_text(page: Page, finished_study: Study) -> None:
    complete = {str(e.trial) for e in finished_study.evaluations if e.state == "complete"}
    assert set(page.data["hovers"]) == complete
    assert all(text.startswith(f"<b>trial {n}</b>") for n, text in page.data["hovers"].items())


def test_headline_baselines_and_front_are_readable_without_script(page: Page, finished_study: Study) -> None:
    for sentence in headline(finished_study):
        assert sentence in page.words
    rows = [attrs["data-trial"] for tag, attrs in page.tags if tag == "tr" and "data-trial" in attrs]
    expected = [*finished_study.baselines, *(e for e in finished_study.front if e.kind == "candidate")]
    assert rows == [str(e.trial) for e in expected]


def test_split_and_source_are_said(page: Page, running_study: Study) -> None:
    assert "test" in page.words and "measured" in page.words
    assert "fronttest" in page.data["figures"]
    running = Page(render(running_study))
    assert "search not finished" in running.words
    assert "fronttest" not in running.data["figures"]
    assert all("test" not in row and "measured" not in row for row in running.data["trials"])


def test_provenance_and_commands_are_there(page: Page, finished_study: Study) -> None:
    settings = finished_study.settings
    for text in (settings.model_sha256, settings.data_sha256, "nsga2, 7", "2.13.0", "AMD EPYC", "saturating"):
        assert text in page.words
    commands = dict(page.data["commands"])
    assert commands["export it"] == f"autocompress export {finished_study.path} --trial {{trial}}"
    again = commands["reproduce it, after the export"]
    handed = f"{finished_study.path}/export-trial-{{trial}}"
    assert f"{handed}/recipe.yaml keywords.py:task --device {handed}/device.yaml --seed 7" in again
    for option in ("--sampler nsga2", "--seed 7", "--max-latency-ms 3", "--min-accuracy 0.9", "technique: prune"):
        assert option in page.words


def test_recommended_points_and_ties_are_marked(page: Page, finished_study: Study) -> None:
    by_trial = {row["trial"]: row for row in page.data["trials"]}
    for pick in ("knee", "fastest", "smallest", "most-accurate"):
        assert pick in by_trial[finished_study.front.select(pick).trial]["picks"]
    tied = ties(finished_study.front)
    assert any(tied.values())
    for trial, others in tied.items():
        assert by_trial[trial].get("ties", []) == list(others)
        mine = finished_study.evaluation(trial).test
        for other in others:
            theirs = finished_study.evaluation(other).test
            assert mine and theirs and mine.low <= theirs.high and theirs.low <= mine.high


def test_without_ablation_classes_and_journal_it_says_what_to_do(page: Page) -> None:
    assert "autocompress ablate" in page.words and "has no journal" in page.words
    assert page.data["classes"] is None and "importance" not in page.data["figures"]


@pytest.fixture(scope="module")
def full_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("full") / "study", 60, complete=True, seed=1)


@pytest.fixture(scope="module")
def full(full_study: Study) -> Page:
    return Page(render(full_study))


def test_chains_are_shown_step_by_step(full: Page, full_study: Study) -> None:
    found = read_ablation(full_study.path)
    assert found and {c.trial for c in found.chains} == set(recommended(full_study))
    for chain in found.chains:
        assert chain_sentence(chain, True) in full.words
    for words in ("+ pruning", "+ distillation", "+ quantisation", "against the step before"):
        assert words in full.words


def test_hand_made_pipelines_are_in_table_and_plot(full: Page, full_study: Study) -> None:
    assert "prune 50% + fine-tuning + int8" in full.words
    for name in ("front", "fronttest"):
        [trace] = [t for t in full.data["figures"][name]["data"] if t.get("name") == "put together by hand"]
        assert len(trace["hovertext"]) == 2 and "customdata" not in trace


def test_classes_are_the_study_s(full: Page, full_study: Study) -> None:
    classes = full.data["classes"]
    assert classes["split"] == "test" and classes["reference"] == 0 and classes["names"] == list("0123456789")
    assert set(classes["trials"]) == {str(e.trial) for e in full_study.evaluations if e.test}
    for found in classes["trials"].values():
        assert [row[i] for i, row in enumerate(found["matrix"])] == found["correct"]


def test_other_devices_have_a_cross_table(tmp_path: Path) -> None:
    study = search(small_task(), DeviceProfile.load(DEVICE), space(), budget=Budget(1), out=tmp_path / "study")
    others = retarget(study, [DeviceProfile.load("raspberry-pi-4"), DeviceProfile.load("raspberry-pi-5")])
    words = Page(render(study, others)).words
    assert "on raspberry-pi-5" in words and "The same study on other devices" in words
    assert "The same study on other devices" not in Page(render(study)).words


def test_reasons_are_counted(page: Page, finished_study: Study) -> None:
    rejected = [e for e in finished_study.evaluations if e.reason.startswith("latency_ms")]
    assert re.search(rf"rejected\s*{len(rejected)}\s*latency_ms must be at most 3, predicted 3.4", page.words)


def test_nothing_is_loaded_from_the_network(page: Page, hostile: Page) -> None:
    for shown in (page, hostile):
        for tag, attrs in shown.tags:
            assert "src" not in attrs, tag
            assert tag not in ("link", "iframe", "base", "object", "embed", "img")
            assert (attrs.get("href") or "#").startswith("#")
            assert not any(name.startswith("on") for name in attrs)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy


def test_hostile_text_stays_text(hostile: Page) -> None:
    assert set(hostile.scripts) == {"data", "plotly", "main"}
    assert sum(tag == "script" for tag, _ in hostile.tags) == 3
    data = hostile.data
    assert data["metric"] == HOSTILE
    bad = next(row for row in data["trials"] if row["trial"] == 3)
    assert bad["name"] == HOSTILE and bad["notes"] == [HOSTILE]
    assert "<" not in hostile.scripts["data"] and "\u2028" not in hostile.scripts["data"]
    assert HOSTILE in hostile.words
    for figure in data["figures"].values():
        assert "<img" not in json.dumps(figure) and "<script" not in json.dumps(figure)


@pytest.mark.parametrize("script", ["figures.js", "report.js"])
def test_the_scripts_never_write_html(script: str) -> None:
    text = (SCRIPTS / script).read_text()
    for name in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "fetch(",
        "XMLHttpRequest",
        "http",
    ):
        assert name not in text


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("script", ["figures.js", "report.js", "compare.js", "watch.js"])
def test_the_scripts_are_valid(script: str) -> None:
    subprocess.run(["node", "--check", str(SCRIPTS / script)], check=True)


def test_plotly_is_carried_once(finished_study: Study) -> None:
    text = render(finished_study)
    assert text.count('id="plotly"') == 1
    assert 1_000_000 < len(Page(text).scripts["plotly"]) < 3_000_000


def test_an_empty_study_has_a_report(empty_study: Study, tmp_path: Path) -> None:
    write_html(empty_study, tmp_path / "out" / "r.html")
    page = Page((tmp_path / "out" / "r.html").read_text())
    assert page.data["trials"] == []
    assert "Nothing was completed yet" in page.words and "No trial was rejected or failed." in page.words


def test_only_rejected_trials(tmp_path: Path) -> None:
    make_study(tmp_path / "s", 0)
    rejected = {"state": "rejected", "reason": "too slow", "validation": None, "layers": (), "exits": ()}
    write_evaluation(tmp_path / "s", candidate(0, 1).model_copy(update=rejected))
    page = Page(render(Study.open(tmp_path / "s")))
    assert "1 rejected" in page.words and "too slow" in page.words


def test_a_thousand_trials_fit_in_5_mb(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 1000, n_layers=53, complete=True)
    write_html(study, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 5_000_000
    assert len(Page((tmp_path / "r.html").read_text()).data["trials"]) == 1003


def test_the_same_study_gives_the_same_file(finished_study: Study) -> None:
    assert render(finished_study) == render(Study.open(finished_study.path))


def test_the_command_that_makes_the_study_anew_keeps_every_limit(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", 20)
    limits = [
        at_most("size_bytes", 2**20),
        at_most("latency_ms", 1.23456789),
        at_most("latency_ms", 1 / 3, relative_to_baseline=True),
        at_most("energy_mj", 2.5),
    ]
    update = {"constraints": tuple(limits), "evaluator": "elastic"}
    update["device"] = {**study.settings.device, "active_power_mw": 2000.0}
    command = study_command(replace(study, settings=study.settings.model_copy(update=update)))
    assert "--max-size-bytes 1048576 --max-latency-ms 1.23456789 --min-speedup 3 --max-energy-mj 2.5" in command
    assert "--evaluator elastic --active-power-mw 2000" in command
