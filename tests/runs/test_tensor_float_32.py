"""What may be computed by TF32, and what is not whatever the setting."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.arithmetic import tensor_float_32, uses_tensor_float_32
from stugan_tf.data import digits
from stugan_tf.errors import InputError
from stugan_tf.evaluation.evaluator import Evaluator
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.losses import Loss, hinge
from stugan_tf.training.replicas import Replicas
from tests.helpers.small import small_training
from tests.helpers.stand_ins import Projection, SmallGAN


def recording(seen):
    """A loss that notes for each generator update whether TF32 was allowed."""
    usual = hinge()

    def generator(fake):
        seen.append(uses_tensor_float_32())
        return usual.generator(fake)

    return Loss(usual.discriminator, generator)


def growing(seen, **settings):
    """A training whose second step is seen by growth."""
    training = small_training(
        sparsities=(0.5, 0.3),
        algorithm={
            "loss": recording(seen),
            "generator_exploration": Exploration(update_interval=2, stop=3),
        },
        **settings,
    )
    seen.clear()  # The loss was tried when it was checked.
    return training


@pytest.mark.usefixtures("untraced")
@pytest.mark.ci
@pytest.mark.parametrize("allowed", [True, False])
def test_growth_never_sees_it_and_the_run_tells_it(allowed, tmp_path):
    seen = []
    training = growing(seen, tensor_float_32=allowed, steps_per_execution=2)
    with tensor_float_32(not allowed):
        training.run(tmp_path / "run", "")
        assert uses_tensor_float_32() is not allowed
    assert seen == [allowed, False, allowed, allowed]
    start = json.loads((tmp_path / "run" / "run.json").read_text())
    assert start["tensor_float_32"] is allowed


@pytest.mark.parametrize("allowed", [True, False])
def test_xla_decides_on_it_when_it_lowers_a_function(allowed):
    """Products of other precision than `highest` may be computed by TF32 on a GPU."""
    images, kernel = tf.zeros([1, 4, 4, 2]), tf.zeros([3, 3, 2, 2])

    def gradient(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            maps = tf.nn.conv2d(images, kernel, 1, "SAME")
            loss = tf.reduce_sum(tf.matmul(maps, maps, transpose_b=True) ** 2)
        return tape.gradient(loss, kernel)

    with tensor_float_32(allowed):
        compiled = tf.function(gradient, jit_compile=True, autograph=False)
        lowered = compiled.experimental_get_compiler_ir(images, kernel)(stage="hlo")
    products = [line for line in lowered.splitlines() if re.search(r"= f32\S* (convol|dot)", line)]
    assert len(products) >= 4
    assert {"operand_precision={highest,highest}" in line for line in products} == {not allowed}


def test_each_choice_has_a_program_of_its_own():
    replicas = Replicas(tf.distribute.OneDeviceStrategy("CPU:0"), jit_compile=True)
    seen = []

    def double(x):
        seen.append(uses_tensor_float_32())
        return 2 * x

    compiled = replicas.compiled(double)
    calling = replicas.calling(lambda x: compiled(x))
    for allowed in (True, False, True, False):
        with tensor_float_32(allowed):
            assert float(calling(tf.constant(3.0))) == 6
    assert sorted(seen) == [False, True]


@pytest.mark.slow  # XLA compiles the updates with and without TF32.
def test_what_growth_sees_is_compiled_without_it(tmp_path):
    seen = []
    training = growing(seen, jit_compile=True)
    training.run(tmp_path / "run", "")
    # Traced for the first step, then for the second, whose gradients growth sees.
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {True, False}


@pytest.mark.usefixtures("untraced")
def test_generated_images_and_all_features_are_of_full_float32(tmp_path):
    """All code is eager here, so it sees the setting of the moment."""
    seen = []

    class WatchingGAN(SmallGAN):
        def generate(self, *args, **kwargs):
            seen.append(uses_tensor_float_32())
            return super().generate(*args, **kwargs)

    class Watching(Projection):
        def __call__(self, images):
            seen.append(uses_tensor_float_32())
            return super().__call__(images)

    evaluator = Evaluator(
        digits(),
        tf.distribute.OneDeviceStrategy("CPU:0"),
        extractor=Watching,
        num_images=50,
        num_kept=50,
        num_splits=2,
        batch_size=50,
        cache_dir=tmp_path,
    )
    seen.clear()
    with tensor_float_32(True):
        evaluator.prepare()
        numbers = [len(seen)]
        for use in (
            lambda: evaluator(WatchingGAN()),
            lambda: evaluator.neighbors(WatchingGAN(), 3),
            lambda: evaluator.extraction(np.zeros([1, 8, 8, 1], np.uint8)),  # as a Beam worker
        ):
            use()
            numbers.append(len(seen))
        assert uses_tensor_float_32()
    assert numbers[0] > 0
    assert all(np.diff(numbers) > 0)
    assert not any(seen)


def test_a_setting_that_is_neither_is_refused():
    with pytest.raises(InputError, match=r"train\.tensor_float_32"):
        small_training(tensor_float_32="no")
