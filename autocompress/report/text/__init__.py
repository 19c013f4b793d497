"""For terminals: tables, chains, differences, and a search while it runs."""
