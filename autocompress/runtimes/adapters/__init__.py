"""One module per runtime that can execute files here, found by its name."""
