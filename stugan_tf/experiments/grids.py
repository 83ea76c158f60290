"""The tables and figures of the paper (fidelity.md, section 7), and more grids beyond it.

Beyond it are gradual pruning, ADAPT (5.1), and ablations of our choices where the paper is silent
(8).

Table 2 is computed, not trained: see `costs`. Where the paper does not say which sparsities a
figure shows, s_G is 10, 20, ... 90 and 95 %.
"""

import dataclasses
from collections.abc import Sequence

from stugan_tf.experiments.grid import S_G, Grid, Line, Point

CIFAR = ("sngan", "biggan")
TABLE_SPARSITIES = (0.95, 0.9, 0.8)
FIGURE_SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def percent(sparsity: float) -> str:
    """A sparsity as text: '95 %' for 0.95."""
    return f"{100 * sparsity:g} %"


def at(sparsity: float) -> str:
    """The label of a column of one s_G."""
    return f"s_G {percent(sparsity)}"


def generator_sparsities(sparsities: Sequence[float]) -> tuple[Point, ...]:
    """Points along s_G."""
    return tuple(Point(at(s), s, (f"GAN.generator_sparsity = {s}",)) for s in sparsities)


def both_sparsities(sparsities):
    """{label of a point: bindings} with a discriminator as sparse as the generator."""
    return {
        at(s): (f"GAN.generator_sparsity = {s}", f"GAN.discriminator_sparsity = {s}")
        for s in sparsities
    }


def against(sparsity, label, file, *bindings, **others):
    """A method of one training, with a discriminator of the given sparsity."""
    bindings = (f"GAN.discriminator_sparsity = {sparsity}", *bindings)
    return Line(label, (f"methods/{file}.gin",), bindings, **others)


def one_phase(method, file, sparsity, **others):
    """A method of one training, with the sparsity of the discriminator in its label."""
    return against(sparsity, f"{method}, s_D {percent(sparsity)}", file, **others)


def static(sparsity, **others):
    """Static Sparse."""
    return one_phase("Static Sparse", "static", sparsity, key=f"static-D{sparsity}", **others)


def stu(sparsity, **others):
    """STU-GAN: Explore G."""
    return one_phase("STU-GAN", "stu", sparsity, key=f"stu-D{sparsity}", **others)


def prune_and_finetune(label, file, *bindings, **others):
    """PF from the last checkpoint of SNGAN and the best of BigGAN, as in the reference code."""
    return tuple(
        Line(
            label,
            (f"methods/prune_and_finetune_{file}.gin",),
            (*bindings, f"prune_and_finetune.start_from = '{start}'"),
            models=(model,),
            pretrains=True,
            **others,
        )
        for model, start in (("sngan", "latest"), ("biggan", "best"))
    )


DENSE = Line("Dense", ("methods/dense.gin",), points=(), key="dense")
UNIFORMLY = "prune_and_finetune.pruning = @prune_uniformly"
# 7 and 9 rounds of pruning 20 % leave 21 and 13 %. The paper has no result at 95 %.
TICKETS = Line(
    "GAN Tickets",
    ("methods/tickets.gin",),
    points=(at(0.9), at(0.8)),
    point_bindings={
        at(0.9): ("GAN.generator_sparsity = 0.8658",),
        at(0.8): ("GAN.generator_sparsity = 0.7903",),
    },
    pretrains=True,
    key="tickets",
)

TABLE_1 = Grid(
    "table1",
    "Table 1: sparse GANs on CIFAR-10",
    CIFAR,
    lines=(
        DENSE,
        *prune_and_finetune("PF (global)", "global", key="pf-global"),
        *prune_and_finetune("PF (uniform)", "uniform", key="pf-uniform"),
        TICKETS,
        static(0.5),
        static(0.7),
        stu(0.5),
        stu(0.7),
    ),
    points=generator_sparsities(TABLE_SPARSITIES),
    claim="STU-GAN beats the other sparse GANs; against s_D = 70 % BigGAN of s_G = 80 % matches "
    "dense training. The 90 % column of GAN Tickets is of 87 %.",
)

