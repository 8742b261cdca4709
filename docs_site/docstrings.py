"""A docstring as Markdown.

What our docstrings use: paragraphs, Google's sections (``Args:`` …), ``.. math::`` and inline ``:math:``, references
(``:func:`soap```), doctests, lists, literal blocks after ``::`` and tables drawn with ``====``.
Mathematics comes out as a code span between dollars, which ``mathematics.py`` turns into MathML after MkDocs.
"""

import re
import textwrap
from collections.abc import Callable, Iterator

Link = Callable[[str], str | None]
"""The address behind the name in a reference, or None where the name has no page."""

_ITEMS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}
_PROSE = {"Returns": "Returns", "Yields": "Yields"}
_LABEL = re.compile(r"(Sources?|Cost|Note): ")
_INLINE = re.compile(
    r"(?P<math>:math:`(?P<tex>[^`]+)`)"
    r"|(?P<role>:(?:func|class|meth|data|attr|mod):`(?P<target>[^`]+)`)"
    r"|(?P<code>``(?P<literal>.+?)``)"
    r"|(?P<arxiv>arXiv[: ](?P<number>\d{4}\.\d{4,5}))"
    r"|(?P<url>https?://[^\s)>\]]*[^\s)>\].,;])"
)


def to_markdown(doc: str, link: Link = lambda name: None) -> str:
    r"""The docstring as Markdown; ``link`` finds the address of a reference.

    >>> print(to_markdown("Halves :math:`x`.\n\nArgs:\n  x: a number, in [0, 1)."))
    Halves $`x`$.
    <BLANKLINE>
    **Arguments**
    <BLANKLINE>
    `x`
    :   a number, in \[0, 1).
    """
    return "\n\n".join(_blocks(doc.expandtabs().splitlines(), link))


def inline(text: str, link: Link = lambda name: None) -> str:
    r"""One paragraph: references, code and mathematics; everything else comes out as it stands.

    >>> inline("a*b of ``f(x)``, see :func:`g` and arXiv 1803.05407", {"g": "g.md#g"}.get)
    'a\\*b of `f(x)`, see [`g`](g.md#g) and [arXiv 1803.05407](https://arxiv.org/abs/1803.05407)'
    """
    text = " ".join(text.split())
    out, end = [], 0
    for found in _INLINE.finditer(text):
        out.append(_escape(text[end : found.start()]))
        end = found.end()
        if found["math"]:
            out.append(f"$`{found['tex'].strip()}`$")
        elif found["role"]:
            # the short form ~a.b.c shows c
            name = found["target"].removeprefix("~")
            shown = name.rpartition(".")[2] if found["target"].startswith("~") else name
            address = link(name)
            out.append(f"[`{shown}`]({address})" if address else f"`{shown}`")
        elif found["code"]:
            # our dotted names are references, written so or not
            address = link(found["literal"]) if re.fullmatch(r"jaxtrain(\.\w+)+", found["literal"]) else None
            out.append(f"[{_code(found['literal'])}]({address})" if address else _code(found["literal"]))
        elif found["arxiv"]:
            out.append(f"[{found['arxiv']}](https://arxiv.org/abs/{found['number']})")
        else:
            out.append(f"<{found['url']}>")
    out.append(_escape(text[end:]))
    # a paragraph that begins like a list or a heading is none
    return re.sub(r"^(\d+)\.(?= )", r"\1\\.", re.sub(r"^([-+#>])(?= )", r"\\\1", "".join(out)))


