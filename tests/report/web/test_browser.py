"""The report in a real browser: what a person does with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers.browser import CHROMIUM, chromium, sizes_in
from helpers.synthetic import make_study

from autocompress.report.web.html import write_html
from autocompress.studies.study import Study

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dependency group browser)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DRAWN = 60_000
"""Milliseconds; a busy machine is slow, and no time is asserted here."""


@dataclass
class Opened:
    page: Any
    study: Study
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def shown_trials(self) -> list[int]:
        return [
            int(n)
            for n in self.page.eval_on_selector_all("#trial-table tbody tr", "rs => rs.map(r => r.dataset.trial)")
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("report")
    study = make_study(folder / "study", 60, complete=True, seed=1, classes=CLASSES)
    write_html(study, folder / "report.html")
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    found = Opened(context.new_page(), study)
    found.page.on("console", lambda m: found.errors.append(m.text) if m.type in ("error", "warning") else None)
    found.page.on("pageerror", lambda e: found.errors.append(str(e)))
    found.page.on("request", lambda r: found.requests.append(r.url))
    found.page.goto(f"file://{folder}/report.html", timeout=DRAWN)
    found.page.wait_for_selector("body[data-ready]", timeout=DRAWN)
    found.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # draws what is not in sight
    yield found
    context.close()


@pytest.fixture(autouse=True)
def fresh(opened: Opened) -> None:
    """Details closed, no filter, sorted by trial."""
    opened.page.keyboard.press("Escape")
    opened.page.click("#filters button[type=reset]")
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_function("document.querySelectorAll('#trial-table tbody tr').length > 60")


def test_it_loads_without_errors_and_asks_for_nothing(opened: Opened) -> None:
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    drawn = opened.page.eval_on_selector_all(".js-plotly-plot", "ps => ps.map(p => p.id)")
    expected = {"front", "layers", "classes", "exits", "importance", "measured", "progress", "budget"}
    assert {name.removeprefix("plot-") for name in drawn} == expected


def test_plots_are_drawn_when_they_come_into_sight(browser: Any, opened: Opened) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(opened.page.url.partition("#")[0], timeout=DRAWN)
    page.wait_for_selector("body[data-ready]", timeout=DRAWN)
    assert page.query_selector("#plot-front .main-svg") and not page.query_selector("#plot-budget .main-svg")
    page.locator("#h-budget").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-budget .main-svg", timeout=DRAWN)
    context.close()


def test_axes_have_units(opened: Opened) -> None:
    titles = " | ".join(
        opened.page.eval_on_selector_all("#plot-front .xtitle, #plot-front .ytitle", "ts => ts.map(t => t.textContent)")
    )
    assert "latency (ms" in titles and "accuracy (%" in titles
    titles = " | ".join(
        opened.page.eval_on_selector_all(
            ".xtitle, .ytitle, .y2title, .x2title, .y3title", "ts => ts.map(t => t.textContent)"
        )
    )
    for unit in ("(ms)", "(min)", "(s)", "(%)", "(points)"):
        assert unit in titles


def lonely_point(opened: Opened) -> tuple[int, float, float]:
    """The trial of the front with no other point nearby, and where it is on the screen."""
    opened.page.locator("#plot-front").scroll_into_view_if_needed()
    trial, x, y = opened.page.evaluate(
        """() => {
          const plot = document.getElementById("plot-front"), box = plot.getBoundingClientRect();
          const { xaxis, yaxis } = plot._fullLayout;
          const all = plot.data.flatMap((t) => (t.customdata || []).map((n, i) => ({ n, front: t.name === "front",
            x: box.x + xaxis._offset + xaxis.d2p(t.x[i]), y: box.y + yaxis._offset + yaxis.d2p(t.y[i]) })));
          const room = (p) => Math.min(...all.filter((q) => q !== p).map((q) => Math.hypot(p.x - q.x, p.y - q.y)));
          const best = all.filter((p) => p.front).sort((p, q) => room(q) - room(p))[0];
          return [best.n, best.x, best.y];
        }"""
    )
    return int(trial), float(x), float(y)


def test_hovering_and_clicking_a_point_of_the_front(opened: Opened) -> None:
    trial, x, y = lonely_point(opened)
    opened.page.mouse.move(x - 40, y)
    opened.page.mouse.move(x, y, steps=4)
    opened.page.locator("#plot-front .hoverlayer", has_text=f"trial {trial}").wait_for(state="attached", timeout=DRAWN)
    opened.page.mouse.click(x, y)
    opened.page.wait_for_selector("#detail:not([hidden])", timeout=DRAWN)
    assert opened.text("#detail h2").startswith(f"Trial {trial}")
    assert opened.page.url.endswith(f"#trial={trial}")
    opened.page.keyboard.press("Escape")
    assert opened.page.is_hidden("#detail") and "#trial" not in opened.page.url


def test_the_export_command_is_copied(opened: Opened) -> None:
    knee = opened.study.front.select("knee").trial
    opened.page.click(f'#front-table tr[data-trial="{knee}"] td')
    command = f"autocompress export {opened.study.path} --trial {knee}"
    box = opened.page.locator("#detail .copy", has_text=command).first
    box.locator("button").click()
    opened.page.wait_for_function("document.querySelector('#detail .copy button').textContent === 'Copied'")
    opened.page.focus("#f-text")
    opened.page.keyboard.press("Control+V")
    assert opened.page.input_value("#f-text") == command


def test_filters_narrow_the_table_and_dim_the_plot(opened: Opened) -> None:
    page, total = opened.page, len(opened.study.evaluations)
    page.select_option("#f-state", "rejected")
    rejected = [e.trial for e in opened.study.evaluations if e.state == "rejected"]
    assert opened.shown_trials() == rejected and opened.text("#f-count") == f"{len(rejected)} of {total} trials"
    page.click("#filters button[type=reset]")
    page.fill("#f-latency", "1")
    fast = [e.trial for e in opened.study.evaluations if e.latency_ms is not None and e.latency_ms <= 1]
    page.wait_for_function(f"document.querySelectorAll('#trial-table tbody tr').length === {len(fast)}")
    assert sorted(opened.shown_trials()) == fast
    page.wait_for_function(
        "document.getElementById('plot-front').data.find(t => t.name === 'fp32 baseline').marker.opacity[0] < 0.2"
    )


def test_tables_sort_by_their_headings(opened: Opened) -> None:
    button = opened.page.locator("#trial-table th[data-key=latency] button")
    latency = {e.trial: e.latency_ms for e in opened.study.evaluations}
    for order, sign in (("ascending", 1), ("descending", -1)):
        button.click()
        assert opened.page.get_attribute("#trial-table th[data-key=latency]", "aria-sort") == order
        values = [v * sign for n in opened.shown_trials() if (v := latency[n]) is not None]
        assert values == sorted(values)
    opened.page.click("#trial-table th[data-key=trial] button")
    opened.page.click("#front-table th:nth-child(7) button")
    shown = sizes_in(opened.page, "#front-table", 7)
    assert shown == sorted(shown) and len(set(shown)) > 3


def test_the_keyboard_alone_is_enough(opened: Opened) -> None:
    page = opened.page
    page.focus("#trial-table tbody tr")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.trial") == "1"
    page.keyboard.press("Enter")
    assert opened.text("#detail h2").startswith("Trial 1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Close"
    page.keyboard.press("Enter")
    assert page.is_hidden("#detail") and page.evaluate("document.activeElement.dataset.trial") == "1"
    page.focus("button[data-show=fronttest]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#plot-fronttest .main-svg", timeout=DRAWN)
    assert page.get_attribute("button[data-show=fronttest]", "aria-pressed") == "true"
    page.click("button[data-show=front]")


def test_layers_and_classes_follow_the_chosen_trial(opened: Opened) -> None:
    page, knee, other = opened.page, *(opened.study.front.select(pick).trial for pick in ("knee", "fastest"))
    page.select_option("#class-trial", str(knee))
    assert opened.text("#class-words").startswith(f"Trial {knee} against fp32 (test split)")
    page.select_option("#class-trial", str(other))
    assert opened.text("#class-words").startswith(f"Trial {other} against fp32")
    assert any(name in opened.text("#class-words") for name in CLASSES)
    page.click(f'#front-table tr[data-trial="{other}"] td')
    assert page.input_value("#layer-trial") == str(other)
    names = page.evaluate("document.getElementById('plot-layers').data.map(t => t.name)")
    assert any(name.startswith(f"trial {other}, ") for name in names)


def test_dark_mode_changes_page_and_plots(opened: Opened) -> None:
    page = opened.page

    def colours() -> tuple[str, str]:
        page.wait_for_timeout(300)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return background, page.evaluate("document.getElementById('plot-front')._fullLayout.font.color")

    light = colours()
    page.emulate_media(color_scheme="dark")
    dark = colours()
    assert light == ("rgb(246, 247, 249)", "#1d2329") and dark == ("rgb(20, 23, 26)", "#e6e9ec")


def test_a_link_to_a_trial_opens_it_and_a_phone_does_not_scroll_sideways(browser: Any, opened: Opened) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(opened.page.url.partition("#")[0] + "#trial=5", timeout=DRAWN)
    page.wait_for_selector("body[data-ready]", timeout=DRAWN)
    assert page.inner_text("#detail h2").startswith("Trial 5")
    page.keyboard.press("Escape")
    wide = """[...document.querySelectorAll("#page *")].filter((e) => !e.closest(".scroll, .plot, .copy pre")
      && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "#" + e.id + "." + e.className)"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    context.close()


def test_without_script_the_result_is_still_there(browser: Any, opened: Opened) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(opened.page.url.partition("#")[0], timeout=DRAWN)
    assert f"Trial {opened.study.front.select('knee').trial}" in page.inner_text("#page")
    assert "need JavaScript" in page.inner_text("#page")
    context.close()
