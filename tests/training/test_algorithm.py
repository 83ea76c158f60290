import math

import pytest

from stugan_tf.errors import InputError
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.schedules import linear_drop_fraction
from stugan_tf.training.algorithm import Algorithm


def sngan(**settings):
    """The paper's SNGAN on CIFAR-10."""
    return Algorithm(
        total_steps=50_048,
        discriminator_steps=5,
        generator_position=1,
        generator_exploration=Exploration(update_interval=1000),
        **settings,
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1000, 0.499513),
        (2000, 0.498054),
        (3000, 0.495627),
        (49_000, 0.005536),
        (50_000, 0.005001),
    ],
)
def test_the_drop_fraction_is_that_of_the_authors_logs(step, expected):
    assert sngan().drop_fraction("generator", step) == pytest.approx(expected, abs=5e-7)


def test_the_paper_explores_the_generator_fifty_times():
    algorithm = sngan()
    due = [step for step in range(1, 50_049) if algorithm.changes_topology(step)["generator"]]
    assert due == list(range(1000, 50_001, 1000))
    assert not any(algorithm.changes_topology(step)["discriminator"] for step in due)


def test_progress_counts_discriminator_updates_up_to_the_generators():
    last = Algorithm(total_steps=10, discriminator_steps=4)
    assert last.generator_position == 4
    assert [last.progress(step) for step in (1, 10)] == [0.1, 1]
    first = Algorithm(total_steps=10, discriminator_steps=4, generator_position=1)
    assert [first.progress(step) for step in (1, 10)] == [1 / 40, 37 / 40]


def test_each_network_has_its_own_schedule():
    algorithm = Algorithm(
        total_steps=20,
        generator_exploration=Exploration(update_interval=6),
        discriminator_exploration=Exploration(
            update_interval=4, drop_fraction=linear_drop_fraction, stop=12
        ),
    )
    steps = range(1, 21)
    changes = {step: algorithm.changes_topology(step) for step in steps}
    assert [step for step in steps if changes[step]["generator"]] == [6, 12, 18]
    assert [step for step in steps if changes[step]["discriminator"]] == [4, 8]
    following = [algorithm.next_topology_update(step) for step in (0, 4, 5, 6, 8, 12, 18, 20)]
    assert following == [4, 6, 6, 8, 12, 18, None, None]
    assert algorithm.drop_fraction("discriminator", 10) == pytest.approx((0.5 + 0.005) / 2)
    expected = 0.005 + 0.495 * (1 + math.cos(math.pi * 0.3)) / 2
    assert algorithm.drop_fraction("generator", 6) == pytest.approx(expected)


def test_the_topology_of_a_static_training_never_changes():
    algorithm = Algorithm(total_steps=20)
    assert algorithm.next_topology_update(0) is None
    assert not any(any(algorithm.changes_topology(step).values()) for step in range(1, 21))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 0}, "total_steps must be a positive integer, got 0"),
        ({"total_steps": 1e5}, r"total_steps must be a positive integer, got 100000\.0"),
        ({"batch_size": -1}, "batch_size must be a positive integer, got -1"),
        ({"generator_batch_size": 0}, "generator_batch_size must be a positive integer, got 0"),
        ({"discriminator_steps": 0}, "discriminator_steps must be a positive integer, got 0"),
        (
            {"discriminator_steps": 2, "generator_position": 3},
            "generator_position must be between 1 and discriminator_steps = 2, got 3",
        ),
        ({"generator_position": 0}, "generator_position must be .*, got 0"),
        ({"average_decay": 1.0}, r"average_decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Algorithm(**{"total_steps": 10, **settings})


def test_batches_must_divide_among_the_replicas():
    algorithm = Algorithm(total_steps=1, batch_size=6, generator_batch_size=8)
    algorithm.check_replicas(2)
    with pytest.raises(InputError, match=r"\.batch_size = 6 .* divisible by the 4 replicas"):
        algorithm.check_replicas(4)
    with pytest.raises(InputError, match=r"generator_batch_size = 8 .* Choose a multiple of 3"):
        algorithm.check_replicas(3)
