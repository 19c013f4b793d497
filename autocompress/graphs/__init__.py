"""What is done to a network as a graph: export, quantisation, early exits."""
