"""What a page of the site has in place of its markers, and where its links lead.

Two markers stand for text: `<!-- include: CHANGELOG.md -->` for a file of the repository, and
`<!-- generated: commands -->` for a reference that is made from the code. Links between files work on a
code host as they stand; on the site, those that leave docs/ lead to the page that shows the file, if any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from docs.building import commands, pipeline_file, python_names

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
FAMILIES = ("retrieve_answer", "rag", "knowledge_graph", "tool_use", "software")

SHOWN: Mapping[Path, str] = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "project/changelog.md",
    ROOT / "CONTRIBUTING.md": "project/contributing.md",
    DOCS / "design": "design/index.md",
    **{ROOT / "pipelines" / name / "README.md": f"families/{name}.md" for name in FAMILIES},
}
"""The page of the site that shows a file or folder from elsewhere."""

GENERATORS: Mapping[str, Callable[[], str]] = {
    "pipeline-file": pipeline_file.generate,
    "commands": commands.generate,
    "python": python_names.overview,
    **{f"python-{name}": partial(python_names.generate, name) for name in python_names.PACKAGES},
}
"""What a marker `generated` stands for, as Markdown."""

_MARKER = re.compile(r"<!-- (include|generated): (\S+) -->")
_CODE_OR_LINK = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)"
    r"|\[(?P<label>[^\]]*)\]\((?!https?:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace a page's markers by what they stand for (Sphinx's event `source-read`)."""
    source[0] = completed(source[0], DOCS / f"{docname}.md")


def completed(text: str, page: Path) -> str:
    """Return the text of a page with its markers replaced and its links leading to pages.

    Args:
        text: The page as it is stored.
        page: The file of the page.
    """

    def replacement(marker: re.Match[str]) -> str:
        if marker[1] == "generated":
            return GENERATORS[marker[2]]()
        file = ROOT / marker[2]
        return with_links(file.read_text(encoding="utf-8"), file, page)

    return _MARKER.sub(replacement, with_links(text, page, page))


def with_links(text: str, file: Path, page: Path) -> str:
    """Return a text with links that lead from its file to pages, as links from the page that shows it.

    Args:
        text: Markdown, as it stands in `file`.
        file: The file that the text's links start from.
        page: The page of the site that shows the text.

    Raises:
        FileNotFoundError: A link leads to no file.
    """

    def link(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        label, target, anchor = match["label"], file.parent / match["target"], match["anchor"] or ""
        if not target.exists():
            raise FileNotFoundError(f"{file}: the link to {match['target']} leads to no file")
        target = target.resolve()
        if target in SHOWN:
            target = DOCS / SHOWN[target]
        if not target.is_relative_to(DOCS):
            return f"{label} (`{target.relative_to(ROOT)}`)"  # a file that no page shows
        return f"[{label}]({relpath(target, page.parent)}{anchor})"

    return _CODE_OR_LINK.sub(link, text)
