"""`SparseOptimizer` step by step: weights, slots and masks, and what it refuses."""

import dataclasses
import math
import warnings

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import set_execution
from stugan_tf.sparsity.criteria import (
    criterion,
    gradient_flow,
    gradient_magnitude,
    magnitude,
    random_scores,
)
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.sparsity.rule import PeriodicRule, TopologyRule
from stugan_tf.sparsity.schedules import constant_drop_fraction
from stugan_tf.sparsity.sparsify import sparsify
from stugan_tf.sparsity.topology import (
    prune_and_regrow_from_zero,
    prune_and_regrow_per_layer,
    prune_per_layer,
)
from tests.helpers.masked_models import masked_classifier, masked_kernel
from tests.helpers.params import examples

TOTAL = 20


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class Replacement(Exploration):
    """Replaces half of the weights at every second step, and treats slots as it is told."""

    update_interval: int = 2
    drop_fraction: object = constant_drop_fraction
    slots: str = "keep"


def gradients_of(shape, num, seed=3):
    return np.random.default_rng(seed).normal(size=[num, *shape]).astype(np.float32)


def sgd():
    return keras.optimizers.SGD(0.1)


def value(variable):
    return keras.ops.convert_to_numpy(variable)


def applied(inner, rule, mask, gradients, total_steps=TOTAL):
    """The optimizer after one step for each gradient."""
    optimizer = SparseOptimizer(inner, rule, total_steps)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [mask.kernel])
    return optimizer


# What it computes.


class NumPySGD:
    """SGD with momentum as Keras defines it."""

    def __init__(self, shape, rate=0.1, momentum=0.5):
        self.rate, self.momentum, self.moment = rate, momentum, np.zeros(shape)
        self.slots = [self.moment]

    def step(self, gradient):
        self.moment[:] = self.momentum * self.moment - self.rate * gradient
        return self.moment

    def restart(self, where):
        self.moment[where] = 0


class NumPyAdam:
    """Adam as Keras defines it; with `aged`, each weight counts its own steps."""

    def __init__(self, shape, aged=False, rate=0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-7):
        self.first, self.second, self.age = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.rate, self.beta_1, self.beta_2, self.epsilon = rate, beta_1, beta_2, epsilon
        self.aged = aged
        self.slots = [self.first, self.second]

    def step(self, gradient):
        self.age += 1
        self.first[:] = self.beta_1 * self.first + (1 - self.beta_1) * gradient
        self.second[:] = self.beta_2 * self.second + (1 - self.beta_2) * gradient**2
        correction = np.sqrt(1 - self.beta_2**self.age) / (1 - self.beta_1**self.age)
        return -self.rate * correction * self.first / (np.sqrt(self.second) + self.epsilon)

    def restart(self, where):
        self.first[where] = self.second[where] = 0
        if self.aged:
            self.age[where] = 0


def numpy_training(weight, mask, gradients, optimizer, slots, interval=2, fraction=0.5):
    """Steps of weights under a mask, and a replacement of weights at every multiple of interval."""
    weight, mask = weight.astype(np.float64), mask.copy()
    for step, gradient in enumerate(gradients, start=1):
        weight = (weight + optimizer.step(gradient.astype(np.float64))) * mask
        if step % interval == 0 and step < TOTAL:
            active = np.flatnonzero(mask)
            num_drop = math.ceil(fraction * len(active))
            by_magnitude = active[np.argsort(np.abs(weight.ravel()[active]), kind="stable")]
            after = np.zeros(mask.size)
            after[by_magnitude[num_drop:]] = 1
            zeros = np.flatnonzero(after == 0)
            best = np.argsort(-np.abs(gradient.ravel()[zeros]), kind="stable")
            after[zeros[best[:num_drop]]] = 1
            after = after.reshape(mask.shape)
            if slots != "keep":
                optimizer.restart(after != mask)
            mask, weight = after, weight * after
    return weight, mask


CASES = [
    ("sgd", "keep"),
    ("sgd", "zero"),
    ("adam", "keep"),
    ("adam", "zero"),
    ("adam", "age"),
]


