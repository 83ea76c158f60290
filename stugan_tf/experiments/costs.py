"""Table 2: theoretical FLOPs of training and testing, computed from models and settings.

The paper does not follow one single count (fidelity.md, section 6). Our counts have names:

- `paper`, the convention `updates` of `sparsity.training_flops`, with as many discriminator updates
  as the paper seems to count: four for SNGAN, where five are made. Ratios are of four. The total of
  five, which is called `updates` everywhere, is given beside it.
- `full`, everything that a step does.
- `phases x density`, for methods of several phases: each phase costs a dense training times the
  generator's density, as if the discriminator were as sparse. The paper's rows of PF and tickets
  follow this count; our other two columns do not.

After pruning by magnitude, densities depend on the trained weights. Here they are the same in all
masked layers of the generator, as after uniform pruning.
"""

import csv
import dataclasses
import io
from typing import NamedTuple

import tensorflow as tf

from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin
)
from stugan_tf.data import data
from stugan_tf.evaluation import evaluator  # noqa: F401 - registers itself with gin
from stugan_tf.experiments.grids import DENSE, TABLE_1, TABLE_SPARSITIES, at, percent
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.flops import (
    LayerCost,
    at_sparsity,
    layer_costs,
    total_flops,
    with_densities,
)
from stugan_tf.sparsity.training_flops import (
    Cost,
    add_phases,
    constant_stretch,
    training_flops,
)
from stugan_tf.tables import markdown
from stugan_tf.training.algorithm import Algorithm

# Discriminator updates that Table 2 seems to count, where they differ from the training.
PAPER_UPDATES = {"sngan": 4}
TICKET_ROUNDS = {0.9: 9, 0.8: 7}


class Networks(NamedTuple):
    """The networks and the algorithm that decide the FLOPs of a model.

    Attributes:
        generator: `LayerCost`s of the generator.
        discriminator: `LayerCost`s of the discriminator.
        algorithm: the `Algorithm` of STU-GAN.
    """

    generator: list[LayerCost]
    discriminator: list[LayerCost]
    algorithm: Algorithm


class Entry(NamedTuple):
    """A cell of the table: ratios to dense training and dense testing."""

    model: str
    row: str
    column: str
    paper: float
    full: float
    phases: float | None  # Sum of the generator's densities over several phases.
    testing: float


def networks(files, bindings):
    """The `Networks` of a configuration; nothing is trained.

    Args:
        files: paths of gin files.
        bindings: gin bindings.
    """
    dense = ("GAN.generator_sparsity = 0.0", "GAN.discriminator_sparsity = 0.0")
    config.parse_gin(files, (*bindings, *dense))
    training = Training(data(), tf.distribute.OneDeviceStrategy("CPU:0"))
    gan = training.gan
    return Networks(layer_costs(gan.generator), layer_costs(gan.discriminator), training.algorithm)


class CostRatios:
    """FLOPs of trainings as ratios to the dense training of one model."""

    def __init__(self, model, found):
        """Counts the dense training.

        Args:
            model: name of the model.
            found: the `Networks` of the model.
        """
        self._networks = found
        updates = PAPER_UPDATES.get(model, found.algorithm.discriminator_steps)
        self._algorithms = {
            "paper": dataclasses.replace(found.algorithm, discriminator_steps=updates),
            "full": found.algorithm,
        }
        self.dense = {name: self._spent(name, 0.0, 0.0) for name in self._algorithms}
        self.dense_as_trained = training_flops(
            self._stretches("full", 0.0, 0.0), found.algorithm, "updates"
        )
        self.testing = total_flops(found.generator)[1]

    def _stretches(self, convention, generator, discriminator, explores=False):
        """One stretch; a network's sparsity, or the `LayerCost`s it has."""
        algorithm = self._algorithms[convention]
        if not explores:
            algorithm = dataclasses.replace(
                algorithm, generator_exploration=None, discriminator_exploration=None
            )
        costs = (
            Cost(*total_flops(at_sparsity(layers, s) if isinstance(s, float) else s))
            for layers, s in (
                (self._networks.generator, generator),
                (self._networks.discriminator, discriminator),
            )
        )
        return [constant_stretch(*costs, algorithm)]

    def _spent(self, convention, *networks, **options):
        stretches = self._stretches(convention, *networks, **options)
        kind = "updates" if convention == "paper" else convention
        return training_flops(stretches, self._algorithms[convention], kind)

    def _ratio(self, convention, phases):
        return add_phases(phases).total / self.dense[convention].total

    def one_phase(self, generator, discriminator, explores=False):
        """(paper, full, None, testing) of a sparse training."""
        ratios = (
            self._ratio(name, [self._spent(name, generator, discriminator, explores=explores)])
            for name in ("paper", "full")
        )
        return (*ratios, None, self._testing(at_sparsity(self._networks.generator, generator)))

    def pruned_alike(self, density):
        """The generator's layers if all masked layers have the same density."""
        layers = self._networks.generator
        return with_densities(layers, {layer.name: density for layer in layers if layer.masked})

    def phases(self, densities):
        """(paper, full, phases, testing) of several trainings, of which the first is dense.

        Args:
            densities: density of the generator in each phase; the discriminator is always dense.
        """
        of_phases = [self.pruned_alike(density) for density in densities]
        ratios = (
            self._ratio(name, [self._spent(name, layers, 0.0) for layers in of_phases])
            for name in ("paper", "full")
        )
        return (*ratios, sum(densities), self._testing(of_phases[-1]))

    def _testing(self, layers):
        return total_flops(layers)[0] / self.testing


