"""Pages of one file: a template, charts as inline SVG, and nothing that a browser would have to fetch."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import EngineUnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent
INSTALL = "pip install 'self2self[report]'"


def check_available(option: str) -> None:
    """Refuse to promise a page that cannot be made, before anything slow happens.

    Args:
        option: that asks for the page, for the message.

    Raises:
        EngineUnavailableError: a package is missing.
    """
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise EngineUnavailableError(
            f"{option}: a page needs matplotlib and jinja2, and {error.name or error} is not installed. "
            f"Install them: {INSTALL}"
        ) from error
    del jinja2, matplotlib


def render(template: Path, values: dict[str, Any]) -> str:
    """Fill in `template`, which may extend ``base.html.j2``; text is escaped, charts of `inline_svg` are not.

    Args:
        template: a Jinja template.
        values: what it names; an undefined name is a bug.
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
    """`figure` as an ``<svg>`` element that takes the width of its parent, safe to insert as it is.

    Args:
        figure: of matplotlib, made without pyplot.
        title: read out instead of the picture.
    """
    import matplotlib
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    # Text stays text: smaller, selectable, and found by the browser's search.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # HTML needs no namespaces, and a page without addresses is easily seen to fetch nothing.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'^<svg ([^>]*?)\s?height="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'^<svg ([^>]*?)\s?width="[^"]*"', r"<svg \1", svg)
    # Several charts share the page, and an id must not be defined twice in it.
    prefix = re.sub(r"\W+", "-", title.lower()) + "-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    label = f'<svg role="img" aria-label="{escape(title)}"'
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704 - made by matplotlib, which escapes its texts