def _code(text: str) -> str:
    ticks = "``" if "`" in text else "`"
    return f"{ticks} {text} {ticks}" if ticks == "``" else f"`{text}`"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[])", r"\\\1", text).replace("<", "&lt;")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _blocks(lines: list[str], link: Link) -> Iterator[str]:
    i = 0
    while i < len(lines):
        line, start = lines[i], i
        if not line.strip():
            i += 1
        elif line.lstrip().startswith(">>>"):
            while i < len(lines) and lines[i].strip():
                i += 1
            yield "```pycon\n" + textwrap.dedent("\n".join(lines[start:i])) + "\n```"
        elif line.lstrip().startswith(".. math::"):
            inner, i = _inside(lines, i)
            first = line.partition("::")[2].strip()
            formulas = "\n".join([first, "", *inner] if first and inner and not inner[0].strip() else [first, *inner])
            for formula in re.split(r"\n\s*\n", formulas.strip()):
                # each part a formula of its own, so that a line can break between them
                yield " ".join(f"$$`{part}`$$" for part in _parts(" ".join(formula.split()))) + "\n{ .formula }"
        elif (name := line.rstrip().removesuffix(":")) in _ITEMS and line.rstrip().endswith(":"):
            inner, i = _inside(lines, i)
            yield f"**{_ITEMS[name]}**"
            yield from _items(inner, link)
        elif name in _PROSE and line.rstrip().endswith(":"):
            inner, i = _inside(lines, i)
            yield f"**{_PROSE[name]}**"
            yield from _blocks(textwrap.dedent("\n".join(inner)).splitlines(), link)
        elif re.fullmatch(r"\s*=+(\s+=+)+\s*", line):
            while i < len(lines) and lines[i].strip():
                i += 1
            yield _table(lines[start:i], link)
        elif re.match(r"\s*([-*•]|\d+\.) ", line):
            i = start + 1
            while i < len(lines) and (not lines[i].strip() or _indent(lines[i]) > _indent(line)):
                i += 1
            yield _list_item(lines[start:i], link)
        else:
            while i < len(lines) and lines[i].strip() and (i == start or not _starts_block(lines[i])):
                i += 1
            text = "\n".join(lines[start:i])
            literal = text.rstrip().endswith("::")
            text = inline(text.rstrip().removesuffix(":") if literal else text, link)
            yield _LABEL.sub(r"**\1.** ", text, count=1) if _LABEL.match(text) else text
            if literal:
                inner, i = _inside(lines, i - 1)
                yield "```python\n" + textwrap.dedent("\n".join(inner)).strip("\n") + "\n```"


def _starts_block(line: str) -> bool:
    text = line.strip()
    return text.startswith((">>>", ".. math::", "- ", "* ", "• ")) or text.removesuffix(":") in {**_ITEMS, **_PROSE}


def _inside(lines: list[str], head: int) -> tuple[list[str], int]:
    """The lines below ``head`` that are indented further, and the number of the first that is not."""
    end = head + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > _indent(lines[head])):
        end += 1
    inner = lines[head + 1 : end]
    while inner and not inner[-1].strip():
        inner.pop()
    return inner, end


def _parts(formula: str) -> list[str]:
    r"""A formula cut where wide space stands between its parts, outside braces and environments.

    >>> _parts(r"a = b, \quad c = \frac{1 \quad}{2}")
    ['a = b,', 'c = \\frac{1 \\quad}{2}']
    """
    parts, depth = [""], 0
    for token in re.findall(r"\\[a-zA-Z]+|\\.|.", formula):
        depth += token in ("{", "\\begin", "\\left")
        depth -= token in ("}", "\\end", "\\right")
        if token in ("\\quad", "\\qquad") and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


def _items(lines: list[str], link: Link) -> Iterator[str]:
    """``name: what it is`` with further lines indented, as a definition list."""
    text = re.sub(r",\n *(?=[\w*, ]+: )", ", ", textwrap.dedent("\n".join(lines)))  # names may take several lines
    lines = text.splitlines()
    i, entries = 0, []
    while i < len(lines):
        inner, end = _inside(lines, i)
        name, _, text = lines[i].partition(": ") if ": " in lines[i] else (lines[i].rstrip(":"), "", "")
        body = [text, *textwrap.dedent("\n".join(inner)).splitlines()] if text else inner
        blocks = "\n\n".join(_blocks(textwrap.dedent("\n".join(body)).splitlines(), link))
        names = ", ".join(f"`{part.strip().strip('`')}`" for part in name.split(","))
        entries.append(f"{names}\n:   " + textwrap.indent(blocks, "    ").lstrip())
        i = end
    yield "\n\n".join(entries)


def _list_item(lines: list[str], link: Link) -> str:
    mark, text = re.match(r"\s*([-*•]|\d+\.) +(.*)", lines[0]).groups()
    inner = textwrap.dedent("\n".join(lines[1:])).splitlines()
    blocks = "\n\n".join(_blocks([text, *inner], link))
    mark = mark if mark.endswith(".") else "-"
    return f"{mark:<4}" + textwrap.indent(blocks, "    ").lstrip()


def _table(lines: list[str], link: Link) -> str:
    """A table drawn with ``====``: a row without a first cell goes on with the row above."""
    columns = [m.span() for m in re.finditer(r"=+", lines[0])]
    columns[-1] = (columns[-1][0], None)
    rows: list[list[str]] = []
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"[\s=]+", line)]
    for line in (line for i, line in enumerate(lines) if i not in rules):
        cells = [line[a:b].strip() for a, b in columns]
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    as_cells = [[inline(cell, link).replace("|", "\\|") for cell in row] for row in rows]
    head, *rest = ["| " + " | ".join(row) + " |" for row in as_cells]
    return "\n".join([head, "|" + "---|" * len(columns), *rest])
