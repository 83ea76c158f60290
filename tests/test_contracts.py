"""What a user brings is tried before step 1, and refused with the contract that it breaks."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf import config
from stugan_tf.contracts import Declared
from stugan_tf.errors import InputError
from stugan_tf.sparsity import criteria, topology
from stugan_tf.sparsity.averaging import Average, check_average, ema, of_parameters, sema
from stugan_tf.sparsity.criteria import Criterion, check_criterion, criterion
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.distributions import check_draw, densities_by, erk
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.magnitude_pruning import check_pruning, prune_jointly, prune_uniformly
from stugan_tf.sparsity.pruning import GradualPruning
from stugan_tf.sparsity.rule import TopologyRule
from stugan_tf.sparsity.training_flops import num_dense_gradients
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.augmentation import Augmentation, check_augmentation, diff_augment
from stugan_tf.training.learning_rates import linear_decay
from stugan_tf.training.losses import Loss, hinge, least_squares, non_saturating, wasserstein
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.orthogonality import OrthogonalRegularization


@criterion(gradient="none", is_uniform=True)
def own_random(weight, gradient, seed):
    del gradient
    return tf.random.stateless_uniform(tf.shape(weight), seed)


def identity(function):
    """A decorator as gin's: what it returns names what it wraps."""
    return functools.wraps(function)(lambda *arguments: function(*arguments))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda found: found,
        functools.partial,
        identity,
        lambda found: identity(functools.partial(identity(found))),
        lambda found: Criterion(lambda *x: found(*x), gradient="none", is_uniform=True),
    ],
)
@pytest.mark.parametrize("found", [own_random, criteria.random_scores])
def test_a_criterion_keeps_its_needs_in_a_wrapper(wrap, found):
    wrapped = wrap(found)
    declared = Criterion.of(wrapped)
    assert (declared.gradient, declared.is_uniform) == ("none", True)
    arguments = tf.zeros([2, 3]), tf.zeros([2, 3]), (1, 2)
    np.testing.assert_array_equal(declared(*arguments), found(*arguments))
    rule = Exploration(10, grow_scores=wrapped, update=topology.prune_and_regrow_bernoulli)
    assert num_dense_gradients(rule, 0, 40, 40) == 0


def test_what_a_wrapper_changes_is_called_and_not_lost():
    doubled = functools.wraps(own_random)(lambda w, g, s: 2 * own_random(w, g, s))
    arguments = tf.zeros([2, 3]), tf.zeros([2, 3]), (1, 2)
    np.testing.assert_array_equal(Criterion.of(doubled)(*arguments), 2 * own_random(*arguments))


def test_a_scoped_gin_reference_keeps_the_needs():
    config.parse_gin(
        bindings=[
            "Exploration.grow_scores = @generator/random_scores",
            "Exploration.update = @prune_and_regrow_bernoulli",
        ]
    )
    assert Criterion.of(Exploration().grow_scores).is_uniform
    config.parse_gin()


def test_a_plain_function_has_the_needs_of_its_family():
    assert Criterion.of(lambda weight, gradient, seed: weight).gradient == "loss"
    assert Average.of(functools.partial(ema)).averages_untrained
    assert not Average.of(functools.partial(of_parameters, rule=ema)).averages_untrained


def test_needs_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="must be one of loss, hessian, none, got 'dense'"):
        criterion(gradient="dense")(lambda weight, gradient, seed: weight)


def two_arguments(weight, gradient):
    return weight * gradient


