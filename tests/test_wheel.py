"""The package works outside its clone: built as a wheel, installed on its own, the main job runs."""

import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_in_an_empty_environment_runs_digits(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(n.startswith(("jaxtrain/", "jaxtrain-")) for n in names)
    assert {"jaxtrain/py.typed", "jaxtrain/papers/catalogue.jsonl", "jaxtrain/workloads/digits.py"} <= set(names)
    # an environment that holds jaxtrain alone and borrows its dependencies from this one, without the editable install
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    dependencies = [p for p in site.getsitepackages() if Path(p).is_dir()]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *dependencies]), "JAX_PLATFORMS": "cpu"}
    work = tmp_path / "elsewhere"
    work.mkdir()

    def run(*words):
        # -S: no .pth files, hence no editable install of the clone
        return subprocess.run(
            [sys.executable, "-S", "-m", "jaxtrain", *words],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            cwd=work,
        )

    where = subprocess.run(
        [sys.executable, "-S", "-c", "import jaxtrain; print(jaxtrain.__file__)"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=work,
    )
    assert where.stdout.startswith(str(tmp_path / "site")), where.stdout + where.stderr
    done = run(
        "run",
        "digits",
        "--set",
        "seeds=0,1",
        "epochs=1",
        "warmup_epochs=0",
        "max_images=32",
        "batch_size=16",
        "channels=2",
        "mode=map",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "runs" / "digits" / "report.html").is_file() and "swa" in done.stdout
    papers = run("papers", "P064")
    assert papers.returncode == 0 and "repository" in papers.stdout
    claim = run("claim", "swa")
    assert claim.returncode == 2 and "run this in a clone" in claim.stderr
