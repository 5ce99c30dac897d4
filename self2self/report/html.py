"""Renders HTML pages of one file: a template with charts as inline SVG, from which a browser fetches nothing else."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import EngineUnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent
INSTALL_COMMAND = "pip install 'self2self[report]'"


def check_available(option: str) -> None:
    """Check that the packages for a page are installed, before any slow work.

    Args:
        option: the command-line option that asks for the page, for the message.

    Raises:
        EngineUnavailableError: a package is missing.
    """
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise EngineUnavailableError(
            f"{option}: a page needs matplotlib and jinja2, and {error.name or error} is not installed. "
            f"Install them: {INSTALL_COMMAND}"
        ) from error
    del jinja2, matplotlib


def render(template: Path, values: dict[str, Any]) -> str:
    """Fill in `template`, which may extend ``base.html.j2``; text is escaped, charts of `inline_svg` are not.

    Args:
        template: path of a Jinja template.
        values: the variables of the template. A missing variable raises an error, because it is a bug.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)


def inline_svg(figure: Figure, title: str) -> Any:
    """Convert `figure` to an ``<svg>`` element that takes the width of its parent and needs no escaping.

    Args:
        figure: a figure of matplotlib, made without pyplot.
        title: text that screen readers read instead of the picture.
    """
    import matplotlib
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    # Text stays text instead of paths: it is smaller and selectable, and the browser's search finds it.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # HTML needs no namespaces, and a page without addresses evidently fetches nothing.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'^<svg ([^>]*?)\s?height="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'^<svg ([^>]*?)\s?width="[^"]*"', r"<svg \1", svg)
    # Several charts share the page, in which every id must be unique.
    prefix = re.sub(r"\W+", "-", title.lower()) + "-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    label = f'<svg role="img" aria-label="{escape(title)}"'
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704 - made by matplotlib, which escapes its texts
