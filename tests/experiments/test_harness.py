"""The statistics are SciPy's and the textbook's; the rule does what it says; the committed results are its own."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import _ends, _stats, harness, readme, supervised


def _claim(arms, *comparisons, seeds=8):
    return harness.Claim("P000", "toy", "says", "setup", "tuning", arms, comparisons, seeds=seeds)


def _arm(values):
    return lambda keys, smoke: {"score": np.asarray(values, float)[: len(keys)]}


def test_intervals_and_p_values_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 1.0, 12), rng.normal(0.5, 1.0, 12)
    d = _stats.paired(a, b, better="higher", scale="difference")
    reference = stats.ttest_rel(a, b)
    np.testing.assert_allclose(d.p_value(0.0), reference.pvalue, rtol=1e-12)
    np.testing.assert_allclose(d.interval(0.05), reference.confidence_interval(0.95), rtol=1e-12)
    ratio = _stats.paired(np.exp(a), np.exp(b), better="lower", scale="log_ratio")
    np.testing.assert_allclose(ratio.mean, (b - a).mean(), rtol=1e-12)


def test_holm_by_hand():
    # Holm (1979): 0.01 ≤ 0.05/4, 0.013 ≤ 0.05/3, 0.03 > 0.05/2: the rest stay at that level
    assert _stats.holm_levels([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        low, high = _stats.paired(rng.normal(0.3, 1, 6), np.zeros(6), better="higher", scale="difference").interval(
            0.05
        )
        covered += low < 0.3 < high
    # binomial: 1900 ± 9.7; four standard deviations
    assert abs(covered - 1900) < 40


@pytest.mark.parametrize(
    "low, high, margin, verdict",
    [(0.1, 0.2, 0.0, "confirmed"), (-0.2, -0.1, 0.0, "contradicted"), (-0.1, 0.1, 0.0, "inconclusive"),
     (-0.05, 0.1, -0.1, "confirmed"), (0.0, 0.1, 0.0, "inconclusive")],
)  # fmt: skip
def test_rule(low, high, margin, verdict):
    assert _stats.verdict_of_interval(low, high, margin) == verdict


def test_combination():
    assert _stats.combine(["confirmed", "confirmed"]) == "confirmed"
    assert _stats.combine(["confirmed", "inconclusive"]) == "inconclusive"
    assert _stats.combine(["confirmed", "contradicted", "inconclusive"]) == "contradicted"
    assert _stats.combine([]) == "inconclusive"


def test_degenerate_values_are_handled_honestly():
    better = harness.Comparison("better", "a", "b", "score", "higher")
    same = _claim({"a": _arm(range(8)), "b": _arm(range(8))}, better)
    assert harness.measure(same, seeds=8, smoke=False, say=lambda _: None)["verdict"] == "inconclusive"
    constant = _claim({"a": _arm(np.arange(8) + 1.0), "b": _arm(range(8))}, better)
    result = harness.measure(constant, seeds=8, smoke=False, say=lambda _: None)
    assert result["verdict"] == "confirmed" and result["comparisons"][0]["low"] == 1.0
    broken = _claim({"a": _arm([np.nan] + [1.0] * 7), "b": _arm(range(8))}, better)
    result = harness.measure(broken, seeds=8, smoke=False, say=lambda _: None)
    assert result["verdict"] == "inconclusive" and "not finite" in result["comparisons"][0]["reason"]
    absolute = _claim(
        {"a": _arm(np.full(8, 0.2) + 0.01 * np.arange(8))},
        harness.Comparison("small", "a", None, "score", "lower", 0.5),
    )
    assert harness.measure(absolute, seeds=8, smoke=False, say=lambda _: None)["verdict"] == "confirmed"


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="names the arm 'c', which there is not"):
        _claim({"a": _arm([1])}, harness.Comparison("x", "c", None, "score", "higher"))
    with pytest.raises(ValueError, match="at least one comparison"):
        _claim({"a": _arm([1])})
    with pytest.raises(ValueError, match="better must be"):
        harness.Comparison("x", "a", None, "score", "bigger")
    wrong = _claim(
        {"a": lambda keys, smoke: {"score": np.ones(3)}}, harness.Comparison("x", "a", None, "score", "higher")
    )
    with pytest.raises(ValueError, match=r"shape \(3,\); one value \(or curve\) for each of the 8 seeds"):
        harness.measure(wrong, seeds=8, smoke=False, say=lambda _: None)


def test_arms_get_the_same_typed_keys():
    seen = []

    def arm(keys, smoke):
        seen.append(jax.random.key_data(keys).tolist())
        assert smoke
        return {"score": jax.vmap(jax.random.uniform)(keys)}

    harness.measure(
        _claim({"a": arm, "b": arm}, harness.Comparison("x", "a", "b", "score", "higher")),
        seeds=3,
        smoke=True,
        say=lambda _: None,
    )
    assert seen[0] == seen[1] and len({tuple(k) for k in seen[0]}) == 3


def test_a_grid_that_ends_at_what_was_chosen_is_seen():
    said = []

    def arm(keys, smoke):
        low = supervised.best(lambda key, value: (value - 3) ** 2, (1.0, 2.0, 3.0))
        pair = supervised.best(lambda key, v: v[0] ** 2 + (v[1] - 2) ** 2, [(a, b) for a in range(3) for b in range(4)])
        assert low == 3 and pair.tolist() == [0, 2]
        return {"score": np.arange(len(keys))}

    claim = _claim({"a": arm}, harness.Comparison("x", "a", None, "score", "higher"))
    result = harness.measure(claim, seeds=8, smoke=False, say=said.append)
    assert result["tuned"]["a"] == [
        {"chosen": [3.0], "low": [1.0], "high": [3.0], "at_end": [True]},
        # zero is no end: nothing lies beyond it
        {"chosen": [0.0, 2.0], "low": [0.0, 0.0], "high": [2.0, 3.0], "at_end": [False, False]},
    ]
    assert said[1:] == ["a: the grid from 1 to 3 ends at what was chosen, 3"]
    with _ends.recorded() as choices:
        _ends.note(1.0, (1.0, 2.0))
    assert not choices[0]["at_end"][0]  # of two values each is an end


CLAIMS = list(harness.discover())


@pytest.mark.parametrize("slug", CLAIMS)
def test_committed_results_are_what_the_claim_says_now(slug):
    """Slug, arms and comparisons agree, and the stored values give the stored verdict by the rule."""
    claim = harness.load(slug)
    result = json.loads((harness.RESULTS / f"{slug}.json").read_text())
    assert (result["slug"], result["paper"], result["seeds"]) == (slug, claim.paper, claim.seeds)
    assert (result["says"], result["setup"], result["tuning"]) == (claim.says, claim.setup, claim.tuning)
    assert set(result["values"]) == set(claim.arms)
    verdict, comparisons = harness.judge(claim, result["values"])
    assert verdict == result["verdict"]
    assert [(c["name"], c["verdict"]) for c in comparisons] == [
        (c["name"], c["verdict"]) for c in result["comparisons"]
    ]
    # stored with nine digits
    assert [c["margin"] for c in comparisons] == pytest.approx([c["margin"] for c in result["comparisons"]], rel=1e-8)
    assert (harness.RESULTS / f"{slug}.png").stat().st_size < 60_000
    # results of earlier runs do not have what was chosen
    at_end = [line for arm, choices in result.get("tuned", {}).items() for line in _ends.warnings(arm, choices)]
    assert not at_end or " end" in claim.tuning, f"widen the grid or say in `tuning` why it ends there: {at_end}"


def test_the_page_is_generated_from_the_results():
    assert (harness.HERE / "README.md").read_text() == readme.text(), "run: make readme"
