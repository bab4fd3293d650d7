"""A hook of mkdocs: files of the project that pages link to are copied into the site.

Pages are read in the repository too, where ``../gatv2_pyg/conv.py`` is a link that works.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File

_LINK = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
_FOLDER = "project"


def on_files(files, config):
    project = Path(config.config_file_path).parent
    docs = Path(config.docs_dir)
    linked = set()
    for page in docs.glob("*.md"):
        linked |= {match[1] for match in _LINK.finditer(page.read_text(encoding="utf-8"))}
    for path in sorted(linked):
        files.append(
            File.generated(config, _place(path), abs_src_path=str((project / path).resolve()))
        )
    return files


def on_page_markdown(markdown, page, config, files):
    return _LINK.sub(lambda match: f"]({_place(match[1])})", markdown)


def _place(path: str) -> str:
    """Where a file lies in the site; pages of the project are shown as they are written."""
    return f"{_FOLDER}/{path}" + (".txt" if path.endswith((".md", ".py", ".h", ".cpp")) else "")
