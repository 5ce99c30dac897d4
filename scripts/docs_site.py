"""Hooks of MkDocs (mkdocs.yml): the pages in the root of the repository, and links that leave ``docs/``.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages of the site. Every other file of the repository that a page
links to, such as a result, is copied into ``repo/`` of the site. So `mkdocs build --strict` checks all of these links.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File in the repository → page of the site."""
_SOURCES = {page: file for file, page in PAGES.items()}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def place_in_site(target: str) -> str:
    """The place in the site of a file of the repository, both relative to their roots."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES:
        return PAGES[target]
    # MkDocs would make pages of these.
    readable = target if Path(target).suffix not in ("", ".md") else f"{target}.txt"
    return f"repo/{readable}"


def target_of(page: str, link: str) -> str | None:
    """The file of the repository that a link on `page` of the site leads to; None if it leads elsewhere."""
    if "://" in link or link.startswith("mailto:"):
        return None
    source = _SOURCES.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages in the root, and each file outside ``docs/`` that a page links to."""
    from mkdocs.structure.files import File

    for file, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    for page in list(files.documentation_pages()):
        for _, link, _ in _LINK.findall(page.content_string):
            target = target_of(page.src_uri, link)
            if target is None or not (ROOT / target).is_file():
                continue
            place = place_in_site(target)
            if files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the places of the site."""

    def moved(match: re.Match[str]) -> str:
        start, link, end = match.groups()
        target = target_of(page.file.src_uri, link)
        if target is None:
            return match[0]
        place = posixpath.relpath(place_in_site(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{start}{place}{end}"

    return _LINK.sub(moved, markdown)
