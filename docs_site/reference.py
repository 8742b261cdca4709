"""The pages of the stages and of their files, with the papers that are at home there."""

import collections
import dataclasses
import functools
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_site import source
from docs_site.docstrings import Link, inline, to_markdown
from docs_site.source import Symbol
from docs_site.state_size import SIDE, Example, example_of
from jaxtrain import papers
from jaxtrain.papers import Paper, Status


@dataclasses.dataclass(frozen=True)
class Site:
    """Everything that pages are made of.

    Attributes:
      root: the clone.
      symbols: the public names by stage.
      papers: all papers of the catalogue and what there is of each.
      wrong: faults found while pages were written.
    """

    root: Path
    symbols: dict[str, list[Symbol]]
    papers: list[tuple[Paper, Status]]
    wrong: list[str] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def by_path(self) -> dict[str, Symbol]:
        """Public names, and methods of public classes, by every dotted name that leads to them."""
        found: dict[str, Symbol] = {}
        for group in self.symbols.values():
            for symbol in [*group, *(method for s in group for method in s.methods())]:
                found[symbol.path] = symbol
                found.setdefault(f"{symbol.module}.{symbol.name}", symbol)
        return found

    @functools.cached_property
    def families(self) -> dict[str, list[Symbol]]:
        """The public names of every page, functions first, and of these what papers name."""
        found = collections.defaultdict(list)
        for group in self.symbols.values():
            for symbol in group:
                found[symbol.page].append(symbol)
        named = [name for paper, _ in self.papers for name in paper.symbols]
        rank = {name: i for i, name in reversed(list(enumerate(named)))}

        def place(s: Symbol) -> tuple:
            return not s.is_function, s.is_class, s.name != s.family, rank.get(s.path, len(named)), s.node.lineno

        return {page: sorted(group, key=place) for page, group in sorted(found.items())}

    @functools.cached_property
    def homes(self) -> dict[str, str]:
        """Page and anchor of every paper with a row: the page of its name, else that of the symbol it names first."""
        found = {}
        for paper, _ in self.papers:
            if paper.symbols or paper.oracles or paper.claim:
                pages = [self.by_path[name].page for name in paper.symbols if name in self.by_path]
                named = [page for page in pages if Path(page).stem in (paper.slug, paper.claim)]
                page = [*named, *pages, f"catalogue/{paper.slug}.md"][0]
                found[paper.id] = f"{page}#{paper.id}"
        return found

    def at_home(self, page: str) -> list[tuple[Paper, Status]]:
        """The papers whose section stands on a page."""
        return [(p, s) for p, s in self.papers if self.homes.get(p.id, "").partition("#")[0] == page]

    @functools.cached_property
    def costs(self) -> dict[str, list[tuple[str, str, str]]]:
        """Committed measurements of cost: name of a function -> page in ``docs/``, head of its table, row.

        They stand in tables under a heading that begins with "Cost"; the first word of a row is the function's name.
        """
        found = collections.defaultdict(list)
        for path in sorted((self.root / "docs").glob("*.md")):
            for part in re.split(r"^#+ ", path.read_text(encoding="utf-8"), flags=re.M):
                rows = re.findall(r"^\|.*\|$", part, re.M) if part.startswith("Cost") else []
                for row in rows[2:]:
                    if word := re.match(r"\| *`?(\w+)", row):
                        found[word[1]].append((path.name, rows[0], row))
        return found

    def state_of(self, name: str) -> Example | None:
        """The state's size of the transformation that a function makes, where it makes one, and the integers chosen."""
        if name in self.by_path:
            if "GradientTransformation" not in source.signature(self.by_path[name]).rpartition("->")[2]:
                return None
        elif not name.startswith("optax."):
            return None
        return example_of(papers.find_symbol(name))

    def link(self, page: str, module: str = "", owner: str = "") -> Link:
        """Finds what a docstring of ``module`` refers to, as an address from ``page``; notes in ``wrong`` what is not there.

        Args:
          page: where the link stands.
          module: whose docstring it is; its names and imports are known without their module.
          owner: a class whose methods are known by their bare name.
        """
        imported = source.imports(self.root, module) if module else {}

        def find(name: str) -> str | None:
            name = name.removesuffix("()")
            if name == "jaxtrain":
                return relative("index.md", page)
            stage = module.split(".")[1] if "." in module else ""
            first, _, rest = name.partition(".")
            origin = f"{imported[first]}.{rest}".rstrip(".") if first in imported else name
            for candidate in (
                f"jaxtrain.{stage}.{owner}.{name}",
                f"jaxtrain.{stage}.{name}",
                f"{module}.{name}",
                origin,
            ):
                if candidate in self.by_path:
                    return relative(self.by_path[candidate].url, page)
                if candidate.removeprefix("jaxtrain.") in self.symbols:
                    return relative(f"{candidate.removeprefix('jaxtrain.')}/index.md", page)
            if module and source.defines(self.root, module, name):  # private: there, without a page
                return None
            if origin.startswith("jaxtrain."):
                parts = origin.split(".")
                if any(
                    source.defines(self.root, ".".join(parts[:cut]), ".".join(parts[cut:]))
                    for cut in range(len(parts) - 1, 0, -1)
                ):
                    return None
            elif "." in name and first not in {s.name for group in self.symbols.values() for s in group}:
                return None  # of another package
            self.wrong.append(f"a docstring of {module} refers to {name}, which there is not")
            return None

        return find


