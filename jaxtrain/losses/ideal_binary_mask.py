"""Separation of sources by ideal binary masks: the target, its loss, what a mask gives, and how good that is."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Complex, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.losses._logits import widened


def ideal_binary_mask(
    target_mag: Float[Array, "*bins"], other_mag: Float[Array, "..."], *, theta: Number = 1.0
) -> Float[Array, "*bins"]:
    r"""The bins of a spectrogram in which the wanted source is louder than the rest.

    .. math:: M(t, f) = \begin{cases} 1 & |S(t, f)| > \theta |R(t, f)| \\ 0 & \text{else.} \end{cases}

    At :math:`\theta = 1` the masks of both sources add up to 1 except where they are equally loud, where both are 0.

    Args:
      target_mag: magnitudes of the wanted source, of any shape.
      other_mag: the same of all that is to be removed.
      theta: how much louder the source must be, ≥ 0; may be traced.

    Returns:
      0 and 1 in the shape and dtype of ``target_mag``.

    Raises:
      ValueError: shapes that disagree; a theta out of range.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278.

    >>> ideal_binary_mask(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 3.0, 2.0])).tolist()
    [1.0, 0.0, 0.0]
    """
    check_finite_number("theta", theta, low=0.0)
    if target_mag.shape != other_mag.shape:
        raise ValueError(f"ideal_binary_mask: target_mag {target_mag.shape} and other_mag {other_mag.shape} disagree")
    return (widened(target_mag) > theta * widened(other_mag)).astype(target_mag.dtype)


def mask_bce_loss(
    logits: Float[Array, "*bins"], mask: Float[Array, "..."] | Int[Array, "..."] | Bool[Array, "..."]
) -> Float[Array, "*bins"]:
    r"""Cross-entropy of each bin's logit with the mask: classification of bins instead of regression of loudness.

    .. math:: \ell = -M \log \sigma(z) - (1 - M) \log \sigma(-z).

    It is ``optax.losses.sigmoid_binary_cross_entropy`` in float32 at least. One value for each bin and source, since
    how bins are weighted is the caller's matter; their mean over all axes but the first is the loss of an example.

    Args:
      logits: one for each bin and source, of any shape.
      mask: the same of 0 and 1, from :func:`ideal_binary_mask`; numbers between are soft masks.

    Returns:
      One loss for each bin, in the shape and dtype of ``logits``.

    Raises:
      ValueError: shapes that disagree.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278.

    >>> [round(float(x), 4) for x in mask_bce_loss(jnp.array([0.0, 100.0]), jnp.array([1.0, 0.0]))]
    [0.6931, 100.0]
    """
    if logits.shape != mask.shape:
        raise ValueError(f"mask_bce_loss: logits {logits.shape} and mask {mask.shape} disagree")
    z = widened(logits)
    return optax.losses.sigmoid_binary_cross_entropy(z, mask.astype(z.dtype)).astype(logits.dtype)


def apply_binary_mask(
    mixture_stft: Complex[Array, "*bins"], probs: Float[Array, "*sources_and_bins"], *, threshold: Number = 0.5
) -> Complex[Array, "*sources_and_bins"]:
    r"""The bins of a mixture that belong to a source; the mixture's phase is kept.

    .. math:: \hat S(t, f) = [p(t, f) > \tau]\, X(t, f).

    Args:
      mixture_stft: a short-time Fourier transform, of any shape.
      probs: probabilities of the bins, with the axes of the mixture, and before them any others such as one of sources.
      threshold: :math:`\tau`, in [0, 1]; may be traced.

    Returns:
      A transform in the shape of ``probs``, to be inverted as it is.

    Raises:
      ValueError: shapes that disagree; a threshold out of range.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278.

    >>> apply_binary_mask(jnp.array([1 + 2j, 3 - 1j]), jnp.array([[0.9, 0.2], [0.1, 0.8]])).tolist()
    [[(1+2j), 0j], [0j, (3-1j)]]
    """
    check_finite_number("threshold", threshold, low=0.0, high=1.0)
    if probs.shape[probs.ndim - mixture_stft.ndim :] != mixture_stft.shape or probs.ndim < mixture_stft.ndim:
        raise ValueError(
            f"apply_binary_mask: probs {probs.shape} do not end in the axes of mixture_stft {mixture_stft.shape}"
        )
    return jnp.where(probs > threshold, mixture_stft, jnp.zeros_like(mixture_stft))


def _ratio_db(where: str, ref: Array, est: Array) -> Array:
    if ref.shape != est.shape or ref.ndim == 0:
        raise ValueError(f"{where}: signals of shapes {ref.shape} and {est.shape}; give both as (..., time)")
    s, e = widened(ref), widened(est)
    energy = jnp.sum(s * s, axis=-1, keepdims=True)
    # a silent reference explains nothing of the estimate
    scale = jnp.sum(s * e, axis=-1, keepdims=True) / jnp.where(energy > 0, energy, 1)
    signal, noise = jnp.sum((scale * s) ** 2, axis=-1), jnp.sum((scale * s - e) ** 2, axis=-1)
    # the ends of the scale have no slope: that of log 0 would be NaN, for all parameters because of one silent example
    silent, exact = signal == 0, noise == 0
    db = 10 * (jnp.log10(jnp.where(silent, 1, signal)) - jnp.log10(jnp.where(exact, 1, noise)))
    return jnp.where(silent, -jnp.inf, jnp.where(exact, jnp.inf, db)).astype(ref.dtype)


def sdr(ref: Float[Array, "*batch time"], est: Float[Array, "..."]) -> Float[Array, "*batch"]:
    r"""How much of an estimated signal is the true one, in decibels, whatever its loudness (SI-SDR).

    .. math:: 10 \log_{10} \frac{\|a s\|^2}{\|a s - \hat s\|^2}, \qquad a = \frac{\langle \hat s, s \rangle}{\|s\|^2}.

    BSS Eval's figure of the same name also forgives a filter of 512 taps, so that it is higher.

    Args:
      ref: ``(..., time)`` the true signal.
      est: ``(..., time)`` the estimate.

    Returns:
      ``(...)`` decibels: infinite for a multiple of the reference, minus infinity where nothing of it is in the
      estimate, as in silence; neither has a slope.

    Raises:
      ValueError: shapes that disagree.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278; in the form of Le Roux, Wisdom, Erdogan
    and Hershey (2018), arXiv 1811.02508.

    >>> float(sdr(jnp.array([10.0, 0.0]), jnp.array([20.0, 2.0])))
    20.0
    """
    return _ratio_db("sdr", ref, est)


def nsdr(
    ref: Float[Array, "*batch time"], est: Float[Array, "..."], mix: Float[Array, "..."]
) -> Float[Array, "*batch"]:
    r"""By how many decibels an estimate is better than the mixture it was made from.

    .. math:: \mathrm{NSDR} = \mathrm{SDR}(s, \hat s) - \mathrm{SDR}(s, x).

    Args:
      ref: ``(..., time)`` the true signal.
      est: ``(..., time)`` the estimate.
      mix: ``(..., time)`` the mixture.

    Returns:
      ``(...)`` decibels; NaN where the reference is silent or both are multiples of it.

    Raises:
      ValueError: shapes that disagree.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278.

    >>> float(nsdr(jnp.array([10.0, 0.0]), jnp.array([20.0, 2.0]), jnp.array([10.0, 10.0])))
    20.0
    """
    return _ratio_db("nsdr", ref, est) - _ratio_db("nsdr", ref, mix)


def gnsdr(nsdr_values: Float[Array, " songs"], lengths: Float[Array, "..."] | Int[Array, "..."]) -> Scalar:
    r"""The mean of :func:`nsdr` over recordings, each weighted by its length.

    .. math:: \frac{\sum_i T_i\, \mathrm{NSDR}_i}{\sum_i T_i}.

    Args:
      nsdr_values: ``(songs,)`` decibels.
      lengths: ``(songs,)`` of the recordings, in any unit.

    Returns:
      Decibels.

    Raises:
      ValueError: shapes that disagree, or nothing at all.

    Source: Lin, Balamurali, Koh, Lui and Herremans (2018), arXiv 1812.01278.

    >>> float(gnsdr(jnp.array([10.0, 4.0]), jnp.array([1, 2])))
    6.0
    """
    if nsdr_values.shape != lengths.shape or nsdr_values.size == 0:
        raise ValueError(
            f"gnsdr: nsdr_values {nsdr_values.shape} and lengths {lengths.shape}; give one of each for every recording"
        )
    values = widened(nsdr_values)
    weights = lengths.astype(values.dtype)
    return (jnp.sum(weights * values) / jnp.sum(weights)).astype(nsdr_values.dtype)
