"""One module per technique; its name is the `technique:` of a stage."""
