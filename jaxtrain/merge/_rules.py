"""The rules by which a stack of models becomes one, and their options."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtrain import averaging
from jaxtrain.config import nearest
from jaxtrain.core import Params


class MergeError(ValueError):
    """The models cannot be merged in this way; says why and what can."""


Score = Callable[[Params], float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a stack of models becomes one.

    Attributes:
      doc: one line.
      apply: ``(stacked, score, **options) -> (params, notes)``.
      minimum: fewest models.
      options: numbers that ``--set`` changes, with their defaults.
      scores: whether it asks for the score of candidates.
    """

    doc: str
    apply: Callable[..., tuple[Params, dict[str, Any]]]
    minimum: int = 2
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scores: bool = False


def _split(stacked: Params) -> tuple[Params, Params]:
    """The first model, and the stack of the others."""
    return jax.tree.map(lambda x: x[0], stacked), jax.tree.map(lambda x: x[1:], stacked)


def _greedy(stacked: Params, score: Score) -> tuple[Params, dict[str, Any]]:
    # an evaluation goes over data on the host
    params, selected = averaging.greedy_soup(stacked, score, host=True)
    return params, {"selected": np.flatnonzero(selected).tolist()}


def _wise_ft(stacked: Params, score: Score, *, alpha: float) -> tuple[Params, dict[str, Any]]:
    first, others = _split(stacked)
    return averaging.wise_ft(first, averaging.soup(others), alpha=alpha), {}


def _model_stock(stacked: Params, score: Score) -> tuple[Params, dict[str, Any]]:
    first, others = _split(stacked)
    cosines = averaging.model_stock_cosine(others, first)
    named = {jax.tree_util.keystr(p): float(c) for p, c in jax.tree_util.tree_leaves_with_path(cosines)}
    return averaging.model_stock(others, first), {"cosines": named}


def _task_arithmetic(stacked: Params, score: Score, *, scale: float) -> tuple[Params, dict[str, Any]]:
    first, others = _split(stacked)
    return averaging.task_arithmetic(others, first, scale), {}


def _ties(stacked: Params, score: Score, *, keep: float, scale: float) -> tuple[Params, dict[str, Any]]:
    first, others = _split(stacked)
    return averaging.ties(others, first, keep=keep, scale=scale), {}


RULES: Mapping[str, Rule] = {
    "uniform": Rule("the mean of all models (uniform soup)", lambda stacked, score: (averaging.soup(stacked), {})),
    "greedy": Rule("the mean of those that raise the score, the best first (greedy soup)", _greedy, scores=True),
    "wise_ft": Rule(
        "from the first model towards the mean of the others, by alpha (WiSE-FT)", _wise_ft, options={"alpha": 0.5}
    ),
    "model_stock": Rule("the first model is the anchor of the others (Model Stock)", _model_stock, minimum=3),
    "task_arithmetic": Rule(
        "the first model and what the others add to it, times scale (task arithmetic)",
        _task_arithmetic,
        options={"scale": 0.3},
    ),
    "ties": Rule(
        "the same of each one's largest entries (keep: their share) where signs agree (TIES)",
        _ties,
        options={"keep": 0.2, "scale": 1.0},
    ),
    "variance_corrected": Rule(
        "the mean with the variance of every tensor restored",
        lambda stacked, score, eps: (averaging.variance_corrected_average(stacked, eps=eps), {}),
        options={"eps": 0.0},
    ),
}
"""What ``jaxtrain merge --rule`` knows, by name."""


def read_options(rule: Rule, name: str, settings: Sequence[str]) -> dict[str, float]:
    """A rule's options with ``key=value`` words applied."""
    options = dict(rule.options)
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals:
            raise MergeError(f"a setting is written key=value, got '{word}'")
        if key not in options:
            known = list(options)
            raise MergeError(
                nearest(key, known, f"option of {name}") if known else f"{name} has no options, got '{word}'"
            )
        try:
            options[key] = float(text)
        except ValueError:
            raise MergeError(f"{key} is a number, '{text}' is none") from None
    return options
