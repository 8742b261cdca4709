"""The digits workload: its data, its iterator, its metrics, and a short training."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from jaxtrain.training import runner
from jaxtrain.workloads._metrics import classification_metrics
from jaxtrain.workloads.digits import Config, MemberBatches, build, load


def _rows(images):
    return {image.tobytes() for image in images}


def test_the_split_is_fixed_stratified_and_validation_never_sees_the_test_images():
    (train_x, train_y), (test_x, test_y) = load(Config())
    assert train_x.shape == (1437, 8, 8, 1) and test_x.shape == (360, 8, 8, 1)
    assert train_x.min() == -1 and train_x.max() == 1
    # of 360 images every class has its share, up to the one that rounding moves
    share = np.bincount(np.concatenate([train_y, test_y])) / 5
    assert np.abs(np.bincount(test_y) - share).max() < 1
    (fit_x, _), (validation_x, _) = load(Config(validate=True))
    assert len(fit_x) + len(validation_x) == 1437
    assert _rows(fit_x) | _rows(validation_x) == _rows(train_x)
    assert not _rows(fit_x) & _rows(validation_x) and not _rows(train_x) & _rows(test_x)
    assert len(load(Config(max_images=40))[0][0]) == 40


@pytest.fixture(scope="module")
def data():
    (x, y), _ = load(Config(max_images=50))
    return x, y


def test_an_epoch_has_every_image_once_in_an_order_of_each_member(data):
    x, y = data
    batches = MemberBatches(x, y, seeds=(3, 5), batch_size=10, shift=0)
    epoch = [next(batches) for _ in range(5)]
    for member in range(2):
        assert _rows(np.concatenate([b["x"][member] for b in epoch])) == _rows(x)
    assert not np.array_equal(epoch[0]["y"][0], epoch[0]["y"][1])
    again = [next(batches) for _ in range(5)]
    assert not np.array_equal(epoch[0]["x"], again[0]["x"])
    where = {image.tobytes(): label for image, label in zip(x, y, strict=True)}
    assert all(where[i.tobytes()] == c for i, c in zip(epoch[0]["x"][1], epoch[0]["y"][1], strict=True))


def test_a_batch_is_given_by_the_position_and_the_seed_alone(data):
    both = MemberBatches(*data, seeds=(3, 5), batch_size=16, shift=1)
    taken = [next(both) for _ in range(7)]
    alone = MemberBatches(*data, seeds=(5,), batch_size=16, shift=1)
    alone.set_state({"next_index": 5})
    for batch in taken[5:]:
        found = next(alone)
        np.testing.assert_array_equal(found["x"][0], batch["x"][1])
        np.testing.assert_array_equal(found["y"][0], batch["y"][1])
    assert alone.get_state() == both.get_state() == {"next_index": 7}


def test_shifts_move_the_image_and_fill_with_background(data):
    x, y = data

    def moved(image, down, right):
        out = np.full_like(image, -1.0)
        for i in range(8):
            for j in range(8):
                if 0 <= i - down < 8 and 0 <= j - right < 8:
                    out[i, j] = image[i - down, j - right]
        return out

    batch = next(MemberBatches(x, y, seeds=(0,), batch_size=50, shift=2))
    allowed = {(d, r): [moved(i, d, r).tobytes() for i in x] for d in range(-2, 3) for r in range(-2, 3)}
    found = [[move for move, images in allowed.items() if i.tobytes() in images] for i in batch["x"][0]]
    assert all(found)
    # fifty images and twenty-five moves: all of one kind would be no augmentation
    assert len({moves[0] for moves in found}) > 10


def test_metrics_equal_scikit_learn_and_a_loop():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(200, 10)).astype(np.float32), rng.integers(0, 10, 200).astype(np.int32)
    found = {k: float(v) for k, v in classification_metrics(jnp.asarray(logits), jnp.asarray(labels)).items()}
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, p.argmax(1)), abs=1e-7)
    # float32 means of 200 numbers of size 5
    assert found["loss"] == pytest.approx(log_loss(labels, p, labels=range(10)), rel=1e-5)
    total = 0.0
    for b in range(15):
        inside = (p.max(1) > b / 15) & (p.max(1) <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs((p.argmax(1) == labels)[inside].mean() - p.max(1)[inside].mean())
    assert found["calibration_error"] == pytest.approx(total, abs=1e-6)


def test_a_short_training_learns_in_every_view(tmp_path):
    config = Config(seeds=(0, 1), epochs=10, channels=8, eval_epochs=10, checkpoint_epochs=10, mode="map")
    summary = runner.run(
        build(config), tmp_path / "r", name="digits", config=dataclasses.asdict(config), progress=False
    )
    found = {(r["view"], r["metric"]): r for r in summary["results"]}
    # a tenth of the default's work: measured 97.2, 96.3 and 97.2 % with losses of 0.139, 0.152 and 0.140; chance is 10 %
    # and 2.3, and nine of the 720 judged images are left for other machines' rounding
    for view in ("live", "swa", "switch_ema"):
        assert found[view, "accuracy"]["mean"] >= 0.95, found[view, "accuracy"]
        assert found[view, "loss"]["mean"] <= 0.2
    assert len({digest for digests in summary["digests"].values() for digest in digests}) == 6


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "batch_size must lie between 1 and the number of images, 1437, got 0"),
        ({"max_images": 8}, "got 128"),
        ({"epochs": 2}, "warmup_epochs must lie below epochs"),
        ({"switch_epochs": 0}, "switch_every"),
        ({"optimizer": "adm"}, "did you mean adamw"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(Config(**changes))
