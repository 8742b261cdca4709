"""``python -m docs_site``: writes the pages to ``build/docs``, builds ``site/`` with MkDocs, checks it.

Exit code 1 with a message for every fault: a public name without docstring or page, a reference or formula that leads
nowhere, a complete paper without a page, a dead link or anchor.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

from docs_site import library, links, reference, source
from docs_site.reference import Site

ROOT = Path(__file__).parents[1]


def write(site: Site, folder: Path) -> None:
    """All pages, pictures and the configuration of MkDocs into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = reference.pages(site) | library.pages(site)
    for name, content in pages.items():
        path = folder / "pages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    here = Path(__file__).parent
    shutil.copytree(here / "assets", folder / "pages" / "assets")
    font = importlib.util.find_spec("ziamath")  # carries STIX Two Math: mathematics looks alike everywhere
    if font is not None:
        shutil.copy(Path(font.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf", folder / "pages" / "assets")
    settings = {
        "docs_dir": str(folder / "pages"),
        "site_dir": str(site.root / "site"),
        "hooks": [str(here / "mathematics.py")],
        "nav": navigation(site, pages),
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]  # JSON is YAML
    text = (here / "mkdocs.yml").read_text(encoding="utf-8")
    (folder / "mkdocs.yml").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def navigation(site: Site, pages: dict[str, str | bytes]) -> list:
    """The menu: every page once."""
    stages = [
        {stage: [f"{stage}/index.md", *({Path(p).stem: p} for p in site.families if p.startswith(f"{stage}/"))]}
        for stage in reference.stage_order(site)
    ]
    own = [{Path(p).stem: p} for p in sorted(pages) if p.startswith("catalogue/") and p != "catalogue/index.md"]
    menu = [
        {"Start": "index.md"},
        {"Stages": ["stages.md", *stages]},
        {"Papers": ["catalogue/index.md", *own]},
        {"Claims": "claims.md"},
        {"Contract kit": "contract.md"},
        {"Command line": "cli.md"},
        {"Notebooks": [p for p in sorted(pages) if p.startswith("notebooks/") and p.endswith(".md")]},
    ]
    told = json.dumps(menu)
    more = [p for p in sorted(pages) if p.endswith(".md") and f'"{p}"' not in told]
    return [*menu, {"More": more}] if more else menu


def build(settings: Path) -> None:
    """Lets MkDocs build; its warnings are errors."""
    from mkdocs.commands.build import build as make
    from mkdocs.config import load_config

    config = load_config(str(settings), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    make(config)


def faults(site: Site, built: Path) -> list[str]:
    """What is wrong with the built site, a message each."""
    found = links.dead_links(built)
    known = links.anchors(built)
    for group in site.symbols.values():
        found += [f"{symbol.path} has no page" for symbol in group if symbol.path not in known]
    found += [
        f"{paper.id} ({paper.slug}) is complete and has no page"
        for paper, status in site.papers
        if status.label == "complete" and paper.id not in known
    ]
    return found


def main() -> int:
    """Builds the site; returns the exit code."""
    try:
        site = reference.load(ROOT)
        write(site, ROOT / "build" / "docs")
        wrong = source.undocumented(site.symbols) + list(dict.fromkeys(site.wrong))
    except source.SourceError as error:
        wrong = [str(error)]
    if not wrong:
        try:
            build(ROOT / "build" / "docs" / "mkdocs.yml")
        except SystemExit:  # of MkDocs: it has said what its warnings were
            return 1
        except ValueError as error:  # of mathematics.py
            wrong = [str(error)]
        wrong = wrong or faults(site, ROOT / "site")
    for message in wrong:
        print(f"docs: {message}", file=sys.stderr)
    if wrong:
        return 1
    print("docs: site/index.html (the search needs a server: python -m http.server -d site)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
