"""Where recipes and stages were; kept for files that import them from here. Use `from autocompress import Stage`."""

from autocompress.compression.stage import Number, Phase, Stage
from autocompress.recipes.recipe import Recipe

__all__ = ["Number", "Phase", "Recipe", "Stage"]
