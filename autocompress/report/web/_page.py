"""What the HTML pages have in common: each is one file that needs no network and carries all it needs."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs


def render_page(template: str, **values: Any) -> str:
    """Fill in a template of this folder; values are escaped unless they are Markup."""
    environment = Environment(
        loader=PackageLoader("autocompress.report.web", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def own_file(*names: str) -> Markup:
    """Style sheets or scripts of this folder, one after the other."""
    return Markup("".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names))


def embedded(data: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def packed_plotly() -> str:
    """The plotly.js library, compressed; the browser unpacks it (all browsers since 2023 can)."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
