"""Dead links and anchors of a folder of HTML pages."""

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for key in ("id", "name") if tag == "a" else ("id",):
            if values.get(key):
                self.ids.add(values[key])
        for key in ("href", "src"):
            if values.get(key):
                self.targets.append(values[key])


def read(site: Path) -> dict[Path, _Page]:
    """Every page of the folder."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.resolve()] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    return pages


def anchors(site: Path) -> set[str]:
    """All anchors of all pages."""
    return set().union(*(page.ids for page in read(site).values()))


def dead_links(site: Path) -> list[str]:
    """A message for every link inside the folder to a file or an anchor that there is not."""
    pages, found = read(site), []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute: nobody knows from where it is shown
            continue
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith(("data:", "mailto:")):
                continue
            to = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            where = path.relative_to(site.resolve())
            if not to.exists():
                found.append(f"{where}: dead link {target}")
            elif parts.fragment and to in pages and unquote(parts.fragment) not in {*pages[to].ids, "__toc"}:
                found.append(f"{where}: dead anchor {target}")
    return found
