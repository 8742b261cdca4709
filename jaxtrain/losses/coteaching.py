"""Co-teaching: two networks, and each learns from the examples on which the other one's loss is small."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Number, check_finite_number

_TINY = float(np.finfo(np.float32).tiny)


def coteaching_select(
    losses_a: Float[Array, " batch"], losses_b: Float[Array, "..."], *, keep_fraction: Number
) -> tuple[Bool[Array, " batch"], Bool[Array, " batch"]]:
    r"""Which examples each network is to learn from: the small losses of the other one.

    The first mask marks the :math:`\lfloor R\, n \rfloor` smallest of ``losses_b``, the second those of ``losses_a``:
    a network's own mistakes do not choose what it is taught. Equal losses are taken in their order; NaN comes last.

    Args:
      losses_a: ``(batch,)`` losses of network a, one for each example.
      losses_b: ``(batch,)`` losses of network b on the same examples.
      keep_fraction: :math:`R` in [0, 1], see :func:`coteaching_schedule`; may be traced.

    Returns:
      ``(mask_for_a, mask_for_b)``, each ``(batch,)``: average a network's own losses over its mask.

    Raises:
      ValueError: shapes that disagree, or a fraction out of range.

    Source: Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama (2018), arXiv 1804.06872; Chen, Hu, Shen, Ai, Suykens (2022),
    arXiv 2206.13140.

    >>> a, b = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([4.0, 3.0, 2.0, 1.0])
    >>> [mask.tolist() for mask in coteaching_select(a, b, keep_fraction=0.5)]
    [[False, False, True, True], [True, True, False, False]]
    """
    if losses_a.ndim != 1 or losses_a.shape != losses_b.shape:
        raise ValueError(f"coteaching_select: losses {losses_a.shape} and {losses_b.shape}; give one for each example")
    check_finite_number("keep_fraction", keep_fraction, low=0.0, high=1.0)
    n = len(losses_a)
    # 1 - 0.9 is a little less than 0.1: rounding must not cost an example
    count = jnp.floor(jnp.asarray(keep_fraction, jnp.float32) * n + 1e-6 * n)

    def small(losses):
        return jnp.argsort(jnp.argsort(jax.lax.stop_gradient(losses))) < count

    return small(losses_b), small(losses_a)


def coteaching_schedule(*, forget_rate: Number, num_gradual: Number, exponent: Number = 1.0) -> optax.Schedule:
    r"""The fraction of a batch that co-teaching keeps: all at first, then ever fewer.

    .. math:: R(t) = 1 - \tau \min\big(t^c / T_k, 1\big)

    A network learns what is right before the wrong labels; what it keeps must shrink before it learns those.

    Args:
      forget_rate: :math:`\tau` in [0, 1], the part of wrong labels as far as known; may be traced.
      num_gradual: :math:`T_k` > 0, in the unit of :math:`t`, usually epochs; may be traced.
      exponent: :math:`c` > 0; may be traced.

    Returns:
      A schedule of :math:`t`, which is ≥ 0.

    Raises:
      ValueError: a number out of range.

    Source: Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama (2018), arXiv 1804.06872.

    >>> keep = coteaching_schedule(forget_rate=0.5, num_gradual=10)
    >>> [float(keep(t)) for t in (0, 5, 10, 99)]
    [1.0, 0.75, 0.5, 0.5]
    """
    check_finite_number("forget_rate", forget_rate, low=0.0, high=1.0)
    check_finite_number("num_gradual", num_gradual, low=_TINY)
    check_finite_number("exponent", exponent, low=_TINY)

    def schedule(count):
        return 1 - forget_rate * jnp.minimum(jnp.asarray(count, jnp.float32) ** exponent / num_gradual, 1.0)

    return schedule
