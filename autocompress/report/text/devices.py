"""Device profiles for people: a table of all, and all about one."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from autocompress.devices.profile import FILE_RUNTIME, DeviceProfile, device_of, list_profiles

CLASSES = {
    "board": "boards (CPU)",
    "phone": "phones (CPU)",
    "computer": "computers (CPU)",
    "gpu": "GPUs",
    "npu": "neural processors",
    "mcu": "microcontrollers",
    "fpga": "FPGA boards",
}
"""Title of every class of device, in the order of the table."""

_DISAGREE = 1.3
_LISTED = 60
"""More held-out graphs than this are not listed one by one."""


def formats(profile: DeviceProfile) -> str:
    """The number formats that the profile has figures for."""
    floats = "fp16" if profile.float_format == "float16" else "fp32"
    return ", ".join(floats if name == "float32" else name for name in sorted(profile.dtypes))


def devices_table(profiles: Iterable[DeviceProfile]) -> Table:
    """One row per profile, grouped by class; one line each on a terminal of 100 columns."""
    table = Table(title="device profiles", title_justify="left", box=None, pad_edge=False)
    for column in ("name", "processor", "threads", "runtime", "formats", "error", "90 %", "your file"):
        table.add_column(column, no_wrap=column != "processor")
    known = list(profiles)
    for device_class, title in CLASSES.items():
        chosen = [p for p in known if p.device_class == device_class]
        if chosen:
            table.add_row()
            table.add_row(f"[bold]{title}[/bold]")
        for p in chosen:
            c = p.calibration
            errors = (f"{c.median_error:.0%}", f"{c.p90_error:.0%}") if c else ("unknown", "")
            name = device_of(p.name)
            table.add_row(name, p.processor, str(p.threads), p.runtime, formats(p), *errors, _of_file(p, name))
    table.caption = (
        "error: under the runtime named, median over graphs that were not fitted; 90 %: nine of ten are within.\n"
        f"your file: 90 % interval of an ONNX file in {FILE_RUNTIME} on that CPU; one measured number narrows it:\n"
        "autocompress devices calibrate my-board --like NAME --base-model model.onnx --latency-ms MS\n"
        "`autocompress devices show NAME` says what a profile was made from and what it cannot know."
    )
    table.caption_justify = "left"
    return table


def _int8_gains(profile: DeviceProfile) -> list[str]:
    """The gain of int8 by every profile of the chip, and whether they disagree."""
    if not profile.chip:
        return []
    same = [DeviceProfile.load(name) for name in list_profiles() if profile.chip in name]
    gains = {p.name: (p.int8_gain, p) for p in same if p.int8_gain and p.chip == profile.chip}
    if not gains:
        return []
    told = [f"{gain:g}x in {name} ({formats(p).split(',')[0]} against int8)" for name, (gain, p) in gains.items()]
    values = [gain for gain, _ in gains.values() if gain]
    apart = max(values) > _DISAGREE * min(values)
    return [f"  int8 gain     {'; '.join(told)}{'; THEY DISAGREE: measure your own' if apart else ''}"]


def _origin(profile: DeviceProfile) -> str:
    moved = f", moved from {profile.transferred_from}" if profile.transferred_from else ""
    return f"{moved}, measured with {profile.measured_with}"


def _of_file(profile: DeviceProfile, device: str) -> str:
    """What the device's name promises of a file of a search, where its times were taken under another runtime."""
    if device == profile.name:
        return ""
    return f"{DeviceProfile.load(device).expected_error:.0%}"


def device_text(profile: DeviceProfile) -> str:
    """What the profile is, how it was made, what it cannot know, and the cost of every operator kind."""
    c, support = profile.calibration, profile.support
    limits = [f"flash {profile.flash_bytes:,} bytes"] if profile.flash_bytes else []
    limits += [f"RAM {profile.ram_bytes:,} bytes"] if profile.ram_bytes else []
    bits = " and ".join(map(str, sorted(profile.weight_bits)))
    origin = profile.provenance
    lines = [
        f"{profile.name}: {profile.description or profile.processor}",
        f"  processor     {profile.processor}, {profile.threads} thread(s), {' '.join(profile.instruction_set)}".rstrip(
            ", "
        ),
        f"  runtime       {profile.runtime} {profile.runtime_version}".rstrip() + _origin(profile),
        f"  your file     {support.way}",
        f"  executes      weights of {bits} bits, early exits: {'yes' if support.early_exits else 'no'}",
        f"  formats       {formats(profile)}, {profile.int8_arithmetic} int8 arithmetic",
        f"  limits        {', '.join(limits) or 'none'}",
    ]
    lines += _int8_gains(profile)
    if profile.active_power_mw:
        lines.append(f"  power         {profile.active_power_mw:g} mW while a network runs")
    lines.append(f"  source        {origin.kind}: {origin.source}" + (f" ({origin.licence})" if origin.licence else ""))
    if origin.datasheet:
        lines.append(f"  data sheet    {origin.datasheet}")
    if c:
        lines.append(
            f"  calibration   {c.points} graphs, {c.date}; error on {c.split}: median {c.median_error:.1%}, "
            f"90 % of them within {c.p90_error:.1%}"
        )
        by_format = ", ".join(f"{dtype} {error:.0%}" for dtype, error in c.p90_by_format.items())
        lines += [f"  90 % within   {by_format}"] if by_format else []
        kinds = ", ".join(f"{kind} {share:.0%} of {n}" for kind, (share, n) in c.coverage.items())
        lines += [f"  interval held {kinds}"] if kinds else []
    lines += [f"  cannot know   {caveat}" for caveat in profile.caveats]
    lines.append("  operator                     overhead us   us per million MACs")
    for kind, costs in sorted(profile.latency.items()):
        for dtype, cost in sorted(costs.items()):
            lines.append(f"    {kind + ' ' + dtype:<26} {cost.overhead_us:>11.2f}   {cost.us_per_mmac:>19.2f}")
    if c and 0 < len(c.held_out_ms) <= _LISTED:
        lines += ["  held out                          measured ms   predicted ms   off by"]
        for name, (ms, guess) in sorted(c.held_out_ms.items(), key=lambda item: item[1][0]):
            lines.append(f"    {name:<30} {ms:>13.3f}  {guess:>13.3f}  {guess / ms - 1:>+7.0%}")
    return "\n".join(lines)
