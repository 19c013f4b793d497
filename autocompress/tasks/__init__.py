"""The user's side: the trained model, its data, its metric, and how they are found and read."""