TABLE_3 = Grid(
    "table3",
    "Table 3: longer training (ITOP), s_D = 50 %",
    CIFAR,
    lines=(
        against(0.5, "STU-GAN, 1x steps", "stu", key="stu-1x"),
        Line(
            "STU-GAN, 5x steps",
            ("methods/stu.gin", "methods/itop.gin"),
            ("GAN.discriminator_sparsity = 0.5",),
            key="stu-5x",
        ),
    ),
    points=generator_sparsities(TABLE_SPARSITIES),
    claim="Five times as many steps lower FID at every sparsity.",
)


def _of_imagenet(sparsity):
    return Line(
        f"STU-GAN, s_D 50 %, s_G {percent(sparsity)}",
        ("methods/stu.gin",),
        (f"GAN.generator_sparsity = {sparsity}", "GAN.discriminator_sparsity = 0.5"),
        points=(),
        key=f"stu-G{sparsity}-D0.5",
    )


TABLE_4 = Grid(
    "table4",
    "Table 4: BigGAN on ImageNet at 128x128, no truncation",
    ("imagenet",),
    lines=(
        DENSE,
        Line("Small Dense", ("small_dense",), points=(), key="small-dense"),
        _of_imagenet(0.6),
        _of_imagenet(0.9),
    ),
    points=(),
    claim="STU-GAN of s_G = 60 % is better than dense training, and than a small dense network.",
)

FIGURE_2 = Grid(
    "figure2",
    "Figure 2: pruning G alone or G and D (prune and fine-tune)",
    ("biggan",),
    lines=(
        DENSE,
        *prune_and_finetune("PF (global)", "global", panel="global", key="pf-global"),
        *prune_and_finetune(
            "PF (global) of G & D",
            "gd",
            panel="global",
            point_bindings=both_sparsities(FIGURE_SPARSITIES),
        ),
        *prune_and_finetune("PF (uniform)", "uniform", panel="uniform", key="pf-uniform"),
        *prune_and_finetune(
            "PF (uniform) of G & D",
            "gd",
            UNIFORMLY,
            panel="uniform",
            point_bindings=both_sparsities(FIGURE_SPARSITIES),
        ),
    ),
    points=generator_sparsities(FIGURE_SPARSITIES),
    axis=S_G,
    claim="Pruning G and D together gives a lower FID than pruning G alone.",
)

FIGURE_3 = Grid(
    "figure3",
    "Figure 3: the balance of static sparse networks",
    CIFAR,
    lines=(DENSE, *(static(s) for s in (0.0, 0.5, 0.9))),
    points=generator_sparsities(FIGURE_SPARSITIES),
    axis=S_G,
    claim="A dense discriminator is too strong for a sparse generator; one of 90 % zeros lacks the "
    "capacity to match dense training. FID rises fastest at s_G of 90 and 95 %.",
)

FIGURE_4 = Grid(
    "figure4",
    "Figure 4: Static Sparse against STU-GAN",
    CIFAR,
    lines=(
        DENSE,
        *(
            line
            for s in (0.0, 0.5, 0.7, 0.9)
            for line in (static(s, panel=f"s_D {percent(s)}"), stu(s, panel=f"s_D {percent(s)}"))
        ),
    ),
    points=generator_sparsities(FIGURE_SPARSITIES),
    axis=S_G,
    claim="STU-GAN beats Static Sparse everywhere, most at high s_G. BigGAN matches dense training "
    "with s_D of 50 or 70 % and 20 to 90 % of the generator's weights; SNGAN does not with s_D of "
    "70 or 90 %.",
)