def load(root: Path) -> Site:
    """The site of a clone."""
    return Site(root, source.public(root), [(paper, papers.status_of(paper, root)) for paper in papers.load()])


def relative(target: str, page: str) -> str:
    """An address from the root of the site, seen from a page.

    >>> relative("catalogue/index.md#P001", "optimizers/soap.md")
    '../catalogue/index.md#P001'
    """
    path, _, anchor = target.partition("#")
    path = os.path.relpath(path, os.path.dirname(page) or ".") if path != page or not anchor else ""
    return path + (f"#{anchor}" if anchor else "")


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def badge(verdict: str) -> str:
    """A verdict or status in its colour."""
    return f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span>' if verdict else "—"


def pages(site: Site) -> dict[str, str]:
    """The Markdown of the stages and their files, and of papers without a file of ours."""
    overview, about = stage_texts(site.root)
    found = {"stages.md": _overview(site, overview)}
    for stage in site.symbols:
        found[f"{stage}/index.md"] = _stage_page(site, stage, about.get(stage, ""))
    for page in site.families:
        found[page] = _family_page(site, page)
    for address in site.homes.values():
        page = address.partition("#")[0]
        if page not in found:
            found[page] = _papers_page(site, page)
    return found


def stage_texts(root: Path) -> tuple[str, dict[str, str]]:
    """``docs/stages.md``: what stands before the first heading of a stage, and the text of each stage."""
    first, *parts = re.split(r"^## ", (root / "docs" / "stages.md").read_text(encoding="utf-8"), flags=re.M)
    return first, {name.strip(): text.strip() for name, _, text in (part.partition("\n") for part in parts)}


def stage_order(site: Site) -> list[str]:
    """The stages in the order of ``docs/stages.md``, then the others."""
    told = [name for name in stage_texts(site.root)[1] if name in site.symbols]
    return told + [name for name in site.symbols if name not in told]


def _overview(site: Site, text: str) -> str:
    rows = ["| stage | what it is | methods |", "|---|---|---|"]
    for stage in stage_order(site):
        said = inline(source.module_doc(site.root, f"jaxtrain.{stage}").partition("\n\n")[0])
        functions = sum(s.is_function for s in site.symbols[stage])
        rows.append(f"| [{stage}]({stage}/index.md) | {cell(said)} | {functions} |")
    return f"{text.strip()}\n\n" + "\n".join(rows) + "\n"


