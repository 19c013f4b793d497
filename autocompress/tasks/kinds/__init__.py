"""Kinds of tasks: one file each, found by its name."""
