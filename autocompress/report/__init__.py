"""What a study found, for people: a table, plots and a self-contained HTML file."""
