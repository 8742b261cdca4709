"""A claim of a paper, measured: arms × seeds, paired differences with intervals, a verdict by a rule fixed before.

A claim is a file ``experiments/<stage>/<slug>.py`` with a ``CLAIM``. ``jaxtrain claim SLUG`` runs it and writes
``experiments/results/SLUG.json`` and a picture; ``--smoke`` tries it in seconds and writes nothing that is kept.

The rule. For every comparison, d is the paired difference over seeds between an arm and its baseline in the direction
that is better (or the difference of logarithms). Its two-sided 95 % t interval, corrected for the number of comparisons
of the claim (Holm), lies above the margin: confirmed; below it: contradicted; else: inconclusive. Values that
are missing or not finite make a comparison inconclusive. The claim is contradicted if a comparison is, confirmed if all are.
"""

import ast
import dataclasses
import hashlib
import importlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import _ends, _stats

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Arm = Callable[[Any, bool], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One part of a claim.

    Attributes:
      name: what is claimed, in words.
      arm: the arm of which it is claimed.
      baseline: the arm against which; None: the metric itself is compared with the margin.
      metric: which number.
      better: ``higher`` or ``lower``.
      margin: by how much it must be better; negative: not worse by more than that. Fixed before the run.
      scale: ``difference`` or ``log_ratio``.
    """

    name: str
    arm: str
    baseline: str | None
    metric: str
    better: str
    margin: float = 0.0
    scale: str = "difference"

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better must be 'higher' or 'lower', got {self.better!r}")
        if self.scale not in ("difference", "log_ratio"):
            raise ValueError(f"scale must be 'difference' or 'log_ratio', got {self.scale!r}")


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is measured.

    Attributes:
      paper: its id in the registry.
      slug: name of the file and of the result.
      says: the claim, in one or two sentences.
      setup: data, model, arms and budget.
      tuning: how hyperparameters were chosen; the same budget for every arm. Where a grid ends at what was chosen the
        run says so: it is widened, or the reason stands here.
      arms: name -> ``fn(keys, smoke) -> {metric: (seeds,) or (seeds, points)}``; the same key means the same data and
        initialisation in every arm.
      comparisons: the parts of the claim.
      claimed_by: where the paper says it.
      seeds: how many.
      smoke_seeds: how many with ``--smoke``.
    """

    paper: str
    slug: str
    says: str
    setup: str
    tuning: str
    arms: Mapping[str, Arm]
    comparisons: Sequence[Comparison]
    claimed_by: str = ""
    seeds: int = 10
    smoke_seeds: int = 2

    def __post_init__(self) -> None:
        if not self.comparisons:
            raise ValueError(f"{self.slug}: a claim needs at least one comparison")
        for comparison in self.comparisons:
            for arm in (comparison.arm, comparison.baseline):
                if arm is not None and arm not in self.arms:
                    raise ValueError(f"{self.slug}: '{comparison.name}' names the arm {arm!r}, which there is not")
        if self.seeds < 2:
            raise ValueError(f"{self.slug}: an interval needs at least 2 seeds, got {self.seeds}")


def discover() -> dict[str, Path]:
    """All claims by slug."""
    files = [p for p in sorted(HERE.glob("*/*.py")) if p.parent.name not in ("benchmarks", "results")]
    return {p.stem: p for p in files if not p.stem.startswith("_")}


def title(path: Path) -> str:
    """The first line of a claim's docstring; nothing is imported."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def load(slug: str) -> Claim:
    """The claim of a slug.

    Raises:
      ValueError: the file's CLAIM has another slug.
    """
    path = discover()[slug]
    claim = importlib.import_module(f"experiments.{path.parent.name}.{slug}").CLAIM
    if claim.slug != slug:
        raise ValueError(f"{path.name} holds the claim '{claim.slug}'; file and slug are named alike")
    return claim


def judge(claim: Claim, values: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The verdict and one entry for each comparison, from the values of the arms."""

    def of(arm: str, metric: str) -> np.ndarray:
        array = np.asarray(values[arm][metric], np.float64)
        return array[:, -1] if array.ndim > 1 else array

    differences = [
        _stats.paired(
            of(c.arm, c.metric),
            None if c.baseline is None else of(c.baseline, c.metric),
            better=c.better,
            scale=c.scale,
        )
        for c in claim.comparisons
    ]
    # without a baseline, "lower is better" flips the sign of the metric, hence of the margin
    margins = [-c.margin if c.baseline is None and c.better == "lower" else c.margin for c in claim.comparisons]
    p_values = [1.0 if d is None else d.p_value(m) for d, m in zip(differences, margins, strict=True)]
    found = []
    for c, d, margin, p, level in zip(
        claim.comparisons, differences, margins, p_values, _stats.holm_levels(p_values), strict=True
    ):
        entry: dict[str, Any] = {"name": c.name, "arm": c.arm, "baseline": c.baseline, "metric": c.metric}
        entry |= {"better": c.better, "scale": c.scale, "margin": margin}
        if d is None:
            entry |= {"verdict": "inconclusive", "reason": "values are missing or not finite"}
        else:
            low, high = d.interval(level)
            entry |= {"difference": d.mean, "low": low, "high": high, "level": 1 - level, "p_value": p}
            entry["verdict"] = _stats.verdict_of_interval(low, high, margin)
        found.append(entry)
    return _stats.combine([entry["verdict"] for entry in found]), found


def measure(claim: Claim, *, seeds: int, smoke: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs every arm and judges."""
    keys = jax.vmap(jax.random.key)(np.arange(seeds, dtype=np.uint32))
    values, seconds, tuned = {}, {}, {}
    began = time.perf_counter()
    for i, (name, arm) in enumerate(claim.arms.items()):
        start = time.perf_counter()
        with _ends.recorded() as choices:
            found = jax.device_get(jax.block_until_ready(dict(arm(keys, smoke))))
        for metric, array in found.items():
            if np.ndim(array) not in (1, 2) or len(array) != seeds:
                raise ValueError(
                    f"{claim.slug}: arm '{name}' gave {metric} of shape {np.shape(array)}; one value (or curve) for each "
                    f"of the {seeds} seeds is needed"
                )
        values[name] = {metric: np.asarray(array, np.float64).tolist() for metric, array in found.items()}
        seconds[name] = round(time.perf_counter() - start, 2)
        say(f"[{i + 1}/{len(claim.arms)}] {name}: {seconds[name]:.1f} s")
        tuned |= {name: choices} if choices else {}
        for line in _ends.warnings(name, choices):
            say(line)
    verdict, comparisons = judge(claim, values)
    return {
        "paper": claim.paper,
        "slug": claim.slug,
        "says": claim.says,
        "claimed_by": claim.claimed_by,
        "setup": claim.setup,
        "tuning": claim.tuning,
        "rule": "paired differences over seeds, two-sided 95 % t intervals, Holm over the comparisons",
        "verdict": verdict,
        "comparisons": comparisons,
        "seeds": seeds,
        "seconds": seconds | {"total": round(time.perf_counter() - began, 2)},
        "tuned": tuned,
        "values": values,
        "provenance": provenance(claim),
    }


def provenance(claim: Claim) -> dict[str, Any]:
    """What the numbers came from."""
    source = discover().get(claim.slug)
    versions = {p: metadata.version(p) for p in ("jax", "jaxlib", "optax", "flax", "numpy", "scipy")}
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "command": f"jaxtrain claim {claim.slug}",
        "claim_file_sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source else None,
        "commit": commit,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "versions": versions,
    }


def table(result: Mapping[str, Any]) -> str:
    """The comparisons as text."""
    lines = [f"{result['paper']} {result['slug']}: {result['verdict'].upper()}", f"  {result['says']}"]
    for c in result["comparisons"]:
        against = f" vs {c['baseline']}" if c["baseline"] else ""
        lines.append(f"  {c['verdict']:<13} {c['name']}: {c['arm']}{against}, {c['metric']} ({c['scale']})")
        if "difference" in c:
            lines.append(
                f"                {c['difference']:+.4g} in [{c['low']:+.4g}, {c['high']:+.4g}] at {100 * c['level']:.1f} %, "
                f"margin {c['margin']:g}"
            )
        else:
            lines.append(f"                {c['reason']}")
    return "\n".join(lines)


def command(slug: str, *, smoke: bool = False, seeds: int | None = None) -> int:
    """``jaxtrain claim``: measures, prints, and writes the result unless it is only tried."""
    claim = load(slug)
    count = seeds or (claim.smoke_seeds if smoke else claim.seeds)
    if count < 2:
        print("jaxtrain claim: an interval needs at least 2 seeds", file=sys.stderr)
        return 2
    result = measure(claim, seeds=count, smoke=smoke)
    print(table(result))
    if smoke or seeds:
        print("(only tried: the committed result was not touched)")
        return 0
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{slug}.json").write_text(json.dumps(_rounded(result), indent=1, ensure_ascii=False) + "\n")
    from experiments._figures import draw

    draw(claim, result, RESULTS / f"{slug}.png")
    print(f"written: experiments/results/{slug}.json and .png")
    return 0


def _rounded(value: Any) -> Any:
    """Nine significant digits: what is stored gives the same verdict, and files stay small."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
