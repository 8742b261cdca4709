"""The notebooks run from top to bottom, and carry the outputs that a reader sees."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# ipykernel's own: it talks to this machine only
@pytest.mark.filterwarnings("ignore")
def test_runs_and_carries_its_outputs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "colab-badge" in notebook.cells[0].source
    assert any("image/png" in out.get("data", {}) for cell in code for out in cell.outputs), "no picture is kept"
    assert all(cell.execution_count for cell in code), "run it and keep the outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_there_are_those_that_the_readme_names():
    assert [path.stem for path in NOTEBOOKS] == ["averaging", "quickstart", "sharding"]
