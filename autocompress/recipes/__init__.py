"""What people write: recipes, and the spaces that they are drawn from."""
