"""DPO on images made scale by scale: do samples move to what is preferred, and what does it cost?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import supervised as s
from experiments.harness import Claim, Comparison
from experiments.losses._tuned import at_its_best
from experiments.optimizers._arms import around
from jaxtrain.losses import dpo_loss, dpo_with_sft_loss, multiscale_token_logprob

SCALES, LEVELS, HIDDEN = (1, 2, 4), 4, 32
TOKENS = sum(p * p for p in SCALES)
IMAGES, SFT_STEPS, BATCH = 1000, 200, 50
PAIRS, DPO_STEPS, PAIR_BATCH, SAMPLES = 512, 200, 32, 500
RATES = around(3e-4, 0.1)
# beta and the weight of the winners' cross-entropy
ARMS = {"beta_0.03": (0.03, 0.0), "beta_0.1": (0.1, 0.0), "beta_0.3": (0.3, 0.0), "with_sft": (0.1, 1.0)}


@functools.cache
def _images():
    """Digits as 1 + 4 + 16 tokens: mean ink of ever smaller patches in four levels with equal shares at each scale."""
    x = s.digits(IMAGES, validation=False).x.reshape(-1, 8, 8)
    tokens = []
    for side in SCALES:
        mean = x.reshape(-1, side, 8 // side, side, 8 // side).mean((2, 4)).reshape(len(x), -1)
        tokens.append(np.searchsorted(np.quantile(mean, [0.25, 0.5, 0.75]), mean))
    return np.concatenate(tokens, axis=1).astype(np.int32)


def _init(key):
    before = np.cumsum([0] + [p * p for p in SCALES[:-1]])
    keys = jax.random.split(key, len(SCALES))
    return [
        s.mlp(k, (1 + LEVELS * n, HIDDEN, LEVELS * p * p))
        for k, n, p in zip(keys, before.tolist(), SCALES, strict=True)
    ]


def _scale(params, k, tokens):
    """Logits of scale k from the tokens of those before."""
    seen = jax.nn.one_hot(tokens, LEVELS).reshape(len(tokens), -1)
    out = s.logits(params[k], jnp.concatenate([jnp.ones((len(tokens), 1)), seen], axis=1))
    return out.reshape(len(tokens), SCALES[k] ** 2, LEVELS)


def _logits(params, tokens):
    ends = np.cumsum([0] + [p * p for p in SCALES])
    return jnp.concatenate([_scale(params, k, tokens[:, : ends[k]]) for k in range(len(SCALES))], axis=1)


def _logp(params, tokens):
    return multiscale_token_logprob(_logits(params, tokens), tokens, SCALES)


def _sample(params, key, count):
    tokens = jnp.zeros((count, 0), jnp.int32)
    for k, draw in enumerate(jax.random.split(key, len(SCALES))):
        tokens = jnp.concatenate([tokens, jax.random.categorical(draw, _scale(params, k, tokens))], axis=1)
    return tokens


def _ink(tokens):
    return tokens[:, -(SCALES[-1] ** 2) :].sum(axis=1)


def _descend(key, params, tx, loss, count, batch, steps):
    at_random = lambda params, key: loss(params, jax.random.randint(key, (batch,), 0, count))  # noqa: E731
    return s.descend(at_random, tx, params, jax.random.split(key, steps))


def _pairs(params, key):
    """Winner and loser by ink of pairs of samples; ties are drawn again by taking twice as many and the clearest half."""
    a, b = (_sample(params, k, 2 * PAIRS) for k in jax.random.split(key))
    clear = jnp.argsort(-jnp.abs(_ink(a) - _ink(b)))[:PAIRS]
    a, b = a[clear], b[clear]
    first = (_ink(a) > _ink(b))[:, None]
    return jnp.where(first, a, b), jnp.where(first, b, a)


def _fit(key, rate, beta, sft_weight, smoke):
    start, sft, pairs, held, dpo, drawn = jax.random.split(key, 6)
    data = jnp.asarray(_images())
    tx = optax.adam(optax.cosine_decay_schedule(0.02, SFT_STEPS))
    nll = lambda params, i: -_logp(params, data[i]).mean()  # noqa: E731
    ref = _descend(sft, _init(start), tx, nll, len(data), BATCH, 20 if smoke else SFT_STEPS)
    (won, lost), (held_won, held_lost) = (_pairs(ref, k) for k in (pairs, held))
    ref_won, ref_lost = _logp(ref, won), _logp(ref, lost)

    def loss(params, i):
        four = (_logp(params, won[i]), _logp(params, lost[i]), ref_won[i], ref_lost[i])
        return dpo_with_sft_loss(*four, TOKENS, sft_weight=sft_weight, beta=beta).mean()

    tx = optax.adam(optax.cosine_decay_schedule(rate, DPO_STEPS))
    params = _descend(dpo, ref, tx, loss, PAIRS, PAIR_BATCH, 10 if smoke else DPO_STEPS)
    after, before = (_sample(p, k, SAMPLES) for p, k in zip((params, ref), jax.random.split(drawn), strict=True))
    more = jnp.sign(_ink(after) - _ink(before))
    moved = _logp(params, held_won) - _logp(ref, held_won)
    held = dpo_loss(
        _logp(params, held_won), _logp(params, held_lost), _logp(ref, held_won), _logp(ref, held_lost), beta=beta
    )
    return {
        "preferred": jnp.mean(0.5 * (1 + more)),
        "kl": jnp.mean(_logp(params, after) - _logp(ref, after)),
        "winners": jnp.mean(moved),
        "held_loss": jnp.mean(held) - sft_weight * jnp.mean(moved) / TOKENS,
    }


@functools.partial(jax.jit, static_argnames="smoke")
def _runs(keys, rates, beta, sft_weight, smoke):
    return jax.vmap(lambda key, rate: _fit(key, rate, beta, sft_weight, smoke))(keys, rates)


def _arm(keys, smoke, *, beta, sft_weight):
    runs = lambda keys, rates: _runs(keys, rates, beta, sft_weight, smoke=smoke)  # noqa: E731
    return at_its_best(keys, runs, RATES[2:4] if smoke else RATES, by="held_loss")


CLAIM = Claim(
    paper="P384",
    slug="visual_autoregressive_dpo",
    says="DPO moves an autoregressive image model to samples that are preferred; the smaller beta is, the further from the "
    "reference; winners become less likely by it, unless their cross-entropy is added.",
    setup="Digits as 21 tokens of three scales and four levels of ink; each scale's tokens from those before by an MLP of 32 "
    "units. 200 Adam steps of maximum likelihood on 1,000 images, then 200 of DPO on 512 pairs of its own samples, of which "
    "the one with more ink wins. Share of 500 samples with more ink than samples of the reference; divergence from the "
    "reference; log-probability of 512 fresh winners against the reference's.",
    tuning="the rate of each arm, half a decade apart from 0.0003 to 0.1, by its loss on fresh pairs over 3 other seeds",
    arms={name: functools.partial(_arm, beta=b, sft_weight=w) for name, (b, w) in ARMS.items()},
    comparisons=(
        Comparison(
            name="more than 85 % of samples are preferred",
            arm="beta_0.1",
            baseline=None,
            metric="preferred",
            better="higher",
            margin=0.85,
        ),
        Comparison(
            name="0.03 goes further than 0.1", arm="beta_0.03", baseline="beta_0.1", metric="kl", better="higher"
        ),
        Comparison(name="0.1 goes further than 0.3", arm="beta_0.1", baseline="beta_0.3", metric="kl", better="higher"),
        Comparison(
            name="winners become less likely",
            arm="beta_0.1",
            baseline=None,
            metric="winners",
            better="lower",
            margin=0.0,
        ),
        Comparison(
            name="less so with their cross-entropy",
            arm="with_sft",
            baseline="beta_0.1",
            metric="winners",
            better="higher",
        ),
    ),
    seeds=18,
    smoke_seeds=2,
    claimed_by="arXiv 2504.02949 uses it so; the two costs are arXiv 2305.18290's beta and the displacement it is known for",
)
