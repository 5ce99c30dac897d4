"""Start the `self2self` command, also as `python -m self2self`.

This module imports nothing slow, so that `main` can handle Ctrl-C during the import of all other modules.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C during its imports ends the process without a traceback, with exit code 130."""
    try:
        from self2self import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
