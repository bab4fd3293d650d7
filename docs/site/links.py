"""A hook of mkdocs: files of the project that pages link to are copied into the site.

Pages are read in the repository too, where ``../gatv2_pyg/conv.py`` is a link that works.  Results
of the benchmarks become pages, with their tables and pictures; other files are shown as they are
written.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

_LINK = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
_FOLDER = "project"
_RESULTS = "benchmarks/results"


def on_files(files, config):
    project = Path(config.config_file_path).parent
    docs = Path(config.docs_dir)
    linked = set()
    for page in docs.glob("*.md"):
        linked |= {match[1] for match in _LINK.finditer(page.read_text(encoding="utf-8"))}
    for path in list(linked):
        if _is_result(path):
            pictures = (project / path).parent.glob("*.png")
            linked |= {picture.relative_to(project).as_posix() for picture in pictures}
    for path in sorted(linked):
        source = str((project / path).resolve())
        file = File.generated(config, _place(path), abs_src_path=source)
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri.startswith(f"{_FOLDER}/"):
        return markdown
    return _LINK.sub(lambda match: f"]({_place(match[1])})", markdown)


def _is_result(path: str) -> bool:
    return path.startswith(f"{_RESULTS}/") and path.endswith(".md")


def _place(path: str) -> str:
    """Where a file lies in the site."""
    as_written = path.endswith((".md", ".py", ".h", ".cpp")) and not _is_result(path)
    return f"{_FOLDER}/{path}" + (".txt" if as_written else "")