FIGURE_5 = Grid(
    "figure5",
    "Figure 5: which network explores, s_D = 50 %",
    CIFAR,
    lines=(
        DENSE,
        static(0.5),
        stu(0.5),
        one_phase("Explore D", "explore_d", 0.5),
        one_phase("Explore G & D", "explore_gd", 0.5),
    ),
    points=generator_sparsities(TABLE_SPARSITIES[::-1]),
    axis=S_G,
    claim="Exploring G & D is worse than exploring G (which is STU-GAN) for BigGAN and equal for "
    "SNGAN; exploring D alone is much worse.",
    style="bars",
)


def _intervals(model):
    return tuple(
        Point(f"Delta T {interval}", interval, (f"Exploration.update_interval = {interval}",))
        for interval in model.intervals
    )


def _at_sparsities(generator, discriminator, model):
    return Line(
        f"STU-GAN, s_G {percent(generator)}, s_D {percent(discriminator)}",
        ("methods/stu.gin",),
        (f"GAN.generator_sparsity = {generator}", f"GAN.discriminator_sparsity = {discriminator}"),
        models=(model,),
    )


FIGURE_6 = Grid(
    "figure6",
    "Figure 6: how often the topology changes",
    CIFAR,
    lines=(
        _at_sparsities(0.95, 0.5, "sngan"),
        _at_sparsities(0.95, 0.95, "biggan"),  # The caption's; the authors' script has s_D 70 %.
        _at_sparsities(0.95, 0.7, "biggan"),
    ),
    points=_intervals,
    axis="Delta T, generator steps between topology updates",
    claim="Best around Delta T of 1000; BigGAN is less sensitive than SNGAN.",
    logarithmic=True,
)


def _gradual(label, file, *bindings):
    """Gradual pruning of the generator to the s_G of each point."""
    return Line(
        label,
        (f"methods/{file}.gin",),
        bindings,
        settings=("gradual_pruning",),
        point_bindings={at(s): (f"polynomial_sparsity.final = {s}",) for s in TABLE_SPARSITIES},
    )


GMP = Grid(
    "gmp",
    "Gradual magnitude pruning beside sparse training",
    CIFAR,
    lines=(
        DENSE,
        static(0.0),
        stu(0.0),
        _gradual("GMP, s_D 0 %", "gmp"),
        _gradual("GMP (per layer), s_D 0 %", "gmp", "GradualPruning.update = @prune_per_layer"),
        static(0.5),
        stu(0.5),
        _gradual("GMP, static s_D 50 %", "gmp", "GAN.discriminator_sparsity = 0.5"),
        _gradual("GMP of G & D, s_D to 50 %", "gmp_gd"),
    ),
    points=generator_sparsities(TABLE_SPARSITIES),
)


def _of_adapt(label, file, *bindings, settings=(), key=""):
    """A row of ADAPT's tables, in their setting."""
    return Line(
        f"{label} (ADAPT)",
        (f"methods/{file}.gin",),
        bindings,
        settings=("adapt", *settings),
        key=key,
    )


_AT_RANDOM = "generator/Exploration.grow_scores = @random_scores"
_HALF = "GAN.discriminator_sparsity = 0.5"
_MOVING = ("adapt_generator",)

