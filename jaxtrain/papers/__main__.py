"""``python -m jaxtrain.papers README.md``: writes the table of what is complete between the file's markers."""

import re
import sys
from pathlib import Path

from jaxtrain.papers.command import as_overview
from jaxtrain.papers.registry import load, status_of


def main(path: Path) -> None:
    """Rewrites what stands between ``<!-- papers -->`` and ``<!-- /papers -->``."""
    table = as_overview([(paper, status_of(paper)) for paper in load()])
    text = path.read_text(encoding="utf-8")
    block = f"<!-- papers -->\n{table}\n<!-- /papers -->"
    new, count = re.subn(r"<!-- papers -->\n.*<!-- /papers -->", lambda _: block, text, flags=re.S)
    if not count:
        sys.exit(f"{path} has no markers <!-- papers --> … <!-- /papers -->")
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "README.md"))
