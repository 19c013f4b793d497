"""From measurements on a device to its profile."""