@pytest.mark.parametrize(("kind", "slots"), CASES)
def test_steps_are_those_of_numpy(kind, slots):
    mask = masked_kernel((5, 4))
    gradients = gradients_of((5, 4), 9)
    if kind == "sgd":
        inner = keras.optimizers.SGD(0.1, momentum=0.5)
        reference = NumPySGD((5, 4))
    else:
        inner = keras.optimizers.Adam(0.1, beta_1=0.8, beta_2=0.95)
        reference = NumPyAdam((5, 4), aged=slots == "age")
    weight, expected = numpy_training(
        value(mask.kernel), value(mask.kernel_mask), gradients, reference, slots
    )
    applied(inner, Replacement(slots=slots), mask, gradients)
    np.testing.assert_array_equal(value(mask.kernel_mask), expected)
    np.testing.assert_allclose(value(mask.kernel), weight, rtol=2e-5, atol=1e-6)
    moments = [variable for variable in inner.variables if tuple(variable.shape) == (5, 4)]
    for moment, slot in zip(moments, reference.slots, strict=True):
        np.testing.assert_allclose(value(moment), slot, rtol=2e-5, atol=1e-6)


def test_masks_follow_a_table_worked_by_hand():
    mask = masked_kernel((1, 6))
    mask.assign_mask(tf.constant([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]))
    mask.kernel.assign([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0]])
    rule = Replacement(update_interval=1)  # Drops ceil(4 / 2) = 2 and grows 2.
    optimizer = SparseOptimizer(keras.optimizers.SGD(1.0), rule, 4)
    # Step 1: weights 4, 3, 1, 1 -> the last two go (2 and 3); 5 and 2 grow, 2 keeps its weight 1.
    gradient = [0, 0, 1, 0, 0, 3]
    optimizer.apply([tf.constant([gradient], tf.float32)], [mask.kernel])
    assert value(mask.kernel_mask).tolist() == [[1, 1, 1, 0, 0, 1]]
    assert value(mask.kernel).tolist() == [[4, 3, 1, 0, 0, 0]]
    # Step 2: weights 0.5, 3, 1, -9 -> 0 and 2 go; 3 (gradient 2) and 0 (3.5) grow.
    gradient = [3.5, 0, 0, 2, 0, 9]
    optimizer.apply([tf.constant([gradient], tf.float32)], [mask.kernel])
    assert value(mask.kernel_mask).tolist() == [[1, 1, 0, 1, 0, 1]]
    assert value(mask.kernel).tolist() == [[0.5, 3, 0, 0, 0, -9]]
    # Step 3: weights 0.5, 3, 0, -9 -> 3 and 0 go; 4 and 2 grow.
    gradient = [0, 0, 1, 0, 5, 4]
    optimizer.apply([tf.constant([gradient], tf.float32)], [mask.kernel])
    assert value(mask.kernel_mask).tolist() == [[0, 1, 1, 0, 1, 1]]
    assert value(mask.kernel).tolist() == [[0, 3, 0, 0, 0, -13]]
    # Step 4 is the last: new weights would stay untrained.
    optimizer.apply([tf.constant([gradient], tf.float32)], [mask.kernel])
    assert value(mask.kernel_mask).tolist() == [[0, 1, 1, 0, 1, 1]]
    assert value(optimizer.ever_active[0]).tolist() == [[1, 1, 1, 1, 1, 1]]


