"""One point of a study as a folder that is handed over: its file, how to run it, and its signature."""
