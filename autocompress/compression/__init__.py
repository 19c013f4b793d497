"""What is done to a network: its parts, the techniques, training."""