ADAPT = Grid(
    "adapt",
    "ADAPT (Wang et al. 2023) beside STU-GAN",
    CIFAR,
    lines=(
        dataclasses.replace(DENSE, label="Dense (ADAPT)", settings=("adapt",), key="adapt-dense"),
        _of_adapt("STU-GAN, s_D 50 %", "stu", _HALF),
        _of_adapt("Static-Balance", "static_balance", key="static-balance"),
        _of_adapt(
            "SDST-Balance-SET", "sdst_balance", _AT_RANDOM, settings=_MOVING, key="sdst-balance-set"
        ),
        _of_adapt("SDST-Balance-RigL", "sdst_balance", settings=_MOVING, key="sdst-balance-rigl"),
        _of_adapt("Static-Strong, s_D 0 %", "static_strong", key="static-strong-D0.0"),
        _of_adapt(
            "SDST-Strong-SET, s_D 0 %",
            "sdst_strong",
            _AT_RANDOM,
            settings=_MOVING,
            key="sdst-strong-set-D0.0",
        ),
        _of_adapt(
            "SDST-Strong-RigL, s_D 0 %",
            "sdst_strong",
            settings=_MOVING,
            key="sdst-strong-rigl-D0.0",
        ),
        _of_adapt(
            "ADAPT relaxed",
            "adapt_relaxed",
            settings=(*_MOVING, "adapt_relaxed"),
            key="adapt-relaxed",
        ),
        _of_adapt("Static-Strong, s_D 50 %", "static_strong", _HALF, key="static-strong-D0.5"),
        _of_adapt(
            "SDST-Strong-SET, s_D 50 %",
            "sdst_strong",
            _HALF,
            _AT_RANDOM,
            settings=_MOVING,
            key="sdst-strong-set-D0.5",
        ),
        _of_adapt(
            "SDST-Strong-RigL, s_D 50 %",
            "sdst_strong",
            _HALF,
            settings=_MOVING,
            key="sdst-strong-rigl-D0.5",
        ),
        _of_adapt(
            "ADAPT strict", "adapt_strict", settings=(*_MOVING, "adapt_strict"), key="adapt-strict"
        ),
    ),
    points=generator_sparsities((0.9, 0.8, 0.7, 0.5)),
    claim="(here Wang et al. 2023, whose numbers these are) a discriminator whose density follows "
    "the balance with the generator is better than one of a fixed density.",
)


def _timed(label, file, *bindings, size):
    """A row of the comparison by time; widths and lengths are those of a size in the preset."""
    execution = () if file == "dense" else ("sparse_execution.gin",)
    return Line(label, (f"methods/{file}.gin", *execution), bindings, settings=(size,))


def _timed_sparse(method, file, width, generator, discriminator, size):
    return _timed(
        f"{method}, {width}x width, s_G {percent(generator)}, s_D {percent(discriminator)}",
        file,
        f"GAN.generator_sparsity = {generator}",
        f"GAN.discriminator_sparsity = {discriminator}",
        size=size,
    )


# A generator of twice the width with 20 % of its weights, and one of four times the width with 5 %,
# multiply about as often for an image as the narrow dense one.
_BY_TIME = (
    _timed("Dense, 1x width", "dense", size="dense_narrow"),
    _timed("Dense, 2x width", "dense", size="dense_wide"),
    _timed_sparse("STU-GAN", "stu", 2, 0.8, 0.5, size="sparse_80"),
    _timed_sparse("STU-GAN", "stu", 2, 0.9, 0.7, size="sparse_90"),
    _timed_sparse("Static Sparse", "static", 2, 0.9, 0.7, size="sparse_90"),
    _timed_sparse("STU-GAN", "stu", 4, 0.95, 0.7, size="sparse_95"),
    _timed_sparse("Static Sparse", "static", 4, 0.95, 0.7, size="sparse_95"),
)


def _learning_rates(model):
    del model
    return tuple(
        Point(f"lr {rate:g}", rate, (f"MaskedAdam.learning_rate = {rate:g}",))
        for rate in (5e-4, 1e-3, 2e-3)
    )


TIME_TO_QUALITY = Grid(
    "time_to_quality",
    "Quality against time: wide and sparse, narrow and dense",
    ("sngan_by_time",),
    lines=tuple(dataclasses.replace(line, points=()) for line in _BY_TIME),
    points=(),
    reference=_BY_TIME[0].label,
)

# By which the learning rates of that grid are chosen.
TIME_TO_QUALITY_RATES = Grid(
    "time_to_quality_rates",
    "Learning rates of the runs that are compared by time",
    ("sngan_by_time",),
    lines=tuple(dataclasses.replace(line, settings=(*line.settings, "short")) for line in _BY_TIME),
    points=_learning_rates,
    axis="learning rate",
    logarithmic=True,
)

