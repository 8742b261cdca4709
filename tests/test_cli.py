"""The command line as a stranger meets it: in this process, on tiny configurations."""

import dataclasses
import json
import re
import sys

import jax
import pytest

from jaxtrain import cli
from jaxtrain.config import ConfigError, apply_settings, describe, option

DIGITS = [
    "--set",
    "seeds=0,1",
    "epochs=2",
    "warmup_epochs=1",
    "max_images=32",
    "batch_size=16",
    "channels=2",
    "mode=map",
]
BYTES = ["steps=4", "batch_size=8", "length=8", "width=8", "layers=1", "heads=1", "eval_batches=1", "warmup=1"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert cli.main(["run", "digits", "--workdir", str(folder), *DIGITS]) == 0
    return folder


def test_run_report_and_compare(digits, tmp_path, capsys):
    assert cli.main(["run", "digits", "--workdir", str(digits), *DIGITS]) == 0
    out = capsys.readouterr().out
    assert "holds a finished run" in out and "switch_ema" in out and "calibration error" in out and "± " in out
    page = (digits / "report.html").read_text()
    assert page.count("<svg") == 3 and "http" not in re.sub(
        r'xmlns(:\w+)?="[^"]+"|rdf:\w+="[^"]+"|<!DOCTYPE[^>]+>', "", page
    )
    for word in ("accuracy", "calibration error", "learning_rate", "jaxlib", "SHA-256", "Members", "Costs"):
        assert word in page
    summary = json.loads((digits / "summary.json").read_text())
    assert {r["view"] for r in summary["results"]} == {"live", "swa", "switch_ema"}
    assert all(len(d) == 2 for d in summary["digests"].values())
    other = tmp_path / "other"
    assert cli.main(["run", "digits", "--workdir", str(other), *DIGITS, "learning_rate=0.001", "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(["report", str(digits), str(other), "--output", str(tmp_path / "both.html")]) == 0
    out = capsys.readouterr().out
    assert "digits" in out and "other" in out
    assert "other: test swa" in (tmp_path / "both.html").read_text()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "has no metrics.csv" in capsys.readouterr().err


def test_the_same_configuration_gives_the_same_bits(digits, tmp_path):
    assert cli.main(["run", "digits", "--workdir", str(tmp_path / "again"), *DIGITS, "--quiet"]) == 0
    digests = [json.loads((f / "summary.json").read_text())["state_digest"] for f in (digits, tmp_path / "again")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "more", [["fsdp=2", "tensor=2", "heads=2"], ["accumulate=2", "bfloat16=true"], ["seeds=0..1", "mode=vmap"]]
)
def test_bytes_on_eight_devices(more, tmp_path, capsys):
    assert cli.main(["run", "bytes", "--devices", "8", "--workdir", str(tmp_path / "b"), "--set", *BYTES, *more]) == 0
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    bits = [r["mean"] for r in summary["results"] if r["metric"] == "bits_per_byte"]
    assert len(bits) == 2 and all(5 < b < 9 for b in bits)  # four steps from 8 bits


EXPERIMENT = '''
"""A line through two points."""
import dataclasses, jax, jax.numpy as jnp, optax
from jaxtrain.config import option
from jaxtrain.core import Aux
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import Experiment, create_state, make_step

@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = option(0.1, "learning rate")
    steps: int = option(5, "steps")

class Same:
    def __next__(self): return jnp.ones((2, 1))
    def get_state(self): return None
    def set_state(self, state): pass

def build(config):
    tx = optax.sgd(config.rate)
    step = make_step(value_and_grad(lambda w, s, x, k: (jnp.mean((w * x - 1) ** 2), Aux(s, {}))), tx)
    return Experiment(init=lambda key, hyper: create_state(jnp.zeros(1), tx, key), step=lambda s, b, h: step(s, b),
                      batches=Same, num_steps=config.steps, log_every=1)
'''


def test_a_file_of_ones_own(tmp_path, capsys):
    file = tmp_path / "line.py"
    file.write_text(EXPERIMENT)
    assert cli.main(["run", str(file), "--workdir", str(tmp_path / "r"), "--set", "rate=0.5"]) == 0
    last = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[-1]
    assert last.startswith("5,train,loss,0,0")  # a step of 0.5 lands on the minimum
    assert cli.main(["run", str(file), "--help"]) == 0
    out = capsys.readouterr().out
    assert "rate=0.1" in out and "float: learning rate" in out and "A line through two points" in out
    (tmp_path / "bad.py").write_text("Config = 1\n")
    assert cli.main(["run", str(tmp_path / "bad.py")]) == 2
    assert "bad.py has no build" in capsys.readouterr().err
    bare = EXPERIMENT.replace('rate: float = option(0.1, "learning rate")', "rate: float")
    (tmp_path / "bare.py").write_text(bare)
    assert cli.main(["run", str(tmp_path / "bare.py")]) == 2
    assert "every field of Config needs a default, rate has none" in capsys.readouterr().err


def test_a_file_named_like_a_package_with_a_neighbour(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_mine.py").write_text("TWICE = 2\n")
    (tmp_path / "optax.py").write_text("import neighbour_of_mine\n" + EXPERIMENT)
    import optax

    assert cli.main(["run", str(tmp_path / "optax.py"), "--workdir", str(tmp_path / "r"), "--quiet"]) == 0
    assert sys.modules["optax"] is optax


@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "digit"], "there is no workload 'digit'; did you mean digits?"),
        (["run", "nowhere.py"], "there is no file nowhere.py"),
        (["run", "digits", "--set", "epoch=3"], "there is no field 'epoch'; did you mean epochs"),
        (["run", "digits", "--set", "epochs=many"], "epochs is a field of type int, 'many' is none"),
        (["run", "digits", "--set", "epochs"], "a setting is written key=value, got 'epochs'"),
        (["run", "digits", "--set", "optimizer=adamv"], "there is no optimizer 'adamv'; did you mean adamw"),
        (["claim", "swaa"], "there is no claim 'swaa'; did you mean swa"),
        (["bench", "stepp"], "there is no benchmark 'stepp'; did you mean step"),
        (["run", "digits", "--set", "epochs=1"], "digits: warmup_epochs must lie below epochs, got 2 and 1"),
        (["run", "digits", "--set", "seeds="], "digits: an ensemble needs at least one seed"),
        (["run", "digits", "--set", "mode=vmpa"], "digits: mode must be one of"),
        (["run", "bytes", "--devices", "3"], "--devices 3: JAX is in use already with 8 devices"),
    ],
)
def test_mistakes_get_the_nearest_match(words, message, capsys):
    jax.devices()
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_help_and_list(capsys):
    assert cli.main(["run", "digits", "--help"]) == 0
    out = capsys.readouterr().out
    fields = dataclasses.fields(cli.load_workload("digits")[1].Config)
    assert all(f.name + "=" in out and f.metadata["doc"] in out for f in fields)
    assert "130" in out and "SIGTERM" in out
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "digits" in out and "swa" in out and "step" in out
    assert cli.main(["run"]) == 2


@dataclasses.dataclass(frozen=True)
class Config:
    n: int = option(1, "a number")
    x: float = option(0.5, "another")
    flag: bool = option(False, "yes or no")
    name: str = option("a", "a word")
    sizes: tuple[int, ...] = option((1, 2), "several")
    limit: float | None = option(None, "or none")


def test_values_are_read_by_type():
    words = ["n=1e3", "x=1e-3", "flag=yes", "name=b c", "sizes=3,4", "limit=2"]
    assert apply_settings(Config(), words) == Config(1000, 0.001, True, "b c", (3, 4), 2.0)
    assert apply_settings(Config(limit=3.0), ["limit=none", "sizes=0..3"]) == Config(sizes=(0, 1, 2, 3))
    for word in ("n=1.5", "flag=perhaps", "sizes=1,b", "x=one", "limit=some"):
        with pytest.raises(ConfigError, match="is a field of type"):
            apply_settings(Config(), [word])
    assert "limit=None" in describe(Config()) and "float or None: or none" in describe(Config())