def _stage_page(site: Site, stage: str, about: str) -> str:
    page, module = f"{stage}/index.md", f"jaxtrain.{stage}"
    doc = to_markdown(source.module_doc(site.root, module), site.link(page, module))
    lines = [f"# jaxtrain.{stage}", "", doc, ""]
    if about:
        lines += ["## Signature", "", about, ""]
    lines += ["## Methods", "", "| page | functions |", "|---|---|"]
    for name, group in site.families.items():
        if name.startswith(f"{stage}/"):
            said = inline(source.module_doc(site.root, group[0].module).partition("\n\n")[0])
            names = [s for s in group if s.is_function] or group
            links = ", ".join(f"[`{s.name}`]({relative(s.url, page)})" for s in names)
            told = [f"**[{group[0].family}]({relative(name, page)})**", cell(said)]
            told += [
                f"[{p.id}]({relative(site.homes[p.id], page)}) {badge(s.verdict or s.label)}"
                for p, s in site.at_home(name)
            ]
            lines.append(f"| {'<br>'.join(told)} | {links} |")
    return "\n".join(lines) + "\n"


def _family_page(site: Site, page: str) -> str:
    group = site.families[page]
    module = group[0].module
    lines = [f"# {group[0].family}", "", to_markdown(source.module_doc(site.root, module), site.link(page, module)), ""]
    for paper, status in site.at_home(page):
        lines += [f"*Paper.* [{inline(paper.title)}](#{paper.id}): {badge(status.verdict or status.label)}", ""]
    elsewhere = [p for p, _ in site.papers if any(s.path in p.symbols for s in group)]
    elsewhere = [p for p in elsewhere if not site.homes[p.id].startswith(f"{page}#")]
    if elsewhere:
        links = (f"[{p.slug}]({relative(site.homes[p.id], page)})" for p in elsewhere)
        lines += ["*Also used by* " + ", ".join(links) + ".", ""]
    callables = [s for s in group if s.is_function or s.is_class]
    if callables:
        names = ", ".join(s.name for s in callables)
        if len(names) > 60:
            names = "(\n    " + ",\n    ".join(s.name for s in callables) + ",\n)"
        lines += ["```python", f"from jaxtrain.{group[0].stage} import {names}", "```", ""]
    sized = [(s, *found) for s in group if s.is_function and (found := site.state_of(s.path))]
    if sized:
        lines += [f"| | bytes of state a parameter: {SIDE} × {SIDE} float32 matrix | float32 vector of {SIDE} |"]
        lines += ["|---|---|---|"]
        for s, size, chosen in sized:
            call = f"{s.name}({chosen})" if chosen else s.name
            lines.append(f"| [`{call}`](#{s.path}) | {size.matrix:.4g} | {size.vector:.4g} |")
        lines.append("")
    for symbol in group:
        lines += _symbol(site, symbol, page)
    if site.at_home(page):
        lines += ["## Papers { #papers }", ""]
        for paper, status in site.at_home(page):
            lines += _paper(site, paper, status, page, level=3)
    return "\n".join(lines) + "\n"


def _symbol(site: Site, symbol: Symbol, page: str) -> list[str]:
    link = site.link(page, symbol.module, symbol.name)
    lines = [f"## {symbol.name} {{ #{symbol.path} }}", "", "```python", source.signature(symbol), "```", ""]
    lines += [to_markdown(symbol.doc, link), ""]
    value = papers.find_symbol(symbol.path)
    if isinstance(value, Mapping) and all(isinstance(says, str) for says in value.values()):
        lines += ["| name | says |", "|---|---|"]
        lines += [f"| {inline(str(key))} | {cell(inline(str(says)))} |" for key, says in value.items()]
        lines.append("")
    costs = site.costs.get(symbol.name, ())
    for name, head in dict.fromkeys((name, head) for name, head, _ in costs):
        lines += [f"**Cost**, from [{name.removesuffix('.md')}]({relative(name, page)})", ""]
        lines += [head, re.sub(r"[^|]+", "---", head), *(c[2] for c in costs if c[:2] == (name, head)), ""]
    for method in symbol.methods():
        lines += [f"### {method.name} {{ #{method.path} }}", "", "```python", source.signature(method), "```", ""]
        lines += [to_markdown(method.doc, link), ""]
    return lines


