"""Deep combinatorial aggregation: several copies of every layer, combined at random and averaged in the end."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._layers import Granularity, grouped
from jaxtrain.averaging._models import check_models, wide
from jaxtrain.averaging.soups import soup
from jaxtrain.core import Key, Number, Params, check_finite_number, check_key

_GRANULARITIES = ("layer", "channel", "model")


def _check(where: str, key: Key, components: Params, granularity: Granularity) -> int:
    check_key(key, where=where)
    if not callable(granularity) and granularity not in _GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(_GRANULARITIES)} or a function, got {granularity!r}")
    return check_models(components, where=where)


def _channels(layer: Sequence[tuple[Any, Array]]) -> int:
    """The common size of the last axes of a layer."""
    sizes = {jax.tree_util.keystr(path): x.shape[-1] if x.ndim > 1 else None for path, x in layer}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        found = ", ".join(f"{path} has {size or 'none'}" for path, size in sizes.items())
        raise ValueError(
            f"dca_sample: granularity='channel' needs one number of output channels (the last axis) in a layer; {found}"
        )
    return next(iter(sizes.values()))


def dca_sample(key: Key, components: Params, *, granularity: Granularity = "layer") -> Params:
    r"""One combination: for every component one of its n copies, drawn evenly and independently.

    With L layers there are :math:`n^L` combinations of n times the parameters. A layer is what hangs from one node of
    the tree (kernel and bias of a Flax module), so its leaves are always taken together. ``channel`` draws for every
    output channel (the last axis) of every layer; ``model`` draws once for the whole tree, an ensemble. A function of
    the path of a leaf, which names its component, gives any granularity between, such as blocks of layers.

    The released code duplicates convolutions and linear layers only. To share a part of the model, such as its
    normalisations, leave it out of ``components`` and add it in ``apply_fn``.

    Args:
      key: decides the combination.
      components: parameters whose leaves are stacked, n copies on axis 0.
      granularity: ``layer``, ``channel``, ``model``, or a function from paths such as ``['top']['kernel']`` to names.

    Returns:
      Parameters of one model.

    Raises:
      ValueError: an unknown granularity; copies that disagree in number; ``channel`` and a layer whose leaves have
        different last axes (names them).
      TypeError: a wrong key; leaves that are not floating.

    Source: Shen, Cremers (2022), arXiv 2210.06436.

    >>> copies = {"a": {"w": jnp.array([0.0, 1.0])}, "b": {"w": jnp.array([0.0, 1.0])}}
    >>> keys = jax.random.split(jax.random.key(0), 100)
    >>> drawn = jax.vmap(lambda key: dca_sample(key, copies))(keys)
    >>> sorted({(float(a), float(b)) for a, b in zip(drawn["a"]["w"], drawn["b"]["w"])})  # 2² combinations
    [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    """
    n = _check("dca_sample", key, components, granularity)

    def take(x: Array, choice: Int[Array, "*channels"]) -> Array:
        if choice.ndim == 0:
            return x[choice]
        return jnp.take_along_axis(x, choice.reshape(1, *[1] * (x.ndim - 2), -1), axis=0)[0]

    found: dict[Any, Array] = {}
    for i, component in enumerate(grouped(components, granularity).values()):
        shape = (_channels(component),) if granularity == "channel" else ()
        choice = jax.random.randint(jax.random.fold_in(key, i), shape, 0, n)
        found |= {path: take(x, choice) for path, x in component}
    return jax.tree_util.tree_map_with_path(lambda path, _: found[path], components)


def dcwa(components: Params) -> Params:
    r"""The weight average of all combinations: the mean over the copies of every component, a single model.

    Because every copy is drawn with the same probability, this is the mean over all :math:`n^L` combinations. Copies
    that were trained by :func:`dca_train_loss` are interchangeable, so that their mean is a good model; copies trained
    without its consistency term are not.

    Args:
      components: parameters whose leaves are stacked, n copies on axis 0.

    Returns:
      Parameters of one model, as :func:`soup` gives them.

    Raises:
      ValueError, TypeError: as :func:`dca_sample`.

    Source: Shen, Cremers (2022), arXiv 2210.06436.

    >>> dcwa({"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])})["w"].tolist()
    [2.0, 4.0]
    """
    return soup(components)


def dca_predict(
    key: Key,
    components: Params,
    apply_fn: Callable[[Params, Any], Float[Array, "*batch classes"]],
    x: Any,
    *,
    num_samples: int,
    granularity: Granularity = "layer",
) -> Float[Array, "*batch classes"]:
    r"""The mean probabilities of random combinations: :math:`\frac1S \sum_s \mathrm{softmax}(f_{\theta_s}(x))`.

    Args:
      key: decides the combinations.
      components: parameters whose leaves are stacked, n copies on axis 0.
      apply_fn: ``(params, x) -> logits``, classes last.
      x: inputs.
      num_samples: combinations S ≥ 1, one after the other.
      granularity: as in :func:`dca_sample`.

    Returns:
      Probabilities of the shape of the logits, in float32 at least.

    Raises:
      ValueError, TypeError: as :func:`dca_sample`; ``num_samples`` below 1.

    Source: Shen, Cremers (2022), arXiv 2210.06436.

    >>> copies = {"w": jnp.zeros((3, 2, 2))}
    >>> dca_predict(jax.random.key(0), copies, lambda p, x: x @ p["w"], jnp.ones((1, 2)), num_samples=4).tolist()
    [[0.5, 0.5]]
    """
    _check("dca_predict", key, components, granularity)
    if num_samples < 1:
        raise ValueError(f"dca_predict: num_samples must be at least 1, got {num_samples}")

    def probabilities(key: Key) -> Array:
        logits = apply_fn(dca_sample(key, components, granularity=granularity), x)
        return jax.nn.softmax(wide(logits))

    keys = jax.random.split(key, num_samples)
    total, _ = jax.lax.scan(lambda total, k: (total + probabilities(k), None), probabilities(keys[0]), keys[1:])
    return total / num_samples


def consistency_loss(logits: Float[Array, "*batch classes"], ref_logits: Float[Array, "..."]) -> Float[Array, "*batch"]:
    r"""How far predictions are from reference predictions, for each example.

    .. math:: \mathrm{KL}(p_{\mathrm{ref}} \,\|\, p) = \sum_k p_{\mathrm{ref},k} (\log p_{\mathrm{ref},k} - \log p_k)

    The reference is a constant: no gradient reaches it.

    Args:
      logits: of the combination that is trained, classes last.
      ref_logits: of the reference.

    Returns:
      One value ≥ 0 for each example.

    Raises:
      ValueError: shapes that differ.

    Source: Shen, Cremers (2022), arXiv 2210.06436.

    >>> print(consistency_loss(jnp.array([[0.0, 0.0]]), jnp.log(jnp.array([[0.75, 0.25]]))).round(4))  # ln 2 - H
    [0.1308]
    """
    if jnp.shape(logits) != jnp.shape(ref_logits):
        raise ValueError(
            f"consistency_loss: logits and ref_logits differ in shape: {jnp.shape(logits)}, {jnp.shape(ref_logits)}"
        )
    reference = jax.lax.stop_gradient(ref_logits)
    return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), jax.nn.log_softmax(reference))


def dca_train_loss(
    key: Key,
    components: Params,
    apply_fn: Callable[[Params, Any], Float[Array, "batch classes"]],
    x: Any,
    y: Int[Array, " batch"],
    *,
    num_repeats: int,
    granularity: Granularity = "layer",
    consistency: Number = 1.0,
) -> Float[Array, " batch"]:
    r"""The training loss of the copies, for each example.

    .. math:: \frac1R \sum_{r=1}^R \left[\mathrm{CE}(f_{\theta_r}(x), y)
       + \lambda\,\mathrm{KL}\big(p_{\theta_{r-1}}(x) \,\|\, p_{\theta_r}(x)\big)\right]

    Each :math:`\theta_r` is a combination of its own; the reference is the one before it, held constant, and
    :math:`\theta_0` is another that is not trained. The second term makes combinations interchangeable, so that
    :func:`dcwa` is a good model. With n = 1 the loss is plain cross-entropy. The paper takes R = n = 5.

    Costs R + 1 forward and R backward passes; their activations are kept for one combination at a time (each is
    recomputed in its backward pass).

    Args:
      key: decides the combinations; give another in every step.
      components: parameters whose leaves are stacked, n copies on axis 0. Independent initialisations make coarse
        components an ensemble with shared pieces; the released code starts all copies alike.
      apply_fn: ``(params, x) -> logits``, classes last.
      x: inputs.
      y: integer labels.
      num_repeats: combinations R ≥ 1 in a step.
      granularity: as in :func:`dca_sample`.
      consistency: λ ≥ 0; the paper's is 1.

    Returns:
      One loss for each example.

    Raises:
      ValueError, TypeError: as :func:`dca_sample`; a number out of range.

    Source: Shen, Cremers (2022), arXiv 2210.06436, and their code.

    >>> copies = {"w": jnp.zeros((3, 2, 2))}
    >>> loss = dca_train_loss(
    ...     jax.random.key(0), copies, lambda p, x: x @ p["w"], jnp.ones((1, 2)), jnp.array([1]), num_repeats=3
    ... )
    >>> print(loss.round(4))  # ln 2
    [0.6931]
    """
    _check("dca_train_loss", key, components, granularity)
    if num_repeats < 1:
        raise ValueError(f"dca_train_loss: num_repeats must be at least 1, got {num_repeats}")
    check_finite_number("consistency", consistency, low=0.0)
    keys = jax.random.split(key, num_repeats + 1)

    def predict(components: Params, key: Key) -> Array:
        return apply_fn(dca_sample(key, components, granularity=granularity), x)

    @jax.checkpoint
    def repeat(reference: Array, key: Key) -> tuple[Array, Array]:
        logits = predict(components, key)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return jax.lax.stop_gradient(logits), loss + consistency * consistency_loss(logits, reference)

    reference = jax.lax.stop_gradient(predict(components, keys[0]))
    return jnp.mean(jax.lax.scan(repeat, reference, keys[1:])[1], axis=0)
