"""The other pages: start, papers, claims, contract kit, command line, notebooks and the pages of ``docs/``."""

import base64
import contextlib
import io
import json
import os
import re
from pathlib import Path

from docs_site.docstrings import inline
from docs_site.reference import Site, badge, cell, comparison_row, relative
from jaxtrain import cli, papers, testing
from jaxtrain.workloads import NAMES

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages(site: Site) -> dict[str, str | bytes]:
    """Markdown and pictures by their path in the site."""
    found: dict[str, str | bytes] = {
        "index.md": start_page(site),
        "catalogue/index.md": papers_table(site),
        "claims.md": claims_table(site),
        "contract.md": contract_page(site),
        "cli.md": command_line_page(),
    }
    for path in sorted((site.root / "docs").glob("*.md")):
        if path.name != "stages.md":  # its parts stand on the pages of the stages
            found[path.name] = repository_links(path.read_text(encoding="utf-8"), path.name, "docs")
    for path in sorted((site.root / "notebooks").glob("*.ipynb")):
        found |= notebook(path)
    for path in sorted((site.root / "experiments" / "results").glob("*.png")):
        found[f"results/{path.name}"] = path.read_bytes()
    return found


def repository_links(text: str, page: str, folder: str) -> str:
    """Links between files of the repository become links between pages; what is no page keeps its text alone.

    >>> repository_links("[a](../experiments/README.md), [b](../LICENSE), [c](https://x.org)", "a.md", "docs")
    '[a](claims.md), b, [c](https://x.org)'
    """

    def convert(found: re.Match[str]) -> str:
        picture, shown, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        to = _page_of(os.path.normpath(os.path.join(folder, path)))
        if to is None:
            return shown
        return f"{picture}[{shown}]({relative(to, page)}{'#' + anchor if anchor else ''})"

    return _LINK.sub(convert, text)


def _page_of(path: str) -> str | None:
    known = {"README.md": "index.md", "experiments/README.md": "claims.md"}
    if path in known:
        return known[path]
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    if (folder, ending) == ("docs", ".md"):
        return name
    if (folder, ending) == ("notebooks", ".ipynb"):
        return f"notebooks/{stem}.md"
    return f"results/{name}" if (folder, ending) == ("experiments/results", ".png") else None


def start_page(site: Site) -> str:
    """The README; in place of its table of papers stand the numbers of them."""
    text = (site.root / "README.md").read_text(encoding="utf-8")
    counts = {label: sum(s.label == label for _, s in site.papers) for label in papers.STATUSES}
    verdicts = [s.verdict for _, s in site.papers if s.label == "complete"]
    numbers = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
    table = (
        f"Of the {len(site.papers)} papers of the [catalogue](catalogue/index.md) {counts['complete']} are complete and "
        f"{counts['partial']} begun. Their [claims](claims.md), measured: {numbers}. The methods stand under "
        "[stages](stages.md); the laws that they keep are those of the [contract kit](contract.md)."
    )
    text = re.sub(r"<!-- papers -->.*<!-- /papers -->", lambda _: table, text, flags=re.S)
    return repository_links(text, "index.md", "")


def papers_table(site: Site) -> str:
    """All papers; a script puts a search field and filters above the table."""
    lines = ["# Papers", "", "The catalogue: every paper, and what the library has of it.", ""]
    lines += ["<div class='filterable' markdown>", ""]
    lines += ["| id | paper | stage | status | claim | arXiv |", "|---|---|---|---|---|---|"]
    for paper, status in site.papers:
        title = cell(inline(paper.title))
        if paper.id in site.homes:
            title = f"[{title}]({relative(site.homes[paper.id], 'catalogue/index.md')})"
        stage = f"[{paper.stage}](../{paper.stage}/index.md)" if paper.stage in site.symbols else paper.stage
        arxiv = f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else "—"
        lines.append(f"| {paper.id} | {title} | {stage} | {badge(status.label)} | {badge(status.verdict)} | {arxiv} |")
    return "\n".join([*lines, "", "</div>"]) + "\n"


