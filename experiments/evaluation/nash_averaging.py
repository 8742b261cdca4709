"""Nash averaging under copies of a task, and Elo with cycles, on tables made from keys."""

import functools

import jax
import jax.numpy as jnp

from experiments.harness import Claim, Comparison
from jaxtrain import evaluation as ev

AGENTS, TASKS, COPIES = 8, 10, 5


def _scores(key):
    """Agents with a common ability and a talent for each task; and the index of the easiest task."""
    ability, talent, ease = jax.random.split(key, 3)
    s = 0.3 * jax.random.normal(ability, (AGENTS, 1)) + jax.random.normal(talent, (AGENTS, TASKS))
    s = s + jax.random.normal(ease, (TASKS,))
    return s, jnp.argmax(s.mean(axis=0))


def _with_copies(s, easy):
    return jnp.concatenate([s, jnp.repeat(s[:, easy][:, None], COPIES, axis=1)], axis=1)


def _skill(s, rule):
    return s.mean(axis=1) if rule == "uniform" else ev.nash_average_agent_task(s).skill


def _cyclic_table(key):
    """Win probabilities from a strength and, as strong, a place on a circle: two numbers each, plus small noise."""
    strength, place, noise = jax.random.split(key, 3)
    r = jax.random.normal(strength, (AGENTS,))
    c = jax.random.normal(place, (AGENTS, 2))
    e = 0.1 * jax.random.normal(noise, (AGENTS, AGENTS))
    logits = r[:, None] - r + c @ jnp.array([[0.0, 1.0], [-1.0, 0.0]]) @ c.T
    return jax.nn.sigmoid(logits), jax.nn.sigmoid(logits + (e - e.T))


def _arm(keys, smoke, *, rule):
    def one(key):
        s, easy = _scores(jax.random.fold_in(key, 0))
        before, after = _skill(s, rule), _skill(_with_copies(s, easy), rule)
        order = jnp.sign(before[:, None] - before) != jnp.sign(after[:, None] - after)
        truth, seen = _cyclic_table(jax.random.fold_in(key, 1))
        if rule == "uniform":
            r = ev.elo_fit(seen)
            predicted = r[:, None] - r
        else:
            predicted = ev.multidimensional_elo(ev.win_prob_to_logits(seen), k=1)
        off = ~jnp.eye(AGENTS, dtype=bool)
        loss = jnp.sum(jnp.where(off, -truth * jax.nn.log_sigmoid(predicted), 0.0)) * 2 / off.sum()
        return {
            "moved": jnp.max(jnp.abs(after - before)),
            # pairs of agents that nothing separates are not counted as flips
            "flips": jnp.sum(order & (jnp.abs(before[:, None] - before) > 1e-5)) / 2,
            "log_loss": loss,
        }

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(jax.vmap(one))(keys))


CLAIM = Claim(
    paper="P072",
    slug="nash_averaging",
    says="Copies of a task change the ranking by mean scores; Nash averaging does not notice them. Where strength is "
    "partly cyclic, mElo predicts wins that Elo cannot.",
    setup=f"{AGENTS} agents with an ability (standard deviation 0.3) and a talent for each of {TASKS} tasks (1); then "
    f"{COPIES} copies of the easiest task. Uniform: mean score and Elo; Nash: Nash averaging in float64 and mElo with one "
    "cycle. Log-loss in nats a game against the true probabilities, from probabilities with noise of 0.14 in log odds. 'Does "
    "not notice': no skill moves by 1e-6.",
    tuning="nothing to tune",
    arms={"uniform": functools.partial(_arm, rule="uniform"), "nash": functools.partial(_arm, rule="nash")},
    comparisons=(
        Comparison(
            "copies reorder at least one pair by mean scores, on average", "uniform", None, "flips", "higher", 1.0
        ),
        Comparison("Nash averaging does not move", "nash", None, "moved", "lower", 1e-6),
        Comparison("mElo predicts better than Elo", "nash", "uniform", "log_loss", "lower", 0.0),
    ),
    seeds=20,
    claimed_by="arXiv 1806.02643: redundant tasks, and the multidimensional Elo",
)
