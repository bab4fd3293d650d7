"""An extension of griffe: docstrings are written for Sphinx, the site is made of Markdown."""

from __future__ import annotations

import re
import textwrap

import griffe

_MATH = re.compile(r"^( *)\.\. math::\n((?:\1 +.*\n|\n)+)", re.M)
_LINK = re.compile(r"`([^`<]+?)\s*<(https://[^>]+)>`_")
_ROLE = re.compile(r":(?:class|func|meth|mod|data):`~?([^`]+)`")


class PlainDocstrings(griffe.Extension):
    """Links and roles become Markdown; formulas are shown as they are written."""

    def on_object(self, *, obj, **_):
        if obj.docstring is None:
            return
        text = _MATH.sub(_formula, obj.docstring.value + "\n")
        text = _LINK.sub(r"[\1](\2)", text)
        obj.docstring.value = _ROLE.sub(r"`\1`", text).replace(":math:`", "`").rstrip()


def _formula(match: re.Match[str]) -> str:
    body = textwrap.indent(textwrap.dedent(match[2]).strip(), match[1])
    return f"{match[1]}```latex\n{body}\n{match[1]}```\n\n"
