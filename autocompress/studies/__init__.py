"""What a search leaves: results, fronts, and the folder that they are kept in."""
