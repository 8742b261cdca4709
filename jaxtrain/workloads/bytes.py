"""A byte-level language model: a decoder-only transformer on the documentation inside Python's standard library.

    jaxtrain run bytes
    jaxtrain run bytes --devices 8 --set fsdp=4 tensor=2      # 8 devices (fake ones on a CPU)

The text is ``pydoc_data.topics``, some 0.5 MB of English on Python; the last tenth is held out. The default model of
1.0 M parameters takes about three minutes on 2 cores and reaches about 2.8 held-out bits per byte; it is meant for
machines with accelerators, where ``width``, ``layers`` and ``steps`` can grow.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.averaging import averaged_params, swa
from jaxtrain.config import option
from jaxtrain.gradients import microbatch, value_and_grad
from jaxtrain.training import Experiment, create_state, make_mesh, make_step
from jaxtrain.training.adapters import from_linen, mean_objective, per_example_objective
from jaxtrain.workloads._optimizers import OPTIMIZERS, optimizer


@dataclasses.dataclass(frozen=True)
class Config:
    """Every field can be changed by ``--set field=value``."""

    seeds: tuple[int, ...] = option((0,), "one member for each")
    steps: int = option(300, "training steps")
    batch_size: int = option(32, "sequences a step")
    length: int = option(128, "bytes a sequence")
    width: int = option(128, "of the residual stream")
    layers: int = option(5, "transformer blocks")
    heads: int = option(4, "attention heads")
    optimizer: str = option("adamw", f"one of {', '.join(OPTIMIZERS)}")
    learning_rate: float = option(2e-3, "peak of the schedule")
    warmup: int = option(30, "steps of linear warm-up")
    weight_decay: float = option(0.1, "decoupled, of AdamW, on matrices")
    clip: float = option(1.0, "global norm of the gradient")
    bfloat16: bool = option(False, "compute in bfloat16; parameters and optimizer state stay in float32")
    accumulate: int = option(1, "parts of a batch, one after the other (gradient accumulation)")
    fsdp: int = option(1, "devices that share each parameter; -1: all that are left")
    tensor: int = option(1, "devices that share each matrix product")
    swa_start: float = option(0.75, "fraction of the run after which SWA captures models")
    swa_period: int = option(5, "steps between captures")
    eval_every: int = option(50, "steps between evaluations")
    eval_batches: int = option(16, "held-out batches; 0: the whole held-out part")
    checkpoint_every: int = option(100, "steps between checkpoints")
    mode: str = option("auto", "how several seeds run: vmap, map, auto")


class Block(nn.Module):
    """Causal attention and a two-layer perceptron, each behind a normalisation."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        dense = lambda features, name: nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        y = nn.RMSNorm(dtype=self.dtype)(x)
        q, k, v = jnp.split(dense(3 * width, "qkv")(y), 3, axis=-1)
        q, k, v = (z.reshape(*z.shape[:-1], self.heads, width // self.heads) for z in (q, k, v))
        x = x + dense(width, "out")(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(y.shape))
        y = nn.RMSNorm(dtype=self.dtype)(x)
        return x + dense(width, "down")(nn.gelu(dense(4 * width, "up")(y)))


class Transformer(nn.Module):
    """Bytes in, logits of the next byte out; input and output embeddings are shared."""

    width: int
    layers: int
    heads: int
    length: int
    dtype: Any = jnp.float32
    mesh: Any = None

    def _spread(self, x: jax.Array) -> jax.Array:
        """Keeps activations split by examples; left alone, the partitioner would follow the weights now and then."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(("data", "fsdp"))))

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(256, self.width, dtype=self.dtype, name="embed")
        position = self.param("position", nn.initializers.normal(0.02), (self.length, self.width))
        x = embed(tokens) + position[: tokens.shape[-1]].astype(self.dtype)
        for i in range(self.layers):
            x = Block(self.heads, self.dtype, name=f"block_{i}")(self._spread(x))
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(self._spread(x))
        # logits in float32 whatever the compute type: the softmax needs the digits
        return embed.attend(x).astype(jnp.float32)


RULES = (
    (r"(qkv|up)/kernel", P("fsdp", "tensor")),
    (r"(out|down)/kernel", P("tensor", "fsdp")),
)
"""Embeddings and scales are small and stay whole. Matrices are split over ``tensor`` along the axis that the next
product contracts, over ``fsdp`` along the other."""


def load() -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out bytes: the topics in the order of their names, the last tenth held out."""
    from pydoc_data.topics import topics

    text = np.frombuffer("\n\n".join(topics[name] for name in sorted(topics)).encode(), np.uint8)
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


class Windows:
    """Batch ``t``: random windows of the text, a function of the seed and of ``t`` alone."""

    def __init__(self, text: np.ndarray, *, batch_size: int, length: int, seed: int = 0):
        if len(text) <= length:
            raise ValueError(f"a text of {len(text)} bytes has no window of {length + 1}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._text, self._size, self._length, self._seed = text, batch_size, length, seed
        self._next = 0

    def get_state(self) -> dict[str, int]:
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        self._next = state["next_index"]

    def __next__(self) -> dict[str, np.ndarray]:
        starts = np.random.default_rng([self._seed, self._next]).integers(0, len(self._text) - self._length, self._size)
        self._next += 1
        return {"tokens": self._text[starts[:, None] + np.arange(self._length + 1)].astype(np.int32)}


def build(config: Config) -> Experiment:
    """The experiment that the configuration describes."""
    if not 0 <= config.warmup < config.steps:
        raise ValueError(f"warmup must lie below steps, got {config.warmup} and {config.steps}")
    if config.width % config.heads:
        raise ValueError(f"width must be a multiple of heads, got width={config.width} and heads={config.heads}")
    train, held_out = load()
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    mesh = make_mesh(data=1 if config.fsdp == -1 else -1, fsdp=config.fsdp, tensor=config.tensor)
    mesh = mesh if mesh.size > 1 else None
    network = Transformer(config.width, config.layers, config.heads, config.length, dtype, mesh)
    model = from_linen(network, jax.ShapeDtypeStruct((1, config.length), jnp.int32))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.steps, 0.1 * config.learning_rate
    )
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optimizer(config.optimizer, schedule, weight_decay=config.weight_decay, b2=0.95),
        swa(int(config.swa_start * config.steps), config.swa_period),
    )

    def losses(logits: jax.Array, batch: Any):
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])
        return jnp.mean(each, axis=-1), {"bits_per_byte": jnp.mean(each) / jnp.log(2.0)}

    objective = per_example_objective(model.apply, lambda batch: batch["tokens"][:, :-1], losses)
    step = make_step(microbatch(value_and_grad(mean_objective(objective)), config.accumulate), tx)

    def init(key, hyper):
        params, model_state = model.init(key)
        return create_state(params, tx, key, model_state)

    views = {"live": lambda state: state.params, "swa": lambda state: averaged_params(state.opt_state, state.params)}
    count = len(held_out) // (config.batch_size * (config.length + 1))
    count = min(count, config.eval_batches) if config.eval_batches else count
    if count < 1:
        raise ValueError(f"batch_size {config.batch_size} × length {config.length} exceeds the held-out text")
    windows = held_out[: count * config.batch_size * (config.length + 1)].reshape(count, config.batch_size, -1)

    def bits(state, tokens):
        found = {}
        for view, take in views.items():
            logits, _ = model.apply(take(state), state.model_state, tokens[:, :-1])
            found[view] = jnp.mean(losses(logits, {"tokens": tokens})[0]) / jnp.log(2.0)
        return found

    programs: list[Any] = []

    def evaluate(program, state):
        if not programs:
            programs.append(program.map(bits))
        totals = dict.fromkeys(views, 0.0)
        for tokens in windows:  # of one size, so the mean of means is the mean
            found = jax.device_get(programs[0](state, jnp.asarray(tokens, jnp.int32)))
            totals = {view: totals[view] + found[view] / count for view in views}
            yield "", {}
        yield "held-out", {f"{view}/bits_per_byte": total for view, total in totals.items()}

    return Experiment(
        init=init,
        step=lambda state, batch, hyper: step(state, batch),
        batches=lambda: Windows(train, batch_size=config.batch_size, length=config.length),
        num_steps=config.steps,
        seeds=config.seeds,
        evaluate=evaluate,
        eval_every=config.eval_every,
        log_every=5,
        checkpoint_every=config.checkpoint_every,
        views=views,
        mode=config.mode,
        mesh=mesh,
        rules=RULES,
        headline=("bits_per_byte",),
        higher_is_better=(),
    )
