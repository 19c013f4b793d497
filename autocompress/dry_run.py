"""Where the dry run was; kept for files that import it from here. It is in `autocompress.controller.dry_run`."""

from autocompress.controller.dry_run import DryRun, dry_run

__all__ = ["DryRun", "dry_run"]
