"""`python -m autocompress` is `autocompress`."""

from autocompress.cli import main

main()