# Not in the paper, but comparisons that it asks for.
EXTENSIONS = (GMP, ADAPT, TIME_TO_QUALITY, TIME_TO_QUALITY_RATES)


def _variant(label, *bindings, **others):
    """STU-GAN at s_D = 50 % with something changed."""
    return against(0.5, label, "stu", *bindings, **others)


def _ablation(name, title, *lines):
    return Grid(
        f"ablation_{name}",
        f"Ablation: {title}",
        CIFAR,
        lines=(stu(0.5), *lines),
        points=generator_sparsities((0.95, 0.9)),
    )


ABLATIONS = (
    _ablation(
        "masks",
        "which weights are masked and how masks are drawn (fidelity.md, section 8, 1 and 3)",
        _variant("dense layers masked, too", "GAN.mask_dense = True"),
        _variant("Bernoulli masks", "sparsify.draw = @bernoulli_mask"),
        _variant("ER densities", "sparsify.distribution = @er"),
        _variant(
            "uniform densities",
            "sparsify.distribution = @stugan_tf.sparsity.distributions.uniform",
        ),
        # BigGAN's already are.
        _variant(
            "initial weights of each seed's own",
            "GAN.initialization_seed = None",
            models=("sngan",),
        ),
    ),
    _ablation(
        "scope",
        "the scope of dropping and growing (4)",
        _variant("globally", "Exploration.update = @prune_and_regrow_globally"),
    ),
    _ablation(
        "regrowth",
        "what becomes of a weight that growth wants back at once (5)",
        _variant("from zero", "Exploration.update = @prune_and_regrow_from_zero"),
        _variant("not eligible", "Exploration.update = @prune_and_regrow_elsewhere"),
    ),
    _ablation(
        "moments",
        "Adam's moments of inactive weights (7)",
        _variant("moments of active weights only", "MaskedAdam.moments = 'active'"),
    ),
    _ablation(
        "drop_fraction",
        "the drop fraction over time (8)",
        _variant("linear", "Exploration.drop_fraction = @linear_drop_fraction"),
        _variant("constant", "Exploration.drop_fraction = @constant_drop_fraction"),
    ),
    _ablation(
        "drop_scores",
        "by what weights are dropped (the paper: nothing is better than magnitude)",
        *(
            _variant(f"by {name.replace('_', ' ')}", f"generator/Exploration.drop_scores = @{name}")
            for name in ("connection_sensitivity", "gradient_flow", "taylor_expansion")
        ),
    ),
    _ablation(
        "average",
        "the averaged generator (10, 11, and the paper's EMA)",
        _variant("Eq. 5 to the letter", "GAN.average = @literal_sema"),
        _variant("EMA under the mask", "GAN.average = @masked_ema"),
        _variant("statistics of batch norm not averaged", "GAN.average = @of_parameters"),
    ),
    _ablation(
        "exploration",
        "what explores, and by what weights grow (6, 12, 23, 27)",
        one_phase("Explore G & D", "explore_gd", 0.5),
        against(0.5, "SET (random growth)", "set"),
        against(
            0.5,
            "SET, Bernoulli growth",
            "set",
            "generator/Exploration.update = @prune_and_regrow_bernoulli",
        ),
        against(0.5, "momentum growth", "momentum"),
    ),
    _ablation(
        "learning_rate",
        "the learning rate over time (13)",
        _variant("linear decay to 0", settings=("linear_decay",)),
    ),
)

GRIDS = {
    grid.name: grid
    for grid in (
        TABLE_1,
        TABLE_3,
        TABLE_4,
        FIGURE_2,
        FIGURE_3,
        FIGURE_4,
        FIGURE_5,
        FIGURE_6,
        *EXTENSIONS,
        *ABLATIONS,
    )
}
