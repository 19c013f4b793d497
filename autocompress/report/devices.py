"""Device profiles for people: a table of all, and all about one."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from autocompress.device import DeviceProfile


def devices_table(profiles: Iterable[DeviceProfile]) -> Table:
    """One row per profile."""
    table = Table(title="device profiles", title_justify="left")
    for column in ("name", "processor", "threads", "int8", "median error", "held out", "source"):
        table.add_column(column)
    for p in profiles:
        c = p.calibration
        table.add_row(
            p.name,
            p.processor,
            str(p.threads),
            p.int8_arithmetic,
            f"{c.median_error:.0%}" if c else "unknown",
            c.split if c else "",
            f"{p.provenance.kind}, {p.measured_with}",
        )
    return table


def device_text(profile: DeviceProfile) -> str:
    """What the profile is, how it was made, and the cost of every operator kind."""
    c = profile.calibration
    limits = [f"flash {profile.flash_bytes:,} bytes"] if profile.flash_bytes else []
    limits += [f"RAM {profile.ram_bytes:,} bytes"] if profile.ram_bytes else []
    lines = [
        f"{profile.name}: {profile.description or profile.processor}",
        f"  processor     {profile.processor}, {profile.threads} thread(s), {' '.join(profile.instruction_set)}",
        f"  runtime       {profile.runtime} {profile.runtime_version}, measured with {profile.measured_with}",
        f"  int8          {profile.int8_arithmetic} arithmetic",
        f"  limits        {', '.join(limits) or 'none'}",
        f"  source        {profile.provenance.kind}: {profile.provenance.source}",
    ]
    if c:
        lines.append(
            f"  calibration   {c.points} graphs, {c.date}; error on {c.split}: median {c.median_error:.1%}, "
            f"90 % of them within {c.p90_error:.1%}"
        )
    lines.append("  operator                     overhead us   us per million MACs")
    for kind, formats in sorted(profile.latency.items()):
        for dtype, cost in sorted(formats.items()):
            lines.append(f"    {kind + ' ' + dtype:<26} {cost.overhead_us:>11.2f}   {cost.us_per_mmac:>19.2f}")
    return "\n".join(lines)
