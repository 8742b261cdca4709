"""SGD for fine-tuning with the embedding layer held still, and what tells whether it is needed."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.core.tree import safe_norm

EMBEDDINGS = ("embed", "stem")


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matches(patterns: Sequence[str], params: Params, where: str) -> dict[str, bool]:
    if isinstance(patterns, str):
        raise TypeError(f"{where}: patterns must be a sequence of regular expressions, got the text {patterns!r}")
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    found = {name: any(re.search(pattern, name) for pattern in patterns) for name in names}
    if not any(found.values()):
        raise ValueError(
            f"{where}: none of the patterns {tuple(patterns)} is in a path; the paths are {', '.join(names[:8])}"
            + (" …" if len(names) > 8 else "")
        )
    return found


def freeze_labels(params: Params, *, patterns: Sequence[str] = EMBEDDINGS) -> Any:
    """Which parameters to freeze: those whose path holds one of the patterns.

    Args:
      params: a tree.
      patterns: regular expressions, searched for in paths such as ``"patch_embed/kernel"``; the defaults find the
        embedding layers of vision transformers (``patch_embed``) and the stems of ConvNeXt and ResNet.

    Returns:
      A tree of booleans like the parameters.

    Raises:
      ValueError: no path matches.
      TypeError: ``patterns`` is one text.

    Source: Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359.

    >>> freeze_labels({"patch_embed": jnp.zeros(2), "head": jnp.zeros(2)})
    {'head': False, 'patch_embed': True}
    """
    found = _matches(patterns, params, "freeze_labels")
    return jax.tree_util.tree_map_with_path(lambda path, _: found[_name(path)], params)


def sgd_freeze_embed(
    learning_rate: optax.ScalarOrSchedule,
    *,
    frozen: Any,
    momentum: Number | None = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    r"""SGD that leaves the frozen parameters as they are: :math:`u = 0` there, elsewhere

    .. math:: m \leftarrow \mu m + g, \qquad u = -\eta\, m .

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      frozen: a tree of booleans, or a function from the parameters to one, such as :func:`freeze_labels`.
      momentum: :math:`\mu` in [0, 1]; None: none, and no memory for it.
      nesterov: :math:`u = -\eta\,(g + \mu m)` instead.

    Returns:
      A transformation that holds the momentum of the parameters that move, and nothing for the frozen ones.

    Raises:
      ValueError: a number out of range.

    Source: Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359.

    >>> params = {"embed": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = sgd_freeze_embed(0.5, frozen=freeze_labels)
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> updates["embed"].tolist(), updates["head"].tolist()
    ([0.0, 0.0], [-0.5, -0.5])
    """
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)
    if momentum is not None:
        check_finite_number("momentum", momentum, low=0.0, high=1.0)

    def labels(params):
        tree = frozen(params) if callable(frozen) else frozen
        return jax.tree.map(lambda still: "frozen" if still else "trained", tree)

    sgd = optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
    return optax.partition({"frozen": optax.set_to_zero(), "trained": sgd}, labels)


def layerwise_grad_norms(grads: Params, params: Params | None = None) -> dict[str, Scalar]:
    r"""The norm of each layer's gradient, :math:`\|g_l\|` or :math:`\|g_l\| / \|w_l\|`.

    A layer is all leaves of one parent (a kernel and its bias); a leaf at the top of the tree is one by itself.

    Args:
      grads: a tree of gradients.
      params: a tree like it, to divide by the norm of the layer's parameters; infinite or NaN where that is zero.

    Returns:
      The norms by the path of the layer, such as ``"block/attention"``.

    Raises:
      ValueError: layers of the parameters that differ from those of the gradients.

    Source: Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359.

    >>> norms = layerwise_grad_norms({"embed": {"w": jnp.array([3.0]), "b": jnp.array([4.0])}, "head": jnp.ones(4)})
    >>> {name: round(float(norm), 5) for name, norm in norms.items()}
    {'embed': 5.0, 'head': 2.0}
    """

    def by_layer(tree):
        layers: dict[str, list] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            layers.setdefault(_name(path[:-1]) or _name(path), []).append(leaf)
        return {name: safe_norm(leaves) for name, leaves in layers.items()}

    norms = by_layer(grads)
    if params is None:
        return norms
    sizes = by_layer(params)
    if sizes.keys() != norms.keys():
        raise ValueError(
            f"layerwise_grad_norms: the layers of gradients and parameters differ: {sorted(sizes.keys() ^ norms.keys())}"
        )
    return {name: norm / sizes[name] for name, norm in norms.items()}


def embed_gradient_ratio(grads: Params, *, patterns: Sequence[str] = EMBEDDINGS) -> Scalar:
    r"""How much larger the embedding's gradient is: its norm over the median norm of the other layers.

    Where it is far above 1, SGD has no rate that fits all layers, and freezing the embedding is worth trying. Layers are
    those of :func:`layerwise_grad_norms`; of several that match the largest counts.

    Args:
      grads: a tree of gradients, best of a large batch at the start of fine-tuning.
      patterns: as in :func:`freeze_labels`.

    Returns:
      A number ≥ 0.

    Raises:
      ValueError: no layer matches, or every one does.

    Source: after Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359, who compare the norms in plots.

    >>> float(embed_gradient_ratio({"embed": jnp.array([8.0]), "a": jnp.array([1.0]), "b": jnp.array([3.0])}))
    4.0
    """
    norms = layerwise_grad_norms(grads)
    found = _matches(patterns, norms, "embed_gradient_ratio")
    others = [norm for name, norm in norms.items() if not found[name]]
    if not others:
        raise ValueError(f"embed_gradient_ratio: the patterns {tuple(patterns)} match every layer")
    largest = jnp.max(jnp.stack([norm for name, norm in norms.items() if found[name]]))
    return largest / jnp.median(jnp.stack(others))


def optimizer_bytes_per_param(tx: optax.GradientTransformation, params: Params, *, frozen: Any = None) -> float:
    """What training holds in memory for each parameter, in bytes: itself, its gradient and the optimizer's state.

    In float32 and up to the step counter: 16 for AdamW, 12 for SGD with momentum, 8 without, 4 for a frozen parameter.
    Activations are not counted. Nothing is allocated.

    Args:
      tx: any transformation.
      params: a tree of arrays or of ``jax.ShapeDtypeStruct``.
      frozen: a tree of booleans: parameters that need no gradient.

    Returns:
      Bytes over the number of parameters.

    Raises:
      ValueError: there are no parameters.

    Source: Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359.

    >>> optimizer_bytes_per_param(optax.sgd(0.1, momentum=0.9), jnp.zeros((10, 10)))
    12.0
    """

    def size(tree):
        return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    if not count:
        raise ValueError("optimizer_bytes_per_param: there are no parameters")
    moving = params if frozen is None else jax.tree.map(lambda p, still: None if still else p, params, frozen)
    return (size(params) + size(moving) + size(jax.eval_shape(tx.init, params))) / count


def gradual_unfreeze_schedule(layer_index: int, *, num_layers: int, steps: Number) -> Callable[[Any], Float[Array, ""]]:
    """0 while a layer is frozen and 1 afterwards; layers thaw one by one, the last first.

    Layer ``num_layers - 1`` trains from the start, and every ``steps`` steps one more before it. Multiply a layer's
    updates by it, after the optimizer (``optax.scale_by_schedule``).

    Args:
      layer_index: of the layer, from 0 (the embedding) to ``num_layers - 1`` (the head).
      num_layers: how many there are.
      steps: between one layer and the next, ≥ 0.

    Returns:
      A schedule ``step -> 0.0 or 1.0``.

    Raises:
      ValueError: a number out of range.

    Source: Howard, Ruder (2018), arXiv 1801.06146; compared in Kumar, Shen, Bubeck, Gunasekar (2022), arXiv 2211.09359.

    >>> first, last = (gradual_unfreeze_schedule(i, num_layers=3, steps=10) for i in (0, 2))
    >>> [float(first(t)) for t in (0, 19, 20)], float(last(0))
    ([0.0, 0.0, 1.0], 1.0)
    """
    count = static_int("num_layers", num_layers, low=1)
    index = static_int("layer_index", layer_index, low=0)
    if index >= count:
        raise ValueError(f"layer_index must be below num_layers = {count}, got {index}")
    check_finite_number("steps", steps, low=0.0)
    start = (count - 1 - index) * steps
    return lambda step: jnp.where(jnp.asarray(step) >= start, 1.0, 0.0)
