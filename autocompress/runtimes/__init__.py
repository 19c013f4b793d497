"""One module per inference runtime."""
