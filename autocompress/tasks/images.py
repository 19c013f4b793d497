"""Images of files, as a network takes them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import TaskError, first_line

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes."""
CHANNELS = {1: "L", 3: "RGB"}
"""What Pillow calls images of so many channels."""


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes an input: resized, value / scale, minus mean, divided by std."""

    size: tuple[int, int] | None = None
    """Height and width; None: those of the network, which may leave them free."""
    scale: float | None = None
    """None: 255 for a network that takes floats, 1 for bytes."""
    mean: tuple[float, ...] = (0.0,)
    """One for all channels or one for each, after `scale`."""
    std: tuple[float, ...] = (1.0,)
    crop: bool = False
    """Whether the shorter side is resized and the middle cut out; else the whole image is squeezed into the size."""

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std, 1.0 if self.scale is None else self.scale]
        if not all(np.isfinite(numbers)) or 0.0 in (self.scale, *self.std):
            raise TaskError("images: scale, mean and std must be finite, scale and std not 0")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise TaskError(
                    f"images: {name} must be one number, or one for each channel, got {getattr(self, name)}"
                )
        if self.size is not None and min(self.size) < 1:
            raise TaskError(f"images: height and width must be at least 1, got {self.size}")

    def text(self, size: tuple[int, int], mode: str) -> str:
        """The steps in words."""
        how = "shorter side resized, middle cut out" if self.crop else "resized without keeping the aspect ratio"
        steps = [f"{mode}, {how}, {size[0]}x{size[1]} (height x width, bilinear)", f"/ {self.scale:g}"]
        steps += [f"minus {', '.join(f'{m:g}' for m in self.mean)}"] if any(self.mean) else []
        steps += [f"divided by {', '.join(f'{s:g}' for s in self.std)}"] if any(s != 1 for s in self.std) else []
        return ", ".join(steps)


def read_image(path: Path, size: tuple[int, int], channels: int, options: ImageOptions) -> NDArray[np.float32]:
    """One image, (height, width, channels).

    Args:
        path: of the file.
        size: height and width.
        channels: 1 for grey, 3 for RGB.
        options: how it is changed.

    Raises:
        TaskError: the file is no image, or Pillow is missing.
    """
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise TaskError("reading images needs Pillow; install it with: pip install 'autocompress[images]'") from None
    height, width = size
    try:
        with pillow.open(path) as opened:
            image = opened.convert(CHANNELS[channels])
            box = _middle(image.size, (width, height)) if options.crop else None
            resized = image.resize((width, height), pillow.Resampling.BILINEAR, box)
    except Exception as error:  # Pillow's readers raise anything
        raise TaskError(f"{path}: cannot be read as an image: {first_line(error)}") from None
    values = np.asarray(resized, np.float32).reshape(height, width, channels) / np.float32(options.scale or 1)
    changed = (values - np.asarray(options.mean, np.float32)) / np.asarray(options.std, np.float32)
    return changed.astype(np.float32)


def _middle(whole: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box in the middle of an image (width, height) that has the proportions of another."""
    ratio = min(whole[0] / wanted[0], whole[1] / wanted[1])
    margins = [(w - ratio * v) / 2 for w, v in zip(whole, wanted, strict=True)]
    return margins[0], margins[1], whole[0] - margins[0], whole[1] - margins[1]