SHAPE = r"float32 \[1, 1, 2, 3\]"


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (two_arguments, r"@two_arguments must be `\(weight, gradient, seed\) -> scores`.*its sig"),
        (lambda w, g, s: tf.reduce_sum(w), rf"be a tensor, {SHAPE}, got float32 \[\]"),
        (lambda w, g, s: tf.cast(w, tf.float64), rf"{SHAPE}, got float64 \[1, 1, 2, 3\]"),
        (lambda w, g, s: w.numpy(), "got NumPy's float32"),
        (lambda w, g, s: None, "got None"),
        (lambda w, g, s: tf.math.log(w), "has NaN"),
        (
            lambda w, g, s: w.nonsense,
            r"gradient = .* it raised .*nonsense.*test_contracts.py, line",
        ),
    ],
)
@pytest.mark.parametrize("rule", [Exploration, DensityAdjustment, GradualPruning])
def test_a_wrong_criterion_is_refused(rule, scores, told):
    with pytest.raises(InputError, match=rf"{rule.__name__}.drop_scores.*{told}"):
        rule(drop_scores=scores)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (lambda: 0.5, r"`\(progress\) -> p`.*too many positional arguments"),
        (lambda progress, step: 0.5, "missing a required argument: 'step'"),
        (lambda progress: "half", "should be a number, got 'half'"),
        (lambda progress: [0.5], r"should be a number, got list of 1 \(0.5\)"),
        (lambda progress: float("nan"), "must stay in .* nan"),
        (lambda progress: 1 / (progress - 0.5), "must stay in"),
        (lambda progress: 0.5 + 0 / progress, "progress = 0.0 it raised ZeroDivisionError"),
    ],
)
def test_a_wrong_schedule_is_refused(schedule, told):
    with pytest.raises(InputError, match=f"Exploration.drop_fraction.*{told}"):
        Exploration(drop_fraction=schedule)


def test_a_schedule_may_return_scalars_of_any_kind():
    for kind in (float, np.float32, np.array, tf.constant):
        Exploration(drop_fraction=lambda progress, kind=kind: kind(0.25))


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (lambda masks, drop, grow, p: masks, "missing a required argument: 'p'"),
        (lambda masks, scores, amount: masks, "`masks` should be a list of 2"),
        (lambda masks, scores, amount: (masks, masks, 0), "other than a pair"),
        (lambda masks, scores, amount: (scores.drop, masks), r"`masks\[0\]` should hold zeros and"),
        (lambda masks, scores, amount: (masks, masks[1:]), "`kept` should be a list of 2"),
    ],
)
def test_a_wrong_update_is_refused(update, told):
    with pytest.raises(InputError, match=f"Exploration.update.*{told}"):
        Exploration(update=update)


@pytest.mark.parametrize(
    ("side", "function", "told"),
    [
        ("generator", lambda fake, real: 0.0, "missing a required argument: 'real'"),
        (
            "generator",
            lambda fake: -fake,
            r"should be a tensor, float32 \[\], got float32 \[2, 1\]",
        ),
        ("discriminator", lambda fake: 0.0, r"`\(real_logits, fake_logits\) -> loss`.*too many"),
        ("discriminator", lambda real, fake: tf.reduce_mean(tf.sqrt(fake)), "has NaN"),
        ("generator", lambda fake: tf.constant(fake.numpy().mean()), "no gradient comes back"),
    ],
)
def test_a_wrong_loss_is_refused(side, function, told):
    loss = wasserstein()._replace(**{side: function})
    with pytest.raises(InputError, match=f"Algorithm.loss's {side}.*{told}"):
        Algorithm(total_steps=1, loss=loss)


def test_the_losses_of_this_package_keep_their_contract():
    for loss in (hinge, least_squares, non_saturating, wasserstein):
        assert isinstance(Algorithm(total_steps=1, loss=loss()).loss, Loss)


@pytest.mark.parametrize(
    ("average", "told"),
    [
        (lambda average, weight, mask: average, "too many positional arguments in a call with 5"),
        (lambda a, w, m, s, d: a, "other than a pair"),
        (lambda a, w, m, s, d: (a, m), "second result should be bool"),
        (lambda a, w, m, s, d: (tf.reduce_mean(a), s), r"first result.*float32 \[2, 3\], got"),
    ],
)
def test_a_wrong_average_is_refused(average, told):
    with pytest.raises(InputError, match=f"GAN.average.*{told}"):
        check_average("GAN.average", average)


