"""A headless Chromium of this machine, driven by playwright; it downloads none of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; its pages see nothing but what the test opens."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def sizes_in(page: Any, table: str, column: int) -> list[float]:
    """Bytes in a column of sizes, such as "990 kB", from top to bottom."""
    cells = page.eval_on_selector_all(f"{table} tbody td:nth-child({column})", "cells => cells.map(c => c.innerText)")
    words = [text.split() for text in cells]
    return [float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] for number, unit in words]
