"""The `self2self` command, and `python -m self2self`; it imports nothing that takes long enough to be interrupted."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C while its modules are imported ends it quietly, too."""
    try:
        from self2self import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