class Brighter(Augmentation):
    """Keeps the contract; `Longer` does not."""

    def draw(self, num, image_shape, seed):
        return [tf.random.stateless_uniform([num, 1, 1, 1], seed)]

    def apply(self, images, drawn):
        return images + drawn[0]


class Longer(Brighter):
    def apply(self, images, drawn):
        return tf.concat([images, drawn[0] + images], axis=1)


class Narrow(Brighter):
    def draw(self, num, image_shape, seed):
        return [tf.zeros([1])]


def test_augmentations_are_tried_on_images_of_the_data():
    for image_shape in ((8, 8, 3), (4, 6, 1)):
        check_augmentation("Algorithm.augmentation", Brighter(()), image_shape)
    check_augmentation("Algorithm.augmentation", diff_augment(), (8, 8, 3))
    for wrong, told in ((Longer, r"float32 \[2, 8, 8, 3\], got"), (Narrow, "for 2 images it")):
        with pytest.raises(InputError, match=told):
            check_augmentation("Algorithm.augmentation", wrong(()), (8, 8, 3))


class Own(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, function):
        self.function = function

    def __call__(self, step):
        return self.function(step)


def test_learning_rates_are_tried():
    MaskedAdam(Own(lambda step: 1e-3 / (tf.cast(step, tf.float32) + 1)))
    MaskedAdam(linear_decay(1e-3, 10))
    for wrong, told in (
        (lambda step: 1e-3, "is not a keras.optimizers.schedules.LearningRateSchedule"),
        (Own(lambda step: -1.0), "at step 0 it is -1.0"),
        (Own(lambda step: [1e-3]), "should be a number"),
    ):
        with pytest.raises(InputError, match=f"MaskedAdam.learning_rate.*{told}"):
            MaskedAdam(wrong)


@dataclasses.dataclass(frozen=True)
class Forgetful(OrthogonalRegularization):
    def gradients(self, model):
        return [2 * model.trainable_variables[0].value]


def test_regularisations_are_tried():
    Algorithm(total_steps=1, generator_regularization=OrthogonalRegularization())
    with pytest.raises(InputError, match=r"generator_regularization's gradients.*for 2 variables"):
        Algorithm(total_steps=1, generator_regularization=Forgetful())


def test_distributions_draws_and_prunings_are_tried():
    shapes = [(1, 1, 2, 3), (4, 5)]
    assert densities_by("sparsify.distribution", erk, shapes, 0.5) == erk(shapes, 0.5)
    for prune in (prune_jointly, prune_uniformly):
        check_pruning("prune_and_finetune.pruning", prune)
    for check, told in (
        (lambda: densities_by("d", lambda shapes, density: [density], shapes, 0.5), "for 2 shapes"),
        (
            lambda: densities_by("d", lambda shapes, density: [2, 2], shapes, 0.5),
            r"outside \[0, 1\]",
        ),
        (lambda: check_draw("d", lambda shape, density: tf.ones(shape)), "in a call with 3"),
        (lambda: check_draw("d", lambda s, d, seed: tf.fill(s, d)), "other numbers"),
        (lambda: check_pruning("p", lambda kernels, sparsity: kernels[:1]), "for 2 kernels"),
    ):
        with pytest.raises(InputError, match=told):
            check()


class PlainRule(TopologyRule):
    """As the documentation of `TopologyRule` has it."""

    drop_scores = criteria.magnitude
    grow_scores = criteria.gradient_magnitude
    update = topology.prune_and_regrow_globally

    def is_due(self, step, total_steps):
        return step % 4 == 0 and step < total_steps

    def amount(self, state):
        return 0.5 * state.progress


def refused(match, **attributes):
    rule = type("Broken", (PlainRule,), attributes)
    with pytest.raises(InputError, match=match):
        Algorithm(total_steps=20, generator_exploration=rule())


