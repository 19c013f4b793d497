"""Size and load time of the HTML report at 1,000 trials, in a headless Chromium of this machine.

python benchmarks/report.py     writes results/records/report.json; the study is an invented one of the tests
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.browser import chromium  # noqa: E402
from helpers.synthetic import make_study  # noqa: E402

from autocompress.report.web.html import write_html  # noqa: E402

_MARK = "performance.getEntriesByName('drawn')[0].startTime"
_ALL = (
    "(() => { const t = performance.now(); dispatchEvent(new Event('beforeprint')); return performance.now() - t; })()"
)


def load(browser: Any, path: Path) -> dict[str, float]:
    """Milliseconds from the start of the navigation, in a new profile; the last one is processor time."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    client = context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{path}", timeout=120_000)
    page.wait_for_selector("body[data-ready]", timeout=120_000)
    metrics = {m["name"]: m["value"] for m in client.send("Performance.getMetrics")["metrics"]}
    drawn = page.evaluate(_MARK)
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    others = page.evaluate(_ALL)
    context.close()
    assert not errors, errors
    return {
        "table_ms": loaded,
        "front_ms": drawn,
        "other_plots_ms": others,
        "main_thread_cpu_until_front_ms": 1000 * metrics["TaskDuration"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=53)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "records" / "report.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder) / "study", options.trials, n_layers=options.layers, complete=True)
        path = Path(folder) / "report.html"
        started = time.monotonic()
        write_html(study, path)
        written = time.monotonic() - started
        with chromium() as browser:
            runs = [load(browser, path) for _ in range(options.runs)]
            version = browser.version
        record = {
            "what": "HTML report of an invented study, opened from disk in headless Chromium, new profile each time",
            "times": "until the table can be used; until the front is drawn; then all plots below the fold at once, "
            "which are drawn when they come into sight; processor time of the page's main thread until the front",
            "trials": len(study.evaluations),
            "layers_per_trial": options.layers,
            "size_bytes": path.stat().st_size,
            "seconds_to_write": round(written, 2),
            "median_ms": {key: round(statistics.median(r[key] for r in runs)) for key in runs[0]},
            "runs_ms": [{key: round(value) for key, value in r.items()} for r in runs],
            "conditions": {
                "chromium": version,
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "load_average": [round(x, 2) for x in os.getloadavg()],
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
