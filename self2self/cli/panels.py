"""Groups of options in the text of `--help`, so that those that people use first come first.

Typer shows groups only through rich, which takes longer to load than the rest of `--help` takes. Here they are
headings in plain text.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

FIRST = "Options"
FIT, IMAGE, MANY, PASSES, PROGRAMS = "The fit", "The image", "Many images", "The passes", "For programs and logs"
NETWORK = "Any PyTorch model"


class PanelCommand(TyperCommand):
    """A command whose options stand in groups, by the `rich_help_panel` of each."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options without a group, and then each group in the order of its first option."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], FIRST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            usual = "Arguments" if parameter.param_type_name == "argument" else FIRST
            groups.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