def test_a_rule_as_documented_works():
    rule = PlainRule()
    Algorithm(total_steps=20, generator_exploration=rule)
    assert rule.num_updates(20) == 4
    assert [rule.next_due(step, 20) for step in (0, 4, 15, 16)] == [4, 8, 16, None]
    assert "4 topology updates, when PlainRule.is_due says so" in rule.description(20, None)
    assert num_dense_gradients(rule, 0, 20, 20) == 4


def test_criteria_of_a_rule_may_be_methods():
    class Scaled(PlainRule):
        scale = 3.0

        def drop_scores(self, weight, gradient, seed):
            del gradient, seed
            return self.scale * tf.abs(weight)

    Algorithm(total_steps=20, generator_exploration=Scaled())


def test_a_drop_fraction_of_any_rule_is_logged():
    class Linear(PlainRule):
        drop_fraction = lambda progress: 0.5 * progress  # noqa: E731

    algorithm = Algorithm(
        total_steps=20,
        generator_exploration=Linear(),
        discriminator_exploration=PlainRule(),
    )
    assert algorithm.drop_fraction("generator", 10) == 0.25
    assert algorithm.drop_fraction("discriminator", 10) is None


def test_a_rule_that_breaks_its_contract_is_refused():
    refused(
        r"Broken.amount = a lambda must be `\(state\) -> amount`.* 'half'",
        amount=lambda _, state: "half",
    )
    refused("Broken.amount = a lambda must be.*returned nan", amount=lambda _, state: float("nan"))
    refused("Broken.amount = a lambda must be.*too many", amount=lambda _: 0.5)
    refused("Broken.is_due = a lambda must be.*returned None", is_due=lambda *_: None)
    refused("Broken.next_due = a lambda must be.*returned 3", next_due=lambda *_: 3)
    refused("Broken.update.*other than a pair", update=lambda masks, scores, amount: None)
    refused("Broken.drop_scores = @two_arguments must be", drop_scores=two_arguments)
    refused("Broken.gradient_momentum must be in", gradient_momentum=2)


def test_a_rule_without_its_methods_says_which():
    incomplete = type("Incomplete", (TopologyRule,), {"is_due": PlainRule.is_due})
    with pytest.raises(InputError, match="Incomplete does not define amount, update"):
        incomplete()


def test_a_setting_of_a_rule_that_a_field_would_hide_is_refused():
    """The `__init__` of a dataclass sets the field again, to the default of the class below."""

    class Plain(Exploration):
        drop_scores = criteria.random_scores

    @dataclasses.dataclass(frozen=True)
    class Untyped(Exploration):
        drop_scores = criteria.random_scores

    @dataclasses.dataclass(frozen=True)
    class Typed(Exploration):
        drop_scores: Criterion = criteria.random_scores

    for wrong in (Plain, Untyped):
        with pytest.raises(InputError, match=f"{wrong.__name__} sets drop_scores in its body"):
            wrong()
    assert Typed().drop_scores is criteria.random_scores


def test_the_schedule_of_a_pruning_is_tried():
    def rule(schedule):
        Algorithm(total_steps=20, generator_exploration=GradualPruning(schedule=schedule))

    for schedule, told in (
        (lambda total_steps: None, "too many positional arguments in a call with 2"),
        (lambda *_: lambda steps: (steps > 3, 95.0), r"\[0, 1\).*sparsities go from 95 to 95"),
        (lambda *_: lambda steps: None, "does not fit"),
    ):
        with pytest.raises(InputError, match=f"GradualPruning.schedule.*{told}"):
            rule(schedule)


def test_trials_leave_functions_compiled_as_they_were():
    for eager in (False, True):
        tf.config.run_functions_eagerly(eager)
        try:
            check_criterion("Exploration.drop_scores", criteria.magnitude)
            check_average("GAN.average", sema)
            assert tf.config.functions_run_eagerly() == eager
        finally:
            tf.config.run_functions_eagerly(False)


def test_what_declares_nothing_else_is_called_as_it_is():
    assert Declared.of(max)(2, 3) == 3
