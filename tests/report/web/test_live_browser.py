"""The live page and the comparison in a real browser."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import CHROMIUM, chromium, sizes_in
from helpers.synthetic import candidate, make_study

from autocompress.report.comparison import load
from autocompress.report.web.compare import write_html
from autocompress.report.web.watch import Watch
from autocompress.studies.folder import write_evaluation, write_final
from autocompress.studies.study import Study

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dependency group browser)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE = 60_000
"""Milliseconds; a busy machine is slow, and no time is asserted here."""


class Opened:
    def __init__(self, page: Any, study: Study) -> None:
        self.page, self.study = page, study
        self.errors: list[str] = []
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))

    def wait(self, expression: str) -> None:
        self.page.wait_for_function(expression, timeout=PATIENCE)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def live(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A page that follows a search; the tests add trials to its study, the last one ends it."""
    study = make_study(tmp_path_factory.mktemp("live") / "study", 20, final=False)
    progress = {
        "version": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "ended": "",
        "share": 0.4,
        "eta_s": 600.0,
        "budget": {"trials": 50, "hours": None},
        "notes": ["left out: qat"],
        "started_at": "2026-11-22T09:00:00Z",
        "workers": [{"trial": 99, "doing": "distillation 40 %"}],
    }
    (study.path / "progress.json").write_text(json.dumps(progress))
    with Watch(study.path, port=0) as watch:
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        opened = Opened(context.new_page(), study)
        opened.page.goto(watch.url, timeout=PATIENCE)
        opened.wait("document.querySelectorAll('.js-plotly-plot').length === 2")
        opened.wait("document.getElementById('state').textContent === 'running'")
        yield opened
        context.close()


def test_the_page_shows_budget_workers_front_and_reasons(live: Opened) -> None:
    assert "40 % of the budget spent" in live.text("#budget") and "about 10 min left" in live.text("#budget")
    assert "distillation 40 %" in live.text("#workers") and "left out: qat" in live.text("#notes")
    assert live.page.eval_on_selector("#bar", "b => b.value") == pytest.approx(0.4)
    rows = live.page.eval_on_selector_all("#front tbody tr", "rs => rs.map(r => r.cells[0].textContent)")
    points = [*live.study.baselines, *(e for e in live.study.front if e.kind == "candidate")]
    assert rows == [str(e.trial) for e in points]
    assert "rejected" in live.text("#reasons") and "completed" in live.text("#counts")
    assert live.page.title().startswith("40 % keyword spotting on host")
    assert live.errors == []


def test_a_recipe_opens_by_keyboard_and_stays_open(live: Opened) -> None:
    live.page.focus("#front tbody tr:nth-child(4) summary")
    live.page.keyboard.press("Enter")
    live.page.wait_for_selector("#front details[open] pre", timeout=PATIENCE)
    trial = live.page.get_attribute("#front details[open]", "data-trial")
    shown = live.text("#front details[open]")
    assert f"autocompress export {live.study.path} --trial {trial}" in shown and "technique:" in shown
    write_evaluation(live.study.path, candidate(70, 1))
    live.wait("document.querySelector('#recent').innerText.includes('70')")
    assert live.page.get_attribute("#front details[open]", "data-trial") == trial
    assert live.page.evaluate("document.activeElement.closest('details').dataset.trial") == trial


def test_tables_stay_sorted_when_they_are_made_anew(live: Opened) -> None:
    live.page.focus("#front th:nth-child(6) button")
    live.page.keyboard.press("Enter")
    shown = sizes_in(live.page, "#front", 6)
    assert shown == sorted(shown) and len(set(shown)) > 3
    write_evaluation(live.study.path, candidate(72, 1))
    live.wait("document.querySelector('#recent').innerText.includes('72')")
    assert sizes_in(live.page, "#front", 6) == shown
    assert live.page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_the_zoom_is_kept_when_the_plot_is_redrawn(live: Opened) -> None:
    live.page.evaluate("Plotly.relayout('plot-front', {'yaxis.range[0]': 90, 'yaxis.range[1]': 92})")
    write_evaluation(live.study.path, candidate(71, 1))
    live.wait("document.querySelector('#recent').innerText.includes('71')")
    assert live.page.evaluate("document.getElementById('plot-front').layout.yaxis.range") == [90, 92]


def test_a_dark_page_has_light_ink(live: Opened) -> None:
    def ink() -> str:
        return str(live.page.evaluate("document.getElementById('plot-volume').layout.font.color"))

    light = ink()
    live.page.emulate_media(color_scheme="dark")
    live.wait(f"document.getElementById('plot-volume').layout.font.color !== '{light}'")
    assert ink() == "#e6e9ec"


def test_it_follows_the_search_to_its_end(live: Opened) -> None:
    better = candidate(60, 1).model_copy(update={"state": "complete", "predicted_latency_ms": 0.01, "size_bytes": 9})
    other = next(e for e in live.study.front if e.kind == "candidate")
    better = better.model_copy(update={"validation": other.validation, "reason": "", "label": "a new best"})
    write_evaluation(live.study.path, better)
    live.wait("document.querySelector('#front').innerText.includes('a new best')")
    assert "a new best" in live.text("#recent")
    (live.study.path / "progress.json").unlink()
    write_final(live.study.path, live.study.baselines, {})
    live.wait("document.getElementById('state').textContent === 'finished'")
    assert live.errors == []


def test_a_server_that_is_gone_is_said(browser: Any, tmp_path: Path) -> None:
    with Watch(make_study(tmp_path / "study", 5).path, port=0) as watch:
        page = browser.new_page()
        page.goto(watch.url, timeout=PATIENCE)
        page.wait_for_function("document.getElementById('state').textContent === 'finished'", timeout=PATIENCE)
    page.wait_for_function("document.getElementById('state').textContent.includes('does not answer')", timeout=PATIENCE)
    page.close()


def test_the_comparison(browser: Any, tmp_path: Path) -> None:
    studies = [make_study(tmp_path / name, 20 + 5 * i, seed=i) for i, name in enumerate(("tpe", "random", "gp"))]
    write_html(load([s.path for s in studies]), tmp_path / "compare.html")
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    opened, requests = Opened(page, studies[0]), []
    page.on("request", lambda r: requests.append(r.url))
    page.goto(f"file://{tmp_path}/compare.html", timeout=PATIENCE)
    opened.wait("document.querySelectorAll('.js-plotly-plot').length === 3")
    assert page.eval_on_selector("#plot-fronts", "p => p.data.map(t => t.name)") == ["tpe", "baselines", "random", "gp"]
    evaluated = "[...document.querySelectorAll('#studies tbody tr')].map(r => Number(r.cells[3].textContent))"
    page.focus("#studies th:nth-child(4) button")
    page.keyboard.press("Enter")
    up = page.evaluate(evaluated)
    page.keyboard.press("Enter")
    assert up == sorted(up) and page.evaluate(evaluated) == up[::-1]
    assert page.get_attribute("#studies th:nth-child(4)", "aria-sort") == "descending"
    assert opened.errors == [] and not [u for u in requests if not u.startswith(("file:", "data:", "blob:"))]
    page.close()
