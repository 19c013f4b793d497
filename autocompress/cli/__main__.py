"""`python -m autocompress.cli` is `autocompress`."""

from autocompress.cli import main

main()