def entries(model, accounts, sparsities=TABLE_SPARSITIES):
    """The `Entry`s of one model, row by row."""
    rows = []
    for sparsity in sparsities:
        two_phases = accounts.phases([1.0, 1 - sparsity])
        rows += [("PF (global)", sparsity, two_phases), ("PF (uniform)", sparsity, two_phases)]
        if sparsity in TICKET_ROUNDS:
            densities = [0.8**k for k in range(TICKET_ROUNDS[sparsity] + 1)]
            rows.append(("GAN Tickets", sparsity, accounts.phases(densities)))
        for discriminator in (0.5, 0.7):
            kept = accounts.one_phase(sparsity, discriminator)
            rows.append((f"Static Sparse, s_D {percent(discriminator)}", sparsity, kept))
            explored = accounts.one_phase(sparsity, discriminator, explores=True)
            rows.append((f"STU-GAN, s_D {percent(discriminator)}", sparsity, explored))
    order = [line.label for line in TABLE_1.lines]
    rows.sort(key=lambda found: order.index(found[0]))
    return [Entry(model, row, at(sparsity), *ratios) for row, sparsity, ratios in rows]


def as_csv(found):
    """`Entry`s as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Entry._fields)
    writer.writerows(found)
    return file.getvalue()


def as_markdown(accounts, found, paper, notes):
    """Table 2, with our numbers beside the paper's.

    Args:
        accounts: {model: `CostRatios`}.
        found: `Entry`s of all models.
        paper: the result of `paper_results.paper_results`.
        notes: lines that say how the table was made.
    """
    parts = [
        "# Table 2: theoretical FLOPs, as ratios to dense training and testing",
        *notes,
        "Conventions: `paper` counts a forward and a backward pass of each network on one batch an "
        "update; `full` all that a step does, real and generated images and the discriminator's "
        "part of a generator update; `phases x density` each phase as a dense training times the "
        "generator's density, as the paper counts PF and GAN Tickets, though their discriminator "
        "stays dense. STU-GAN's rows include the dense gradients of topology updates, which the "
        "paper leaves out. Densities of PF (global) and GAN Tickets are taken as uniform.",
    ]
    for model, account in accounts.items():
        parts += [f"## {model}", _totals(model, account, paper)]
        header = (
            "",
            "",
            "paper's Table 2",
            "paper",
            "full",
            "phases x density",
            "testing",
            "paper's",
        )
        rows = []
        keys = {line.label: line.key for line in TABLE_1.lines}
        for entry in (entry for entry in found if entry.model == model):
            known = paper.get((model, keys[entry.row], entry.column), {})
            rows.append(
                (
                    entry.row,
                    entry.column,
                    _number(known.get("training"), 2),
                    *(_number(value, 3) for value in (entry.paper, entry.full, entry.phases)),
                    _number(entry.testing, 4),
                    _number(known.get("testing"), 2),
                )
            )
        parts.append(markdown(header, rows))
    return "\n\n".join(parts) + "\n"


def _totals(model, account, paper):
    trained = account.dense["full"], account.dense_as_trained
    known = paper.get((model, DENSE.key, ""), {})
    lines = [
        f"Dense training: {account.dense['paper'].total:.3g} (`paper`, generator's share "
        f"{account.dense['paper'].generator_share:.3f}), {trained[0].total:.3g} (`full`, "
        f"{trained[0].generator_share:.3f})"
    ]
    if model in PAPER_UPDATES:
        lines.append(
            f"`paper` counts {PAPER_UPDATES[model]} discriminator updates a step; with all that "
            f"the training makes (`updates` in other reports) it is {trained[1].total:.3g}"
        )
    if known:
        lines.append(f"Table 2 has {known['training']:.3g}")
    lines.append(f"Dense testing: {account.testing:.4g} for an image")
    return "; ".join(lines) + "."


def _number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"