def _papers_page(site: Site, page: str) -> str:
    lines: list[str] = []
    for paper, status in site.at_home(page):
        lines += _paper(site, paper, status, page, level=1)
        for name in paper.symbols:
            if name not in site.by_path:
                lines += _foreign(site, name)
    return "\n".join(lines) + "\n"


def _foreign(site: Site, name: str) -> list[str]:
    """A method of another package, which a paper is served by."""
    found = papers.find_symbol(name)
    lines = [f"## {name} {{ #{name} }}", ""]
    try:
        call = [str(p.replace(annotation=p.empty)) for p in inspect.signature(found).parameters.values()]
        lines += ["```python", f"{name}({', '.join(call)})", "```", ""]
    except (TypeError, ValueError):
        pass
    lines += [f"Of {name.partition('.')[0]}, with our oracle and our measurement of its claim.", ""]
    if state := site.state_of(name):
        size, chosen = state
        lines += [
            f"State: {size.matrix:.4g} bytes a parameter for a {SIDE} × {SIDE} float32 matrix, {size.vector:.4g} for a "
            f"vector of {SIDE}" + (f" (with {chosen})." if chosen else "."),
            "",
        ]
    return lines


def _paper(site: Site, paper: Paper, status: Status, page: str, level: int) -> list[str]:
    """The section of a paper: what there is of it, its claim with numbers and picture, notes, oracles."""
    lines = [f"{'#' * level} {inline(paper.title)} {{ #{paper.id} }}", ""]
    where = f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else "no arXiv number"
    lines += [f"{paper.id} · {where} · stage {paper.stage} · {badge(status.label)}", ""]
    names = [
        f"[`{n.removeprefix('jaxtrain.')}`]({relative(site.by_path[n].url, page)})" if n in site.by_path else f"`{n}`"
        for n in paper.symbols
    ]
    lines += ["*In the library:* " + ", ".join(names) + ".", ""] if names else []
    lines += [f"*Missing:* {inline('; '.join(status.missing))}.", ""] if status.missing else []
    file = site.root / "experiments" / "results" / f"{paper.claim}.json"
    if paper.claim and file.is_file():
        lines += _claim(site, json.loads(file.read_text(encoding="utf-8")), page)
    elif paper.claim:
        lines += [f"*Claim.* Not measured yet: `jaxtrain claim {paper.claim}`.", ""]
    lines += [f"*Notes.* {inline(paper.notes)}", ""] if paper.notes else []
    if paper.oracles:
        lines += ["*Oracles.*", "", *(f"- `{oracle}`" for oracle in paper.oracles), ""]
    return lines


def comparison_row(comparison: dict[str, Any]) -> str:
    """Name, difference, margin and verdict of a comparison: cells of a table."""
    c = comparison
    numbers = f"{c['difference']:+.3g} [{c['low']:+.3g}, {c['high']:+.3g}]" if "difference" in c else c["reason"]
    scale = " (log ratio)" if c["scale"] == "log_ratio" else ""
    return f"{cell(inline(c['name']))} | {cell(inline(numbers))}{scale} | {c['margin']:g} | {badge(c['verdict'])}"


def _claim(site: Site, result: dict[str, Any], page: str) -> list[str]:
    lines = [f"*Claim.* {inline(result['says'])} {badge(result['verdict'])}", ""]
    lines += ["| compared | difference \\[95 % interval, Holm\\] | margin | verdict |", "|---|---|---|---|"]
    lines += [f"| {comparison_row(c)} |" for c in result["comparisons"]]
    lines.append("")
    if (site.root / "experiments" / "results" / f"{result['slug']}.png").is_file():
        picture = relative(f"results/{result['slug']}.png", page)
        lines += [f"![The claim of {result['slug']}]({picture})", ""]
    lines += [f"*Setup.* {inline(result['setup'])}", "", f"*Tuning.* {inline(result['tuning'])}", ""]
    lines += [f"*Claimed by* {inline(result['claimed_by'])}.", ""] if result["claimed_by"] else []
    command = f"`jaxtrain claim {result['slug']}`"
    lines += [f"{result['seeds']} seeds, {result['seconds']['total']:.0f} s; repeat it with {command}.", ""]
    return lines
