"""A hook of MkDocs: LaTeX becomes MathML, which browsers show without scripts and fonts from elsewhere.

A formula is a code span between dollars: ``$`x^2`$`` in the line, ``$$`x^2`$$`` on a line of its own. One that is not
LaTeX stops the build.
"""

import html
import re
from typing import Any

_FORMULA = re.compile(r"(\${1,2})<code>(.*?)</code>\1", re.DOTALL)


def to_mathml(page: str, name: str) -> str:
    """A page of HTML with its formulas as MathML.

    Raises:
      ValueError: a formula cannot be read; names page and formula.
    """
    import math_core

    converter = math_core.LatexToMathML(fancy_error=False)

    def convert(found: re.Match[str]) -> str:
        latex = html.unescape(found[2])
        try:
            return converter.convert_with_local_state(latex, displaystyle=found[1] == "$$")
        except math_core.LatexError as error:
            raise ValueError(f"{name}: not LaTeX: {latex!r}: {error}") from error

    return _FORMULA.sub(convert, page)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return to_mathml(content, page.file.src_uri)
