"""The table of all profiles in hardware_profiles/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autocompress.devices.profile import DeviceProfile
from autocompress.report.text.devices import CLASSES, formats

_BEGIN = "<!-- table: written by fit_public_data.py -->"
_END = "<!-- end of the table -->"
_COLUMNS = ("name", "processor", "threads", "runtime", "measured with", "formats", "points", "median error", "90 %")


def write_table(readme: Path, profiles: Sequence[DeviceProfile]) -> None:
    """Replace what stands between the two marks; without them the table is appended."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, mark, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2] if mark else "\n"
    readme.write_text(f"{before}{_BEGIN}\n{table(profiles)}{_END}{after}", encoding="utf-8")


def table(profiles: Sequence[DeviceProfile]) -> str:
    """One section per class of device, in Markdown."""
    lines = []
    for device_class, title in CLASSES.items():
        chosen = [p for p in profiles if p.device_class == device_class]
        if not chosen:
            continue
        lines += [
            f"\n### {title} ({len(chosen)})\n",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
        ]
        for p in chosen:
            c = p.calibration
            assert c is not None
            cells = (p.name, p.processor, p.threads, p.runtime, p.measured_with, formats(p), c.points)
            errors = f"{c.median_error:.1%} | {c.p90_error:.0%}"
            lines.append(f"| {' | '.join(map(str, cells))} | {errors} |")
    return "\n".join(lines) + "\n\n"