@examples(8)
@hypothesis.given(
    density=st.floats(0.0, 1.0),
    fraction=st.floats(0.0, 1.0),
    interval=st.integers(1, 2),
    seed=st.integers(0, 2**63 - 1),
    grow=st.sampled_from([gradient_magnitude, random_scores]),
)
def test_the_number_of_ones_stays(density, fraction, interval, seed, grow):
    mask = masked_kernel((5, 4), density, seed % 1000)
    ones = mask.num_active()
    rule = Exploration(
        update_interval=interval,
        drop_fraction=lambda progress: fraction,
        grow_scores=grow,
    )
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1), rule, TOTAL, seed)
    for gradient in gradients_of((5, 4), 2, seed):
        optimizer.apply([tf.constant(gradient)], [mask.kernel])
        assert mask.num_active() == ones
        mask.check_zeros()


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.25),
    "Adam": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "Nadam": lambda: keras.optimizers.Nadam(0.1),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.1, initial_accumulator_value=0.5),
    "Lion": lambda: keras.optimizers.Lion(0.1),
}
INITIAL = {"Adagrad": [0.25], "Ftrl": [0.5, 0.0]}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_start_again_exactly_where_weights_were_dropped_or_grown(name):
    gradients = gradients_of((5, 4), 2)
    twins = []
    for rule in (Replacement(slots="zero"), Replacement(slots="keep")):
        mask = masked_kernel((5, 4))
        before = value(mask.kernel_mask)
        inner = OPTIMIZERS[name]()
        applied(inner, rule, mask, gradients)
        twins.append([v for v in inner.variables if tuple(v.shape) == (5, 4)])
    changed = value(mask.kernel_mask) != before
    assert changed.any()
    assert twins[0]
    initial = INITIAL.get(name, [0.0] * len(twins[0]))
    for restarted, kept, start in zip(*twins, initial, strict=True):
        assert (value(restarted)[changed] == start).all()
        assert (value(kept)[changed] != start).any()
        np.testing.assert_array_equal(value(restarted)[~changed], value(kept)[~changed])


def test_a_weight_that_returns_from_zero_starts_its_slots_again():
    mask = masked_kernel((1, 3))
    mask.assign_mask(tf.constant([[1.0, 1.0, 0.0]]))
    mask.kernel.assign([[4.0, 1.0, 0.0]])
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    rule = Replacement(update_interval=1, slots="zero", update=prune_and_regrow_from_zero)
    # 1 is dropped, and grown again for its large gradient.
    applied(inner, rule, mask, [[[1.0, 9.0, 0.5]]])
    assert value(mask.kernel_mask).tolist() == [[1, 1, 0]]
    assert value(mask.kernel)[0, 1] == 0
    moment = next(v for v in inner.variables if tuple(v.shape) == (1, 3))
    np.testing.assert_allclose(value(moment), [[-0.1, 0.0, -0.05]], rtol=1e-6)


def test_the_first_step_of_a_weight_of_age_zero_is_a_first_step_of_adam():
    mask = masked_kernel((5, 4))
    before = value(mask.kernel_mask)
    gradients = gradients_of((5, 4), 5)
    inner = keras.optimizers.Adam(0.01)
    applied(inner, Replacement(update_interval=4, slots="age"), mask, gradients)
    new = (value(mask.kernel_mask) == 1) & (before == 0)
    assert new.any()
    np.testing.assert_allclose(
        value(mask.kernel)[new], -0.01 * np.sign(gradients[-1][new]), rtol=1e-4
    )


def test_growth_sees_the_mean_gradient_of_accumulated_batches():
    seen = []

    @criterion(gradient="loss")
    def spy(weight, gradient, seed):
        seen.append(gradient.numpy())
        return tf.abs(gradient)

    mask = masked_kernel((5, 4))
    gradients = gradients_of((5, 4), 6)
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3, loss_scale_factor=8.0)
    rule = Replacement(update_interval=2, grow_scores=spy)
    optimizer = SparseOptimizer(inner, rule, TOTAL)
    seen.clear()  # The criterion was tried.
    masks = []
    for gradient in gradients:
        assert optimizer.scale_loss(1.0) == 8.0
        optimizer.apply([tf.constant(8 * gradient)], [mask.kernel])
        masks.append(value(mask.kernel_mask).tolist())
    np.testing.assert_allclose(seen, [gradients[3:].mean(axis=0)], rtol=1e-6)
    assert masks[:5] == [masks[0]] * 5  # The second update is made by the sixth batch.
    assert masks[5] != masks[0]
    assert int(optimizer.iterations) == 2


def test_growth_momentum_averages_the_gradients_of_updates():
    mask = masked_kernel((5, 4))
    gradients = gradients_of((5, 4), 4)
    rule = Replacement(update_interval=4, gradient_momentum=0.75)
    before = value(mask.kernel_mask)
    applied(keras.optimizers.SGD(1e-6), rule, mask, gradients)
    average = np.zeros([5, 4])
    for gradient in gradients:
        average = 0.75 * average + 0.25 * gradient
    grown = (value(mask.kernel_mask) > before).ravel()
    never = (value(mask.kernel_mask) + before == 0).ravel()
    assert grown.any()
    assert np.abs(average.ravel()[grown]).min() > np.abs(average.ravel()[never]).max()