def claims_table(site: Site) -> str:
    """Every comparison of every measured claim."""
    lines = ["# Claims, measured", "", _rule(site.root), "", "<div class='filterable' markdown>", ""]
    lines += ["| claim | verdict | compared | difference \\[95 % interval, Holm\\] | margin | part |"]
    lines.append("|---|---|---|---|---|---|")
    for paper, _ in site.papers:
        file = site.root / "experiments" / "results" / f"{paper.claim}.json"
        if paper.claim and file.is_file():
            result = json.loads(file.read_text(encoding="utf-8"))
            name = f"[{paper.claim}]({relative(site.homes[paper.id], 'claims.md')}) | {badge(result['verdict'])}"
            lines += [f"| {name} | {comparison_row(comparison)} |" for comparison in result["comparisons"]]
    return "\n".join([*lines, "", "</div>"]) + "\n"


def _rule(root: Path) -> str:
    import ast

    doc = ast.get_docstring(ast.parse((root / "experiments" / "harness.py").read_text(encoding="utf-8"))) or ""
    return "\n\n".join(inline(part) for part in doc.split("\n\n"))


def contract_page(site: Site) -> str:
    """The laws of every signature, and what checks them."""
    lines = ["# The contract kit", "", f"{inline(testing.__doc__ or '')}", ""]
    lines += [
        "`jaxtrain.testing` checks them with one call for each signature: a `check_…` raises with everything that is "
        "broken, a `find_…` returns it. Methods of this library, of optax and of yours are treated alike.",
        "",
    ]
    for symbol in site.symbols["testing"]:
        if symbol.name.endswith("_LAWS"):
            title = symbol.name.removesuffix("_LAWS").replace("_", " ").lower()
            lines += [
                f"## {title.capitalize()}",
                "",
                f"[`{symbol.name}`]({symbol.url})",
                "",
                "| law | says |",
                "|---|---|",
            ]
            laws = getattr(testing, symbol.name)
            lines += [f"| {name} | {cell(inline(says))} |" for name, says in laws.items()]
            lines.append("")
    lines += ["## Functions", ""]
    lines += [f"- [`{s.name}`]({s.url}): {inline(s.summary)}" for s in site.symbols["testing"] if s.is_function]
    return "\n".join(lines) + "\n"


def command_line_page() -> str:
    """The help of every command, as a terminal shows it."""
    lines = ["# Command line", ""]
    commands = ["", *_commands(), *(f"run {name}" for name in NAMES)]
    for command in commands:
        lines += [f"## jaxtrain {command}".rstrip(), "", "```text", _help(command.split()), "```", ""]
    return "\n".join(lines) + "\n"


def _commands() -> list[str]:
    """The commands that the first line of the help names: ``run | report | …`` of the module's docstring."""
    first = re.search(r"``jaxtrain (.*?)``", cli.__doc__ or "")
    return [name.strip() for name in first[1].split("|")] if first else []


def _help(words: list[str]) -> str:
    out = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    return out.getvalue().rstrip()


def notebook(path: Path) -> dict[str, str | bytes]:
    """A notebook with its stored outputs as Markdown and pictures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    files: dict[str, str | bytes] = {}
    lines: list[str] = []
    for number, part in enumerate(cells):
        text = "".join(part["source"])
        if part["cell_type"] == "markdown":
            # pictures from elsewhere (badges) are not fetched by readers of this site
            lines += [
                repository_links(
                    re.sub(r"\[!\[[^\]]*\]\(http[^)]*\)\]\([^)]*\)", "", text), f"notebooks/{path.stem}.md", "notebooks"
                ),
                "",
            ]
            continue
        lines += ["```python", text, "```", ""]
        for place, output in enumerate(part.get("outputs", [])):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{number}_{place}.png"
                files[f"notebooks/{name}"] = base64.b64decode("".join(data["image/png"]))
                lines += [f"![Output]({name})", ""]
            elif shown := "".join(output.get("text", data.get("text/plain", ""))):
                lines += ["```text", shown.rstrip(), "```", ""]
    files[f"notebooks/{path.stem}.md"] = "\n".join(lines) + "\n"
    return files
