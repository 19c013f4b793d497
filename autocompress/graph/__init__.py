"""What is done to networks as graphs: anatomy, pruning, export, quantisation, exits."""