@pytest.mark.parametrize("is_inside", [False, True])
def test_a_step_that_overflows_changes_no_mask_and_does_not_count(is_inside):
    mask = masked_kernel((5, 4))
    before = value(mask.kernel_mask)
    good, late = gradients_of((5, 4), 2)
    rule = Replacement(gradient_momentum=0.5)
    scaled = keras.optimizers.LossScaleOptimizer
    if is_inside:
        optimizer = SparseOptimizer(scaled(keras.optimizers.SGD(0.1)), rule, TOTAL)
    else:
        optimizer = scaled(SparseOptimizer(keras.optimizers.SGD(0.1), rule, TOTAL))
    for gradient in (good, np.full_like(good, np.inf), np.full_like(good, np.nan)):
        optimizer.build([mask.kernel])
        scale = optimizer.scale_loss(1.0)
        optimizer.apply([tf.constant(gradient) * scale], [mask.kernel])
        assert int(optimizer.iterations) == 1
        np.testing.assert_array_equal(value(mask.kernel_mask), before)
    optimizer.apply([tf.constant(late) * optimizer.scale_loss(1.0)], [mask.kernel])
    assert (value(mask.kernel_mask) != before).any()
    plain = masked_kernel((5, 4))
    applied(keras.optimizers.SGD(0.1), rule, plain, [good, late])
    np.testing.assert_allclose(value(mask.kernel), value(plain.kernel), rtol=1e-6)


def test_averages_of_new_weights_start_from_zero_and_zeros_stay_at_the_end():
    mask = masked_kernel((5, 4))
    before = value(mask.kernel_mask)
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    optimizer = applied(inner, Replacement(), mask, gradients_of((5, 4), 2))
    average = value(next(v for v in inner.variables if tuple(v.shape) == (5, 4)))
    after = value(mask.kernel_mask)
    assert (after > before).any()
    np.testing.assert_array_equal(average != 0, (after == 1) & (before == 1))
    optimizer.apply([tf.ones([5, 4])], [mask.kernel])
    optimizer.finalize_variable_values([mask.kernel])
    mask.check_zeros()
    assert (value(mask.kernel) != 0).any()


def test_other_variables_are_updated_as_without_masks():
    model = masked_classifier()
    gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
    biases = [variable for variable in model.trainable_variables if len(variable.shape) == 1]
    before = [value(bias) for bias in biases]
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.5), Replacement(update_interval=1), TOTAL)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    for bias, former in zip(biases, before, strict=True):
        np.testing.assert_allclose(value(bias), former - 0.5)
    # In another order, without some variables, and with a missing gradient.
    kernels = [mask.kernel for mask in optimizer.masks]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([tf.ones(kernels[1].shape), None], [kernels[1], kernels[0]])
    assert int(optimizer.iterations) == 2


def test_the_rate_is_that_of_the_inner_optimizer():
    inner = keras.optimizers.SGD(0.5, weight_decay=0.1)
    optimizer = SparseOptimizer(inner, Replacement(), TOTAL)
    optimizer.learning_rate = 0.25
    assert float(inner.learning_rate) == 0.25
    assert float(optimizer.learning_rate) == 0.25
    optimizer.loss_scale_factor = 4.0
    assert inner.loss_scale_factor == 4.0
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    mask = masked_kernel((5, 4))
    weight = value(mask.kernel)
    optimizer.apply([tf.zeros([5, 4])], [mask.kernel])
    np.testing.assert_array_equal(value(mask.kernel), weight)


def test_kernels_of_frozen_layers_stay():
    model = masked_classifier()
    model.layers[0].trainable = False
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.5), Replacement(update_interval=1), TOTAL)
    optimizer.build(model.trainable_variables)
    assert [mask.name for mask in optimizer.masks] == ["logits"]


def test_a_static_rule_changes_nothing():
    class Static(TopologyRule):
        is_static = True
        is_due = amount = update = None

    mask = masked_kernel((5, 4))
    before = value(mask.kernel_mask)
    applied(keras.optimizers.SGD(0.1), Static(), mask, gradients_of((5, 4), 3))
    np.testing.assert_array_equal(value(mask.kernel_mask), before)


