"""The language model: its text, its windows, its network against NumPy, and the same values on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.training import bytes_per_device, ensemble, make_mesh
from jaxtrain.workloads import bytes as workload
from jaxtrain.workloads.bytes import Config, Transformer, Windows, build, load


def test_the_text_is_english_and_its_last_tenth_is_held_out():
    train, held_out = load()
    assert train.dtype == np.uint8 and 0 <= 9 * len(held_out) - len(train) < 10
    text = bytes(np.concatenate([train, held_out])).decode()
    # Python's own documentation grows with its version; 3.11 has 0.47 MB
    assert len(text) > 400_000 and text.count(" the ") > 3000


def test_windows_are_pieces_of_the_text_given_by_the_position():
    text = np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8)
    windows = Windows(text, batch_size=4, length=10)
    batches = [next(windows)["tokens"] for _ in range(6)]
    whole = text.tobytes()
    assert all(row.astype(np.uint8).tobytes() in whole for batch in batches for row in batch)
    assert batches[0].shape == (4, 11) and not np.array_equal(batches[0], batches[1])
    other = Windows(text, batch_size=4, length=10)
    other.set_state({"next_index": 4})
    np.testing.assert_array_equal(next(other)["tokens"], batches[4])
    np.testing.assert_array_equal(next(other)["tokens"], batches[5])
    assert other.get_state() == windows.get_state()
    assert len(next(Windows(text[:11], batch_size=2, length=10))["tokens"]) == 2  # one window fits
    with pytest.raises(ValueError, match="a text of 10 bytes has no window of 11"):
        Windows(text[:10], batch_size=1, length=10)


def _numpy_transformer(p, tokens, heads):
    """A transcription in float64, one sequence, one position and one head at a time."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def gelu(x):  # flax's default is the tanh approximation
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    n, width = len(tokens), p["position"].shape[1]
    size = width // heads
    x = p["embed"]["embedding"][tokens] + p["position"][:n]
    for i in range(sum(name.startswith("block_") for name in p)):
        b = p[f"block_{i}"]
        q, k, v = np.split(norm(x, b["RMSNorm_0"]["scale"]) @ b["qkv"]["kernel"], 3, axis=-1)
        mixed = np.zeros_like(x)
        for h in range(heads):
            s = slice(h * size, (h + 1) * size)
            for t in range(n):
                weights = np.exp(k[: t + 1, s] @ q[t, s] / np.sqrt(size))
                mixed[t, s] = weights / weights.sum() @ v[: t + 1, s]
        x = x + mixed @ b["out"]["kernel"]
        x = x + gelu(norm(x, b["RMSNorm_1"]["scale"]) @ b["up"]["kernel"]) @ b["down"]["kernel"]
    return norm(x, p["norm"]["scale"]) @ p["embed"]["embedding"].T


def test_the_network_equals_a_transcription(x64):
    network = Transformer(width=8, layers=2, heads=2, length=6, dtype=jnp.float64)
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 256)
    params = network.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda x: x.astype(jnp.float64) * 1.5, params)
    found = network.apply({"params": params}, tokens)
    for row, sequence in zip(found, np.asarray(tokens), strict=True):
        # logits leave the network in float32
        np.testing.assert_allclose(row, _numpy_transformer(params, sequence, 2), rtol=1e-5, atol=1e-5)


def test_the_default_model_has_a_million_parameters():
    experiment = build(Config())
    state = jax.eval_shape(experiment.init, jax.random.key(0), {})
    assert 0.9e6 < sum(x.size for x in jax.tree.leaves(state.params)) < 1.1e6


TINY = dict(batch_size=8, length=8, width=16, layers=1, heads=2, steps=6, warmup=1, eval_batches=1)


def _train(**changes):
    experiment = build(Config(**(TINY | changes)))
    program = ensemble(
        experiment.init, experiment.step, seeds=(0,), mesh=experiment.mesh, rules=experiment.rules, mode="solo"
    )
    state, batches, losses = program.init(), experiment.batches(), []
    spread = bytes_per_device(state.params)
    for _ in range(3):
        state, metrics = program.step(state, program.put(next(batches)))
        losses.append(float(metrics["bits_per_byte"][0]))
    return losses, state, spread


@pytest.fixture(scope="module")
def alone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "make_mesh", lambda **axes: make_mesh(devices=jax.devices()[:1]))
        return _train()


@pytest.mark.parametrize("axes", [{}, {"fsdp": -1}, {"fsdp": 2, "tensor": 2}, {"tensor": 2, "accumulate": 2}], ids=str)
def test_any_mesh_and_accumulation_give_the_values_of_one_device(axes, alone):
    losses, state, spread = _train(**axes)
    # float32 sums in another order, through three steps of Adam of size 2e-3
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone[1].params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert len(spread) == 8
    # the matrices of the block are split over fsdp and tensor, embeddings and scales lie whole on every device
    fsdp = 8 if axes.get("fsdp") == -1 else axes.get("fsdp", 1)
    parts, block = fsdp * axes.get("tensor", 1), 4 * (3 + 1 + 4 + 4) * 16 * 16
    assert set(spread.values()) == {sum(alone[2].values()) - block + block // parts}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"heads": 3}, "width must be a multiple of heads"),
        ({"warmup": 300}, "warmup must lie below steps"),
        ({"batch_size": 10_000}, "exceeds the held-out text"),
        ({"fsdp": 3}, "3"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(Config(**changes))
