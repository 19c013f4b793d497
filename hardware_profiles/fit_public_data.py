"""Fit all shipped profiles to public measurements; nothing here was measured by the project.

Usage: python hardware_profiles/fit_public_data.py FOLDER_WITH_THE_TABLES [OUTPUT_FOLDER] [COLLECTION ...]

Sources and licences stand in each profile. A collection (arm, x86, gpus, nvidia, intel, qualcomm, qualcomm_cpus,
d_robotics, axera, renesas, spacemit, ethos, rockchip, hailo, edge_tpu, vitis, microcontrollers, st_npus, esp32) is
fitted together; without names all are. The error in a profile is that of leaving a network out on all devices at once;
a device that is too far off gets no profile and is listed. At the end the table in OUTPUT_FOLDER/README.md and the
factors between runtimes (transfers.json) are written anew from the YAML files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from public_data import accelerators, boards, cpus, gpus, microcontrollers, npus, qai_hub, transfers
from public_data.collection import Collection, profiles
from public_data.readme import write_table

from autocompress.devices.profile import DeviceProfile
from autocompress.errors import InputError

COLLECTIONS: dict[str, Callable[[Path], Collection]] = {
    "arm": cpus.arm,
    "x86": cpus.x86,
    "gpus": cpus.gpus,
    "qualcomm": qai_hub.qualcomm,
    "qualcomm_cpus": qai_hub.cpus,
    "nvidia": gpus.nvidia,
    "d_robotics": npus.d_robotics,
    "axera": npus.axera,
    "renesas": npus.renesas,
    "spacemit": npus.spacemit,
    "ethos": npus.ethos,
    "intel": gpus.intel,
    "rockchip": accelerators.rockchip,
    "hailo": accelerators.hailo,
    "edge_tpu": accelerators.edge_tpu,
    "vitis": accelerators.vitis,
    "microcontrollers": microcontrollers.microcontrollers,
    "st_npus": microcontrollers.st_npus,
    "esp32": microcontrollers.esp32,
}


def _written(collection: Collection, folder: Path) -> int:
    """Write the profiles of a collection; returns how many."""
    n_written = 0
    for profile in profiles(collection):
        c = profile.calibration
        assert c is not None
        good = c.p90_error <= collection.max_p90
        path = folder / f"{profile.name}.yaml"
        if good:
            profile.save(path)
            n_written += 1
        else:
            path.unlink(missing_ok=True)
        sys.stdout.write(
            f"{profile.name}{'' if good else ' (TOO FAR OFF, NOT WRITTEN)'}: {c.points} points, median error "
            f"{c.median_error:.1%}, 90 % within {c.p90_error:.0%}\n"
        )
    return n_written


def main(arguments: list[str]) -> int:
    """Fit, write, and list what was done; returns the exit code."""
    names = [a for a in arguments if a in COLLECTIONS]
    folders = [Path(a) for a in arguments if a not in COLLECTIONS]
    if not 1 <= len(folders) <= 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    target = folders[1] if len(folders) == 2 else Path(__file__).resolve().parent
    try:
        for name in names or COLLECTIONS:
            sys.stdout.write(f"{name}: {_written(COLLECTIONS[name](folders[0]), target)} profiles\n")
            sys.stdout.flush()
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: this table is missing; give the folder that holds all of them.") from None
    shipped = [DeviceProfile.load(path) for path in sorted(target.glob("*.yaml"))]
    transfers.write(transfers.learn(transfers.pairs({p.name: p for p in shipped}, *boards.arm(folders[0]))), target)
    write_table(target / "README.md", shipped)
    sys.stdout.write(f"{len(shipped)} profiles in all\n")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except InputError as problem:
        sys.stderr.write(f"{problem}\n")
        raise SystemExit(2) from None