# Saving.


def stored(optimizer):
    found = {}
    optimizer.save_own_variables(found)
    return found


def test_a_loaded_optimizer_goes_on_as_if_nothing_had_happened():
    gradients = gradients_of((5, 4), 8)
    rule = Replacement(grow_scores=random_scores, gradient_momentum=0.5, slots="age")
    whole = masked_kernel((5, 4))
    applied(keras.optimizers.Adam(0.1), rule, whole, gradients)

    first = masked_kernel((5, 4))
    halfway = applied(keras.optimizers.Adam(0.1), rule, first, gradients[:4])
    second = masked_kernel((5, 4), seed=9)
    second.kernel.assign(first.kernel)
    second.kernel_mask.assign(first.kernel_mask)
    resumed = SparseOptimizer.from_config(halfway.get_config())
    resumed.build([second.kernel])
    resumed.load_own_variables(stored(halfway))
    resumed.inner_optimizer.load_own_variables(stored_inner(halfway))
    for gradient in gradients[4:]:
        resumed.apply([tf.constant(gradient)])
    np.testing.assert_array_equal(value(second.kernel), value(whole.kernel))
    np.testing.assert_array_equal(value(second.kernel_mask), value(whole.kernel_mask))
    assert resumed.rule == rule


def stored_inner(optimizer):
    found = {}
    optimizer.inner_optimizer.save_own_variables(found)
    return found


def test_the_length_of_a_training_is_loaded_with_it():
    mask = masked_kernel((5, 4))
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1), Replacement())
    optimizer.build([mask.kernel])
    optimizer.expect(num_epochs=2, steps_per_epoch=4)
    state = stored(optimizer)
    other = masked_kernel((5, 4))
    resumed = SparseOptimizer(keras.optimizers.SGD(0.1), Replacement())
    resumed.build([other.kernel])
    resumed.load_own_variables(state)
    assert resumed.total_steps == 8
    resumed.expect(num_epochs=2, steps_per_epoch=4)
    with pytest.raises(InputError, match=r"go on to step 12.* planned for 8 steps"):
        resumed.expect(num_epochs=3, steps_per_epoch=4)
    longer = SparseOptimizer(keras.optimizers.SGD(0.1), Replacement(), total_steps=9)
    longer.build([masked_kernel((5, 4)).kernel])
    longer.load_own_variables(state)
    with pytest.raises(InputError, match=r"a training of 8 steps, but SparseOptimizer was told 9"):
        longer.apply([tf.zeros([5, 4])])


def test_a_backup_from_the_middle_of_an_epoch_goes_on():
    """Keras begins this epoch again, so its first steps come on top of the plan."""
    optimizer = SparseOptimizer(sgd(), Replacement(), total_steps=8)
    mask = masked_kernel((5, 4))
    for _ in range(3):
        optimizer.apply([tf.ones([5, 4])], [mask.kernel])
    optimizer.expect(num_epochs=2, steps_per_epoch=4)
    with pytest.raises(InputError, match="go on to step 12"):
        optimizer.expect(num_epochs=9, steps_per_epoch=1)


def test_layers_that_were_thawed_later_are_refused():
    model = masked_classifier()
    model.layers[0].trainable = False
    optimizer = SparseOptimizer(sgd(), Replacement(), TOTAL)
    optimizer.build(model.trainable_variables)
    model.layers[0].trainable = True
    gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
    with pytest.raises(InputError, match="built for other variables than it is applied to"):
        optimizer.apply(gradients, model.trainable_variables)


def test_state_of_something_else_is_not_loaded():
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1), Replacement(), TOTAL)
    optimizer.build([masked_kernel((5, 4)).kernel])
    with pytest.warns(UserWarning, match="comes from another optimizer, rule or model"):
        optimizer.load_own_variables({"0": np.zeros([])})


