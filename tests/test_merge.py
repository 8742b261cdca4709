"""``jaxtrain merge`` as a stranger meets it: runs of a file of one's own, with BatchNorm, on little data."""

import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import averaging, cli
from jaxtrain.merge import RULES
from jaxtrain.merge._place import Place
from jaxtrain.merge._runs import program_of, read_models
from jaxtrain.training.checkpoint import Checkpointer
from jaxtrain.training.run_folder import digest

EXPERIMENT = '''
"""A hidden layer with BatchNorm."""
import dataclasses, jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from jaxtrain.averaging import averaged_params, sequential_permutation_spec, swa
from jaxtrain.config import option
from jaxtrain.gradients import value_and_grad
from jaxtrain.training import Experiment, create_state, make_step
from jaxtrain.training.adapters import from_nnx, mean_objective, per_example_objective

@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = option((0, 1, 2), "members")
    rate: float = option(0.1, "learning rate")
    width: int = option(4, "hidden units")

class Net(nnx.Module):
    def __init__(self, width, rngs):
        self.one = nnx.Linear(3, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.two = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        return self.two(nnx.relu(self.norm(self.one(x))))

class Batches:
    def __init__(self): self.next = 0
    def get_state(self): return self.next
    def set_state(self, state): self.next = state
    def __next__(self):
        x = np.random.default_rng(self.next).normal(1.0, 2.0, (16, 3)).astype(np.float32)
        self.next += 1
        return {"x": x, "y": (x[:, 0] * x[:, 1] > 1).astype(np.int32)}

def permutation_spec(params):
    return sequential_permutation_spec(params, ("one", "norm", "two"))

def build(config):
    model = from_nnx(lambda rngs: Net(config.width, rngs))
    tx = optax.chain(optax.sgd(config.rate), swa(2, 1))
    def losses(logits, batch):
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]), {}
    step = make_step(value_and_grad(mean_objective(per_example_objective(model.apply, lambda b: b["x"], losses))), tx)
    def init(key, hyper):
        params, state = model.init(key)
        return create_state(params, tx, key, state)
    views = {"live": lambda s: s.params, "swa": lambda s: averaged_params(s.opt_state, s.params)}
    held = next(Batches())
    def measure(state):
        found = {}
        for view, take in views.items():
            logits, _ = model.apply(take(state), state.model_state, held["x"])
            found[f"{view}/accuracy"] = jnp.mean(logits.argmax(-1) == held["y"])
            found[f"{view}/loss"] = losses(logits, held)[0].mean()
        return found
    def evaluate(program, state):
        yield "test", program.map(measure)(state)
    return Experiment(init=init, step=lambda s, b, h: step(s, b), batches=Batches, num_steps=4, seeds=config.seeds,
                      evaluate=evaluate, checkpoint_every=2, views=views, mode="vmap")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the experiment's file, a run of three members, and runs of other rates and widths."""
    folder = tmp_path_factory.mktemp("merge")
    (folder / "tiny.py").write_text(EXPERIMENT)
    for name, words in {"a": [], "b": ["seeds=7", "rate=0.05"], "wide": ["seeds=1", "width=5"]}.items():
        words = ["--set", *words] if words else []
        assert cli.main(["run", str(folder / "tiny.py"), "--workdir", str(folder / name), "--quiet", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def module(place):
    spec = importlib.util.spec_from_file_location("tiny_for_tests", place / "tiny.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules["tiny_for_tests"] = found
    spec.loader.exec_module(found)
    return found


def _merge(place, out, *words, runs=("a",)):
    folders = [str(place / run) for run in runs]
    return cli.main(["merge", *folders, "--experiment", str(place / "tiny.py"), "--workdir", str(out), *words])


def _models(place, module, run, view="live", steps=None):
    found = read_models(place / run, module, members=None, steps=steps, view=view, live="live", label="")
    return [jax.tree.map(jnp.asarray, source.params) for source in found]


def _written(out, module, seeds=(0,), **fields):
    experiment = module.build(module.Config(seeds=seeds, **fields))
    return Checkpointer(out / "checkpoints").restore(program_of(experiment).abstract_state()).state


def _mean(models, weights=None):
    return jax.tree.map(lambda *x: np.average(np.stack([np.asarray(v, np.float64) for v in x]), 0, weights), *models)


def _close(got, want):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-7), got, want)


def test_what_is_read_are_the_models_of_the_run(place, module):
    digests = json.loads((place / "a" / "summary.json").read_text())["digests"]
    for view in ("live", "swa"):
        assert [digest(params) for params in _models(place, module, "a", view)] == digests[view]


def test_uniform_merge_of_an_ensemble(place, module, tmp_path, capsys):
    out = tmp_path / "out"
    assert _merge(place, out) == 0
    printed = capsys.readouterr().out
    for word in ("merged", "mean of models", "member 0", "member 2", "accuracy", "report:"):
        assert word in printed
    state = _written(out, module)
    _close(state.params, _mean(_models(place, module, "a")))
    # running statistics: the mean over 16 training batches, in float64
    w, b = (np.asarray(state.params["one"][k], np.float64) for k in ("kernel", "bias"))
    batches, means, variances = module.Batches(), [], []
    for _ in range(16):
        inner = next(batches)["x"].astype(np.float64) @ w + b
        means.append(inner.mean(0))
        variances.append(inner.var(0))
    # float32, see recompute_batch_stats
    np.testing.assert_allclose(state.model_state["norm"]["mean"], np.mean(means, 0), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(state.model_state["norm"]["var"], np.mean(variances, 0), rtol=5e-5)
    # what is written is what was measured: the accuracy by hand
    data = next(module.Batches())
    hidden = (data["x"] @ w + b - np.mean(means, 0)) / np.sqrt(np.mean(variances, 0) + 1e-5)
    norm, two = state.params["norm"], state.params["two"]
    logits = np.maximum(hidden * norm["scale"] + norm["bias"], 0) @ np.asarray(two["kernel"]) + two["bias"]
    summary = json.loads((out / "summary.json").read_text())
    rows = {(r["view"], r["metric"]): r for r in summary["results"]}
    assert rows["merged", "accuracy"]["mean"] == pytest.approx(np.mean(logits.argmax(-1) == data["y"]))
    own = json.loads((place / "a" / "summary.json").read_text())["results"]
    live = {r["metric"]: r["values"] for r in own if r["view"] == "live"}
    assert rows["mean of models", "loss"]["values"] == pytest.approx(live["loss"])  # as their run measured them
    made = json.loads((out / "merge.json").read_text())
    assert made["rule"] == "uniform" and [m["member"] for m in made["models"]] == [0, 1, 2]
    assert summary["digests"]["merged"] == [digest(jax.device_get(state.params))]
    assert "<svg" in (out / "report.html").read_text()


def test_the_result_is_a_run_like_any_other(place, module, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert _merge(place, first, "--members", "0,1") == 0
    assert cli.main(["report", str(first)]) == 0
    assert "merged" in capsys.readouterr().out
    folders = [str(first), str(place / "b")]
    words = ["--experiment", str(place / "tiny.py"), "--workdir", str(second)]
    assert cli.main(["merge", *folders, *words]) == 0
    a, b = _models(place, module, "a"), _models(place, module, "b")
    _close(_written(second, module).params, _mean([*a[:2], *b], [0.25, 0.25, 0.5]))
    assert cli.main(["merge", *folders, "--experiment", str(place / "tiny.py"), "--workdir", str(second)]) == 2
    assert "second is not empty" in capsys.readouterr().err
    assert cli.main(["merge", str(first), "--view", "swa", *words[:2], "--workdir", str(tmp_path / "x")]) == 2
    assert "is a merge itself: of views it has 'live' only" in capsys.readouterr().err


def test_a_rule_with_a_setting_on_averages_of_several_steps(place, module, tmp_path):
    words = ("--rule", "wise_ft", "--set", "alpha=0.25", "--steps", "all", "--view", "swa", "--members", "0")
    assert _merge(place, tmp_path / "w", *words, runs=("b", "a")) == 0
    b, a = ([_models(place, module, run, "swa", step)[0] for step in ("2", "4")] for run in ("b", "a"))
    assert (b[0]["one"]["kernel"] != b[1]["one"]["kernel"]).any()
    _close(
        _written(tmp_path / "w", module, seeds=(7,), rate=0.05).params, _mean([*b, *a], [0.75, *[0.25 / 3] * 3])
    )  # the first stays with 3/4


def test_model_stock_of_matched_models(place, module, tmp_path):
    assert _merge(place, tmp_path / "m", "--rule", "model_stock", "--match", runs=("b", "a")) == 0
    first, *others = _models(place, module, "b") + _models(place, module, "a")
    spec, matched = module.permutation_spec(first), []
    for model in others:
        order = averaging.weight_matching(jax.random.key(0), first, model, spec, solver="scipy")
        matched.append(averaging.apply_permutation(order, model, spec))
    assert any(not np.array_equal(m["one"]["bias"], o["one"]["bias"]) for m, o in zip(matched, others, strict=True))
    stock = averaging.model_stock(averaging.stack_models(matched), first)
    _close(_written(tmp_path / "m", module, seeds=(7,), rate=0.05).params, stock)
    assert "['one']['kernel']" in json.loads((tmp_path / "m" / "merge.json").read_text())["cosines"]


def test_greedy_choice(place, module, tmp_path, capsys):
    assert _merge(place, tmp_path / "g", "--rule", "greedy") == 0
    assert "greedy chose by the test data" in capsys.readouterr().out
    models = _models(place, module, "a")
    score = Place(module, module.Config(), batches=16).score
    alone, chosen, best = [score(m) for m in models], [], -np.inf
    for i in sorted(range(3), key=lambda i: (-alone[i], i)):
        mean = _mean([models[j] for j in [*chosen, i]])
        new = score(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), mean))
        if new >= best:
            chosen, best = [*chosen, i], new
    assert json.loads((tmp_path / "g" / "merge.json").read_text())["selected"] == sorted(chosen)
    results = json.loads((tmp_path / "g" / "summary.json").read_text())["results"]
    merged = next(r["mean"] for r in results if r["view"] == "merged" and r["metric"] == "accuracy")
    assert merged == pytest.approx(best) and merged >= max(alone) - 1e-7


def test_rules_of_task_vectors(place, module, tmp_path):
    """The first model is the base; against NumPy in float64."""
    first, *others = _models(place, module, "b") + _models(place, module, "a")
    leaves, structure = jax.tree.flatten(first)
    vectors = np.stack(
        [
            np.concatenate(
                [np.ravel(np.float64(x) - np.float64(b)) for x, b in zip(jax.tree.leaves(m), leaves, strict=True)]
            )
            for m in others
        ]
    )
    kept = np.where(np.abs(vectors) >= np.sort(np.abs(vectors))[:, -(vectors.shape[1] // 2), None], vectors, 0)
    sign = np.sign(kept.sum(axis=0))
    agree = np.where((np.sign(kept) == sign) & (kept != 0), kept, 0)
    want = {
        "task_arithmetic": 0.25 * vectors.sum(axis=0),
        "ties": 0.8 * agree.sum(axis=0) / np.maximum((agree != 0).sum(axis=0), 1),
    }

    def check(params, vector):
        parts = np.split(vector, np.cumsum([x.size for x in leaves])[:-1])
        shaped = [np.float64(b) + part.reshape(b.shape) for b, part in zip(leaves, parts, strict=True)]
        _close(params, structure.unflatten(shaped))

    assert _merge(place, tmp_path / "t", "--rule", "ties", "--set", "keep=0.5", "scale=0.8", runs=("b", "a")) == 0
    check(_written(tmp_path / "t", module, seeds=(7,), rate=0.05).params, want["ties"])
    stacked = averaging.stack_models([first, *others])
    check(RULES["task_arithmetic"].apply(stacked, float, scale=0.25)[0], want["task_arithmetic"])


def test_mistakes(place, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"experiment": "digits", "config": {}}')
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"experiment": "tiny", "config": {"seeds": [0], "depth": 3}}')
    for words, message in (
        ((["nowhere"], []), "nowhere does not exist"),
        (([str(tmp_path / "empty")], []), "is not the folder of a run: it has no config.json"),
        ((["a", str(other)], []), "only models of one experiment can be merged"),
        ((["a", str(bare)], []), "fields that the experiment does not have (any more): depth"),
        ((["a"], ["--rule", "uniformly"]), "there is no rule 'uniformly'; did you mean uniform?"),
        ((["a"], ["--view", "ema"]), "there is no view of tiny 'ema'; there are live, swa"),
        ((["a"], ["--members", "0,3"]), "has no member 3: it has 0 to 2"),
        ((["a"], ["--members", "first"]), "--members is numbers such as 0,2,5 or 0..3, got 'first'"),
        ((["a"], ["--steps", "3"]), "has no checkpoint of step 3; it has 2, 4"),
        ((["b"], []), "uniform needs at least 2 models, these are 1"),
        ((["a"], ["--members", "0,1", "--rule", "model_stock"]), "model_stock needs at least 3 models, these are 2"),
        ((["a", "wide"], []), "['norm']['bias'] is float32[5], expected float32[4]"),
        ((["a"], ["--rule", "wise_ft", "--set", "alhpa=1"]), "no option of wise_ft 'alhpa'; did you mean alpha?"),
        ((["a"], ["--set", "alpha=1"]), "uniform has no options, got 'alpha=1'"),
        ((["a"], ["--rule", "wise_ft", "--set", "alpha=much"]), "alpha is a number, 'much' is none"),
        ((["a"], ["--rule", "ties", "--set", "keep=2"]), "ties: keep must lie in [0.0, 1.0], got 2.0"),
        ((["a"], ["--batches", "0"]), "--batches must be at least 1, got 0"),
    ):
        folders = [str(place / f) if (place / f).is_dir() else f for f in words[0]]
        code = cli.main(
            ["merge", *folders, "--experiment", str(place / "tiny.py"), "--workdir", str(tmp_path / "out"), *words[1]]
        )
        assert code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert cli.main(["merge", str(place / "a"), "--workdir", str(tmp_path / "out")]) == 2
    assert "is a run of a file of your own; name it: --experiment tiny.py" in capsys.readouterr().err


def test_help_lists_the_rules(capsys):
    with pytest.raises(SystemExit):
        cli.main(["merge", "--help"])
    out = capsys.readouterr().out
    assert "wise_ft" in out and "[--set alpha=0.5]" in out and "model_stock" in out
