"""From a recipe to a file, and from the file to its accuracy, latency and size."""