# What it refuses.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseOptimizer("adam", Replacement()), r"must be an optimizer of Keras.*'adam'"),
        (
            lambda: SparseOptimizer(SparseOptimizer(sgd(), Replacement()), Replacement()),
            r"Wrap an optimizer once",
        ),
        (
            lambda: SparseOptimizer(
                keras.optimizers.LossScaleOptimizer(SparseOptimizer(sgd(), Replacement())),
                Replacement(),
            ),
            r"Wrap an optimizer once",
        ),
        (lambda: SparseOptimizer(sgd(), "rigl"), r"must be a TopologyRule.*'rigl'"),
        (lambda: SparseOptimizer(sgd(), Exploration), r"must be a TopologyRule"),
        (lambda: SparseOptimizer(sgd(), Replacement(), 0), r"total_steps must be a positive"),
        (lambda: SparseOptimizer(sgd(), Replacement(), seed=-1), r"seed must be an integer"),
        (
            lambda: SparseOptimizer(sgd(), Replacement(slots="reset")),
            r"Replacement.slots must be one of keep, zero, age, got 'reset'",
        ),
        (
            lambda: SparseOptimizer(sgd(), Replacement(slots="age")),
            r"slots = 'age' .* of Adam and AdamW .* the optimizer is SGD",
        ),
        (lambda: SparseOptimizer(sgd(), DensityAdjustment()), r"follows the balance of two"),
        (
            lambda: SparseOptimizer(sgd(), Replacement(drop_scores=gradient_flow)),
            r"needs second derivatives",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_training_shorter_than_the_interval_keeps_its_masks():
    with pytest.warns(UserWarning, match=r"a training of 2 steps has no step for it"):
        optimizer = SparseOptimizer(sgd(), Exploration(update_interval=1000), 2)
    mask = masked_kernel((5, 4))
    before = mask.kernel_mask.numpy()
    for _ in range(2):
        optimizer.apply([tf.ones([5, 4])], [mask.kernel])
    np.testing.assert_array_equal(mask.kernel_mask.numpy(), before)


def test_an_optimizer_that_was_used_before_is_refused():
    inner = sgd()
    inner.build([masked_kernel((5, 4)).kernel])
    with pytest.raises(InputError, match="already belongs to other variables"):
        SparseOptimizer(inner, Replacement())


@pytest.mark.parametrize("slots", ["keep", "zero"])
def test_an_optimizer_inside_two_others_is_refused(slots):
    inner = sgd()
    one, other = (SparseOptimizer(inner, Replacement(slots=slots), TOTAL) for _ in range(2))
    one.build([masked_kernel((5, 4)).kernel])
    with pytest.raises(InputError, match=r"already belongs to other variables\. Give a new"):
        other.build([masked_kernel((5, 4)).kernel])


def test_a_model_without_masks_is_refused():
    layer = layers.Dense(3)
    layer.build([None, 2])
    optimizer = SparseOptimizer(sgd(), Replacement(), TOTAL)
    with pytest.raises(InputError, match=r"found no mask .*model = st.sparsify\(model, 0.9\)"):
        optimizer.apply([tf.ones([2, 3])], [layer.kernel])


def test_an_unknown_length_is_refused():
    optimizer = SparseOptimizer(sgd(), Replacement())
    with pytest.raises(InputError, match=r"does not know how many steps.*TopologyMonitor"):
        optimizer.apply([tf.ones([5, 4])], [masked_kernel((5, 4)).kernel])
    with pytest.raises(InputError, match="Give `steps_per_epoch` to fit"):
        optimizer.expect(num_epochs=3, steps_per_epoch=None)
    known = SparseOptimizer(sgd(), Replacement(), TOTAL)
    known.expect(num_epochs=3, steps_per_epoch=None)


def test_two_optimizers_on_one_mask_are_refused_until_the_first_is_done():
    mask, gradient = masked_kernel((5, 4)), [tf.ones([5, 4])]
    first = SparseOptimizer(sgd(), Replacement(), TOTAL)
    second = SparseOptimizer(sgd(), Replacement(), TOTAL)
    first.apply(gradient, [mask.kernel])
    second.apply(gradient, [mask.kernel])  # The model was compiled again.
    with pytest.raises(InputError, match=r"Two SparseOptimizers change the mask of layer"):
        first.apply(gradient, [mask.kernel])


@pytest.mark.parametrize("name", ["Adafactor", "MultiOptimizer"])
def test_slots_of_other_shapes_can_only_be_kept(name):
    def inner():
        if name == "Adafactor":
            return keras.optimizers.Adafactor(0.1)
        return keras.optimizers.MultiOptimizer(lambda variable: adam)

    adam = keras.optimizers.Adam(0.1)
    mask = masked_kernel((5, 4))
    with pytest.raises(InputError, match=rf"{name} keeps state of the shape .*slots = 'keep'"):
        SparseOptimizer(inner(), Replacement(slots="zero"), TOTAL).build([mask.kernel])
    adam = keras.optimizers.Adam(0.1)
    ones = mask.num_active()
    applied(inner(), Replacement(), mask, gradients_of((5, 4), 4))
    assert mask.num_active() == ones
    mask.check_zeros()


def test_an_amount_that_depends_on_the_density_is_refused():
    class Sparser(PeriodicRule):
        drop_scores = magnitude
        update = prune_per_layer

        def amount(self, state):
            return 1 - 0.9 * state.density

    with pytest.raises(InputError, match=r"Sparser.amount depends on the density"):
        SparseOptimizer(sgd(), Sparser(update_interval=2), TOTAL)


def test_amounts_of_several_shapes_are_refused():
    class Strange(PeriodicRule):
        drop_scores = magnitude
        grow_scores = gradient_magnitude
        update = prune_and_regrow_per_layer

        def amount(self, state):
            return 0.5 if state.step < 5 else [0.5, 0.25]

    with pytest.raises(InputError, match="must have one shape"):
        SparseOptimizer(sgd(), Strange(update_interval=2), TOTAL)


def test_a_scale_that_the_loss_does_not_have_is_refused():
    inner = keras.optimizers.LossScaleOptimizer(sgd())
    optimizer = SparseOptimizer(inner, Replacement(), TOTAL)
    with pytest.raises(InputError, match=r"the loss was not multiplied by it"):
        optimizer.apply([tf.ones([5, 4])], [masked_kernel((5, 4)).kernel])


def test_gradual_pruning_reaches_its_sparsity():
    pytest.importorskip("tensorflow_model_optimization")
    mask = masked_kernel((5, 4), density=1.0)
    rule = GradualPruning(update_interval=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        applied(sgd(), rule, mask, gradients_of((5, 4), TOTAL))
    assert mask.num_active() == 1  # 5 % of 20


def convolutional():
    keras.utils.set_random_seed(0)
    images = keras.Input([6, 6, 4])
    outputs = layers.Conv2D(8, 3, padding="same", activation="relu")(images)
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(outputs))
    return sparsify(keras.Model(images, layers.Dense(3)(outputs)), 0.7)


@pytest.mark.ci
@pytest.mark.usefixtures("operations")
def test_sparse_execution_trains_as_dense_execution_does():
    x, y = gradients_of([6, 6, 4], 24), gradients_of([3], 24)
    trained = []
    for execution in ("dense", "sparse"):
        model = set_execution(convolutional(), execution)
        rule = Replacement(update_interval=3, slots="zero")
        optimizer = SparseOptimizer(keras.optimizers.Adam(0.01), rule, total_steps=12)
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append(model)
    for dense, sparse in zip(*map(kernel_masks, trained), strict=True):
        np.testing.assert_array_equal(value(sparse.kernel_mask), value(dense.kernel_mask))
        np.testing.assert_allclose(value(sparse.kernel), value(dense.kernel), atol=1e-5)


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize(
    ("inner", "slots", "always"),
    [
        ({}, "zero", False),
        ({}, "age", False),
        ({}, "keep", True),
        ({"global_clipnorm": 1.0}, "zero", True),
    ],
)
def test_sparse_execution_leaves_out_gradients_that_nobody_sees(inner, slots, always):
    model = set_execution(convolutional(), "sparse")
    rule = Replacement(update_interval=2, slots=slots)
    optimizer = SparseOptimizer(keras.optimizers.Adam(0.01, **inner), rule, total_steps=4)
    optimizer.build(model.trainable_variables)
    mask = kernel_masks(model)[0]
    found = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(gradients_of([6, 6, 4], 4)) ** 2)
        weights = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, weights)
        found.append(bool(np.any(gradients[0].numpy()[value(mask.kernel_mask) == 0])))
        optimizer.apply(gradients, model.trainable_variables)
    assert found == ([True] * 4 if always else [False, True, False, False])
