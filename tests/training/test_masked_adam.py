import keras
import numpy as np
import pytest
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked, masked_layers
from stugan_tf.training.masked_adam import MOMENTS, MaskedAdam
from tests.helpers import reference
from tests.helpers.params import first_by_default

BETAS = [(0.0, 0.9), (0.0, 0.999), (0.5, 0.9)]
MASK = (np.arange(20).reshape(4, 5) % 3 == 0).astype(np.float32)


def build(mask=MASK):
    """A masked kernel, its bias, and a kernel without a mask."""
    model = keras.Sequential(
        [keras.Input((4,)), Masked(layers.Dense(5, name="masked")), layers.Dense(2, name="free")]
    )
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    masked_layers(model)[0].assign_mask(mask)
    return model


def built(optimizer, model):
    optimizer.build(model.trainable_variables)
    return optimizer


def random_gradients(model, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.normal(size=variable.shape)).astype(np.float32)
        for variable in model.trainable_variables
    ]


def apply(optimizer, model, gradients):
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], model.trainable_variables)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(("beta_1", "beta_2"), BETAS)
def test_steps_are_those_of_adam_followed_by_the_mask(beta_1, beta_2):
    """Moments follow the dense gradient, that of weights outside the mask included."""
    settings = {"learning_rate": 0.1, "beta_1": beta_1, "beta_2": beta_2, "epsilon": 1e-3}
    model = build()
    optimizer = built(MaskedAdam(**settings), model)
    expected = [reference.Adam(v.numpy(), **settings) for v in model.trainable_variables]
    for step in range(6):
        mask = np.roll(MASK, step // 2).reshape(MASK.shape)
        masked_layers(model)[0].assign_mask(mask)
        expected[0].weight = expected[0].weight * mask
        gradients = random_gradients(model, step)
        apply(optimizer, model, gradients)
        for variable, adam, gradient in zip(
            model.trainable_variables, expected, gradients, strict=True
        ):
            masked = variable is model.trainable_variables[0]
            close(variable, adam.update(gradient.astype(np.float64), mask if masked else 1.0))


@pytest.mark.parametrize(("beta_1", "beta_2"), BETAS)
@pytest.mark.parametrize("moments", MOMENTS)
def test_under_a_mask_of_ones_it_is_keras_adam(beta_1, beta_2, moments):
    """Where epsilon is too small to matter: Keras adds it before the correction."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    settings = {"learning_rate": schedule, "beta_1": beta_1, "beta_2": beta_2, "epsilon": 1e-10}
    ours, theirs = build(np.ones_like(MASK)), build(np.ones_like(MASK))
    masked_adam = built(MaskedAdam(moments=moments, **settings), ours)
    adam = keras.optimizers.Adam(**settings)
    for step in range(6):
        gradients = random_gradients(ours, step)
        apply(masked_adam, ours, gradients)
        apply(adam, theirs, gradients)
        for variable, expected in zip(
            ours.trainable_variables, theirs.trainable_variables, strict=True
        ):
            close(variable, expected)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("beta_1", [0.0, 0.5])
def test_epsilon_is_added_to_the_corrected_moment(moments, beta_1):
    """m / (sqrt(v) + epsilon) of a first step is g / (|g| + epsilon): half where they are equal."""
    model = build(np.ones_like(MASK))
    before = model.trainable_variables[0].numpy()
    optimizer = MaskedAdam(1e-2, beta_1, beta_2=0.999, epsilon=1e-6, moments=moments)
    gradients = [np.full(v.shape, 1e-6, np.float32) for v in model.trainable_variables]
    apply(built(optimizer, model), model, gradients)
    moved = before - model.trainable_variables[0].numpy()
    np.testing.assert_allclose(moved, 0.5e-2, rtol=1e-3)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_weights_outside_the_mask_are_exactly_zero_after_every_step(moments, beta_1):
    model = build()
    optimizer = built(MaskedAdam(0.1, beta_1=beta_1, moments=moments, weight_decay=0.1), model)
    (layer,) = masked_layers(model)
    for step in range(4):
        mask = np.roll(MASK, step).reshape(MASK.shape)
        layer.assign_mask(mask)
        for _ in range(2):
            apply(optimizer, model, random_gradients(model, step))
            assert np.all(layer.kernel.numpy()[mask == 0] == 0)
            assert np.all(layer.kernel.numpy()[mask == 1] != 0)


@pytest.mark.parametrize("num_steps", first_by_default(10, 0, 1, 60))
@pytest.mark.parametrize(("beta_1", "beta_2"), BETAS)
def test_the_first_step_of_a_grown_weight_is_about_the_learning_rate(num_steps, beta_1, beta_2):
    """Whatever its former gradients were and however late it grows, with active moments."""
    model = build()
    optimizer = built(MaskedAdam(0.01, beta_1=beta_1, beta_2=beta_2, moments="active"), model)
    (layer,) = masked_layers(model)
    for step in range(num_steps):
        apply(optimizer, model, random_gradients(model, step, scale=100))
    layer.assign_mask(1 - MASK)
    gradients = random_gradients(model, 99)
    apply(optimizer, model, gradients)
    expected = -0.01 * np.sign(gradients[0]) * (1 - MASK)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-2)


def test_with_dense_moments_a_grown_weight_starts_calibrated():
    """Its second moment knows the gradients from when it was inactive: no leap, unlike RigL's."""
    model = build()
    optimizer = built(MaskedAdam(0.01, beta_2=0.999), model)
    (layer,) = masked_layers(model)
    for step in range(20):
        apply(optimizer, model, random_gradients(model, step, scale=100))
    layer.assign_mask(1 - MASK)
    apply(optimizer, model, random_gradients(model, 99))
    assert np.max(np.abs(layer.kernel)) < 0.01 * 0.05


@pytest.mark.parametrize("beta_1", [0.0, 0.5])
def test_active_moments_are_those_of_an_adam_started_when_the_weight_grew(beta_1):
    settings = {"learning_rate": 0.1, "beta_1": beta_1, "beta_2": 0.9, "epsilon": 1e-3}
    model = build()
    optimizer = built(MaskedAdam(moments="active", **settings), model)
    (layer,) = masked_layers(model)
    # One Adam for each weight while it lives; index 1 is dropped after 3 steps, regrown after 5.
    lives = {1: [(0, 3), (5, 9)], 3: [(2, 9)], 4: [(0, 9)]}
    adams = {}
    for step in range(9):
        mask = np.zeros(20, np.float32)
        for index, spans in lives.items():
            mask[index] = any(first <= step < last for first, last in spans)
            if any(step == first for first, _ in spans):
                weight = layer.kernel.numpy().ravel()[index] if step == 0 else 0.0
                adams[index] = reference.Adam(weight * mask[index], **settings)
        layer.assign_mask(mask.reshape(MASK.shape))
        gradients = random_gradients(model, step)
        apply(optimizer, model, gradients)
        for index in lives:
            expected = adams[index].update(float(gradients[0].ravel()[index])) if mask[index] else 0
            close(layer.kernel.numpy().ravel()[index], expected)


def test_active_moments_of_a_dropped_weight_are_zeroed():
    model = build()
    optimizer = built(MaskedAdam(0.1, beta_1=0.5, moments="active"), model)
    apply(optimizer, model, random_gradients(model, 0))
    masked_layers(model)[0].assign_mask(1 - MASK)
    apply(optimizer, model, random_gradients(model, 1))
    slots = {v.path.split("/")[-1]: v.numpy() for v in optimizer.variables}
    of_kernel = [value for name, value in slots.items() if "masked_kernel_" in name]
    assert len(of_kernel) == 3  # first moment, second moment, age
    for moment in of_kernel:
        assert np.all(moment[MASK == 1] == 0)
        assert np.all(moment[MASK == 0] != 0)


def test_without_a_first_moment_none_is_stored():
    sizes = {}
    for beta_1 in (0.0, 0.5):
        model = build()
        optimizer = built(MaskedAdam(beta_1=beta_1), model)
        sizes[beta_1] = len(optimizer.variables)
    assert sizes[0.5] - sizes[0.0] == len(build().trainable_variables)


def test_the_configuration_describes_the_optimizer():
    optimizer = MaskedAdam(0.1, beta_1=0.3, beta_2=0.8, epsilon=1e-5, moments="active")
    copy = MaskedAdam.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    assert copy.moments == "active"
    assert (copy.beta_1, copy.beta_2, copy.epsilon) == (0.3, 0.8, 1e-5)


def test_the_defaults_are_those_of_sngan():
    optimizer = MaskedAdam()
    assert float(optimizer.learning_rate) == pytest.approx(2e-4)
    settings = (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon, optimizer.moments)
    assert settings == (0.0, 0.9, 1e-8, "dense")


def test_unknown_moments_are_refused():
    with pytest.raises(InputError, match=r"must be one of \('dense', 'active'\), got 'sparse'"):
        MaskedAdam(moments="sparse")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("gradient_accumulation_steps", 4, "not supported, got 4.*Algorithm.accumulation_steps"),
        ("use_ema", True, "not supported, got True.*GAN.average"),
        ("ema_momentum", 0.9, "not supported, got 0.9"),
        ("ema_overwrite_frequency", 5, "not supported, got 5"),
        ("loss_scale_factor", 2.0, "not supported, got 2.0.*train.precision"),
        ("clipnorm", -1.0, "must be a number above 0, got -1.0"),
        ("global_clipnorm", 0, "must be a number above 0, got 0"),
        ("clipvalue", "1", "must be a number above 0, got '1'"),
        ("weight_decay", -0.1, "must be a number above 0, got -0.1"),
        ("learning_rate", float("inf"), "must be finite, got inf"),
        ("epsilon", float("inf"), "must be finite, got inf"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(name, value, told):
    with pytest.raises(InputError, match=rf"MaskedAdam.{name} .*{told}"):
        MaskedAdam(**{name: value})


@pytest.mark.parametrize(
    "settings", [{"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"clipvalue": 0.1}]
)
def test_clipped_gradients_keep_the_zeros(settings):
    """Each option does something: with a large epsilon a step follows the size of the gradient."""
    steps = []
    for options in ({}, settings):
        model = build()
        before = model.trainable_variables[0].numpy()
        optimizer = built(MaskedAdam(0.1, epsilon=10.0, **options), model)
        apply(optimizer, model, random_gradients(model, 0))
        steps.append(np.abs(before - model.trainable_variables[0].numpy()))
        assert np.all(masked_layers(model)[0].kernel.numpy()[MASK == 0] == 0)
    assert np.max(steps[1]) < 0.5 * np.max(steps[0])


class ZeroMean(keras.constraints.Constraint):
    def __call__(self, w):
        return w - keras.ops.mean(w)


def constrained(constraint):
    masked = Masked(layers.Dense(5, kernel_constraint=constraint, name="mine"))
    return keras.Sequential([keras.Input((4,)), masked])


@pytest.mark.parametrize(
    "constraint",
    [keras.constraints.MaxNorm(0.1), keras.constraints.UnitNorm(), "non_neg", ZeroMean()],
)
def test_a_constraint_of_the_kernel_comes_before_the_mask(constraint):
    model = constrained(constraint)
    (layer,) = masked_layers(model)
    layer.assign_mask(MASK)
    optimizer = built(MaskedAdam(0.1), model)
    for step in range(3):
        apply(optimizer, model, random_gradients(model, step))
        kernel = layer.kernel.numpy()
        assert np.all(kernel[MASK == 0] == 0)
        if not isinstance(constraint, ZeroMean):
            again = keras.ops.convert_to_numpy(layer.layer.kernel_constraint(layer.kernel))
            np.testing.assert_allclose(again, kernel, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("moments", first_by_default(*MOMENTS))
def test_a_compiled_model_trains_and_goes_on_after_it_was_loaded(tmp_path, moments):
    x, y = np.random.default_rng(0).normal(size=[2, 8, 4]), np.ones([8, 2])
    model = build()
    model.compile(MaskedAdam(0.1, moments=moments), "mse")
    model.fit(x[0], y, verbose=0)
    model.save(tmp_path / "mine.keras")
    loaded = keras.models.load_model(tmp_path / "mine.keras")
    for each in (model, loaded):
        each.fit(x[1], y, verbose=0, shuffle=False)
        assert np.all(masked_layers(each)[0].kernel.numpy()[MASK == 0] == 0)
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_rate_of_any_update_is_known():
    assert MaskedAdam(0.1).rate_at(7) == pytest.approx(0.1)
    optimizer = MaskedAdam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5))
    assert [optimizer.rate_at(n) for n in (0, 2, 4)] == pytest.approx([0.1, 0.05, 0.025])


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_weight_that_starts_again_makes_the_first_step_of_another(moments):
    settings = {"learning_rate": 0.1, "beta_1": 0.5, "moments": moments}
    model = build(np.ones_like(MASK))
    kernel = masked_layers(model)[0].kernel
    optimizer = built(MaskedAdam(**settings), model)
    for step in range(3):
        apply(optimizer, model, random_gradients(model, step))
    where = MASK > 0
    optimizer.restart(kernel, where)
    slots = [v.numpy() for v in optimizer.variables if tuple(v.shape) == where.shape]
    assert len(slots) == {"dense": 2, "active": 3}[moments]
    for slot in slots:
        assert not np.any(slot[where])
        assert np.all(slot[~where])
    before = kernel.numpy()
    gradients = random_gradients(model, 9)
    apply(optimizer, model, gradients)
    if moments == "active":
        close(kernel.numpy()[where], (before - 0.1 * np.sign(gradients[0]))[where])
