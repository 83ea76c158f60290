"""The grids are the paper's, and what names their runs does not change without a reason."""

import collections
import hashlib
import operator
import pathlib

import pytest

from stugan_tf import (
    config,
    models,  # noqa: F401 - registers them with gin, which a parsed file forbids
)
from stugan_tf.data import data  # noqa: F401
from stugan_tf.errors import InputError
from stugan_tf.evaluation import evaluator  # noqa: F401
from stugan_tf.experiments import recipe
from stugan_tf.experiments.grid import Cell, cells_of, select
from stugan_tf.experiments.grids import ABLATIONS, GRIDS
from stugan_tf.experiments.paper_results import paper_results
from stugan_tf.experiments.presets import PRESETS, preset
from stugan_tf.methods.method import chosen_method  # noqa: F401
from stugan_tf.runs.loop import Training  # noqa: F401
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.balance import BalanceRatio

# Of the names of all runs of all presets, line by line in their order.
DIGEST = "4266558be590448a25bb6b09a79a87f1d5784b8bc957b324e1fd06baa25a35aa"
ROOT = pathlib.Path(__file__).parents[2]
GIN = ROOT / "gin"
PAPER = PRESETS["paper"]


def cells(name, preset_name="paper", **options):
    return cells_of(GRIDS[name], PRESETS[preset_name], **options)


def setting(cell, name):
    """The last binding of `name` of a cell, as text, or None."""
    values = [b.split(" = ", 1)[1] for b in cell.bindings if b.startswith(f"{name} = ")]
    return values[-1] if values else None


def sparsities(cell):
    return tuple(setting(cell, f"GAN.{name}_sparsity") for name in ("generator", "discriminator"))


def test_table_1_has_the_papers_cells():
    for model in ("sngan", "biggan"):
        found = collections.defaultdict(set)
        for cell in cells("table1"):
            if cell.model == model:
                found[cell.line].add(sparsities(cell))
        of_table = ("0.95", "0.9", "0.8")
        assert found == {
            "Dense": {(None, None)},
            "PF (global)": {(s, None) for s in of_table},
            "PF (uniform)": {(s, None) for s in of_table},
            "GAN Tickets": {("0.8658", None), ("0.7903", None)},
            **{
                f"{method}, s_D {percent} %": {(s, sparsity) for s in of_table}
                for method in ("Static Sparse", "STU-GAN")
                for percent, sparsity in ((50, "0.5"), (70, "0.7"))
            },
        }
    assert len(cells("table1")) == 2 * 21 * 3  # Three runs each.
    assert {cell.seed for cell in cells("table1")} == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("table3", 2 * 2 * 3),
        ("table4", 4),
        ("figure2", 1 + 4 * 10),
        ("figure3", 2 * (1 + 3 * 10)),
        ("figure4", 2 * (1 + 8 * 10)),
        ("figure5", 2 * (1 + 4 * 3)),
        ("figure6", 3 * 9),
        ("gmp", 2 * (1 + 8 * 3)),
        ("adapt", 2 * (1 + 12 * 4)),
    ],
)
def test_each_grid_has_as_many_cells_as_the_paper(name, count):
    assert len(cells(name, seeds=(0,))) == count


def test_figures_are_of_the_sparsities_of_the_paper():
    for name, discriminator in (
        ("figure3", {"0.0", "0.5", "0.9"}),
        ("figure4", {"0.0", "0.5", "0.7", "0.9"}),
        ("figure5", {"0.5"}),
    ):
        assert {sparsities(c)[1] for c in cells(name) if c.point} == discriminator
    for cell in cells("figure2"):
        if "G & D" in cell.line:
            assert sparsities(cell)[0] == sparsities(cell)[1] == str(cell.value)
    found = {(c.model, *sparsities(c)) for c in cells("figure6")}
    assert found == {
        ("sngan", "0.95", "0.5"),
        ("biggan", "0.95", "0.95"),
        ("biggan", "0.95", "0.7"),
    }
    intervals = {setting(c, "Exploration.update_interval") for c in cells("figure6")}
    assert intervals == set(map(str, (100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 50000)))


def test_every_result_of_the_paper_has_a_place_in_a_grid():
    places = set()
    for grid in GRIDS.values():
        for cell in cells_of(grid, PAPER):
            places.add((cell.model, cell.key, cell.point or ""))
    unknown = set(paper_results()) - places
    assert not unknown


def test_a_key_stands_for_one_row():
    labels = collections.defaultdict(set)
    for grid in GRIDS.values():
        for line in grid.lines:
            if line.key:
                labels[line.key].add(line.label)
    assert all(len(found) == 1 for found in labels.values())
    assert set(labels) >= {key for _, key, _ in paper_results()}


def test_results_of_the_paper_are_those_of_its_tables():
    """Some of fidelity.md, 7.1 to 7.4."""
    known = paper_results()
    stu = known["biggan", "stu-D0.7", "s_G 80 %"]
    assert stu == {"fid": 8.57, "inception_score": 8.91, "training": 0.27, "testing": 0.20}
    assert known["sngan", "dense", ""] == {
        "fid": 14.01,
        "inception_score": 8.26,
        "training": 0.5e17,
        "testing": 3.36e9,
    }
    assert known["sngan", "pf-uniform", "s_G 95 %"]["fid"] == 27.35
    assert known["biggan", "tickets", "s_G 90 %"]["training"] == 4.57
    assert ("sngan", "tickets", "s_G 95 %") not in known
    assert known["biggan", "stu-5x", "s_G 80 %"]["inception_score"] == 8.71
    assert known["imagenet", "stu-G0.6-D0.5", ""] == {"fid": 9.68}
    assert known["biggan", "adapt-strict", "s_G 50 %"] == {"fid": 7.90}


def all_cells(preset_name):
    grids = GRIDS.values()
    return [cell for grid in grids for cell in cells_of(grid, preset(preset_name), seeds=(0, 1))]


@pytest.fixture
def whole(tmp_path):
    """The gin files with stand-ins for methods that this checkout does not have."""
    folder = tmp_path / "gin"
    for path in GIN.rglob("*.gin"):
        copy = folder / path.relative_to(GIN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    for name in PRESETS:
        for file in recipe.missing_files(all_cells(name), folder):
            (folder / file).write_text(f"{pathlib.Path(file).stem}.stands_in = 1\n")
    return folder


@pytest.mark.parametrize("name", list(PRESETS))
def test_runs_have_one_name_exactly_if_they_have_one_configuration(whole, name):
    by_name, by_content = {}, {}
    names = recipe.Names(whole)
    for cell in all_cells(name):
        found = names.name_of(cell)
        content = (cell.files, cell.bindings)
        assert by_name.setdefault(found, content) == content
        assert by_content.setdefault(content, found) == found
    assert len(by_name) < len(all_cells(name))  # Tables share runs.


def test_tables_share_what_they_both_need(whole):
    found = recipe.Names(whole)
    names = {
        grid: {
            found.name_of(cell)
            for cell in cells(grid)
            if cell.model == "sngan" and cell.line in ("Dense", "STU-GAN, 1x steps", line)
        }
        for grid, line in (
            ("table1", "STU-GAN, s_D 50 %"),
            ("table3", ""),
            ("figure4", "STU-GAN, s_D 50 %"),
        )
    }
    assert len(names["table1"]) == 4 * 3
    assert names["table1"] <= names["figure4"]
    assert names["table3"] < names["table1"]


def test_a_name_is_of_statements_not_of_comments_or_paths(whole, tmp_path):
    first = cells("table1")[0]
    before = recipe.Names(whole).name_of(first)
    base = whole / first.files[0]
    base.write_text("# Another comment.\n" + base.read_text() + "\n# More\n")
    assert recipe.Names(whole).name_of(first) == before
    moved = tmp_path / "elsewhere"
    whole.rename(moved)
    assert recipe.Names(moved).name_of(first) == before
    included = moved / "methods/stu.gin"
    included.write_text(included.read_text() + "Algorithm.average_decay = 0.5\n")
    assert recipe.Names(moved).name_of(first) != before
    others = recipe.Names(moved, extra_bindings=["train.seed = 9"])
    assert others.name_of(first) != recipe.Names(moved).name_of(first)


def test_names_of_runs_stay():
    """So folders of earlier runs are found again."""
    cell, *_ = select(cells("table1", seeds=(1,)), ["sngan"], ["STU-GAN, s_D 70"])
    assert recipe.Names(GIN).name_of(cell) == "sngan_cifar10-stu-G0.95-D0.7-s1-32b43f8c0a"
    names = recipe.Names(GIN)
    listed = sorted(
        {
            names.name_of(cell)
            for sized in PRESETS.values()
            for grid in GRIDS.values()
            for cell in cells_of(grid, sized, seeds=(0, 1))
            if cell.model != "sngan_by_time"  # Whose lengths are those of one machine.
        }
    )
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest() == DIGEST


@pytest.mark.parametrize("name", PRESETS)
def test_scores_of_base_files_are_replaced_so_names_leave_them_out(name):
    def bound(files):
        return {
            f"{one.scope}/{one.selector}.{one.arg_name}"
            for one, _ in config.written([GIN / file for file in files])
        }

    of_base = bound(["evaluation/efficientnet_lite0.gin"])
    left = of_base - bound(PRESETS[name].evaluation)
    # What only the replaced `train.evaluator` refers to.
    assert left <= {"/if_installed.evaluator", "monitor/Evaluator.num_images"}


def test_the_last_sparsity_without_a_scope_is_in_the_name(tmp_path):
    (tmp_path / "a.gin").write_text("")
    cell = Cell("a", "b", "c", None, None, 5, ("a.gin",), ("GAN.generator_sparsity=0.5",))
    more = ["GAN.generator_sparsity = 0.9", "x/GAN.generator_sparsity = 0.1"]
    assert recipe.Names(tmp_path).name_of(cell).startswith("a-G0.5-s5-")
    assert recipe.Names(tmp_path, (), more).name_of(cell).startswith("a-G0.9-s5-")


def test_a_comment_sign_in_a_string_is_no_comment(tmp_path):
    file = tmp_path / "a.gin"
    file.write_text("a.b = 'x # y'  # z\n\n# w\nc.d = 1\n")
    assert recipe.text_of(file) == "a.b = 'x # y'\nc.d = 1"


def test_a_missing_gin_file_is_told_with_its_rows():
    cell = cells("table1")[0]
    tickets = [c for c in cells("table1") if c.line == "GAN Tickets"]
    with pytest.raises(InputError, match=r"methods/tickets.gin, for GAN Tickets\n(.|\n)*--line"):
        recipe.check_files([cell, *tickets], pathlib.Path("nowhere/gin"))


def test_models_and_lines_are_chosen_by_how_they_begin():
    found = select(cells("table1"), ["SNGAN"], ["stu", "Dense"])
    assert {(c.model, c.line) for c in found} == {
        ("sngan", line) for line in ("Dense", "STU-GAN, s_D 50 %", "STU-GAN, s_D 70 %")
    }
    with pytest.raises(InputError, match=r"--line: nothing here begins with 'Stuu'\. There are: D"):
        select(cells("table1"), (), ["Stuu"])


def test_the_paper_preset_scores_as_the_reference_does():
    """Every 20 passes of SNGAN, every 5000 steps of BigGAN with batch statistics; fidelity.md."""
    for cell in cells("table1"):
        expected = ("3128", None) if cell.model == "sngan" else ("5000", "'batch'")
        assert (
            setting(cell, "train.evaluate_every"),
            setting(cell, "Evaluator.batch_norm"),
        ) == expected
        assert cell.files[-1] == "evaluation/paper.gin"


@pytest.mark.ci
@pytest.mark.parametrize("name", PRESETS)
def test_every_configuration_can_be_read(name):
    """All names are known and Figure 6 explores."""
    read = set()
    for cell in all_cells(name):
        # Sparsities are read alike; intervals have to be shorter than the training.
        kind = (cell.files, cell.line, cell.grid == "figure6" and cell.value)
        if kind in read:
            continue
        read.add(kind)
        config.parse_gin([GIN / file for file in cell.files], cell.bindings)
        algorithm = Algorithm()
        for rule in algorithm.topology_rules.values():
            assert rule is None or rule.num_updates(algorithm.total_steps)
    config.parse_gin()
    assert len(read) > 10


def test_what_is_compared_by_time_differs_in_size_and_method_alone():
    for name in ("cpu", "smoke"):
        of_line = {cell.line: cell for cell in cells("time_to_quality", name, seeds=(0,))}
        narrow = of_line[GRIDS["time_to_quality"].reference]
        for line, cell in of_line.items():
            widths = (int(setting(c, "sngan_generator.width")) for c in (cell, narrow))
            assert f"{operator.floordiv(*widths)}x width" in line
            twin = of_line.get(line.replace("Static Sparse", "STU-GAN"), cell)
            assert twin.bindings == cell.bindings
            assert ("sparse_execution.gin" in cell.files) == ("Dense" not in line)
    assert not cells("time_to_quality", "paper")


def test_gradual_pruning_ends_at_the_sparsity_of_its_column():
    for cell in cells("gmp"):
        if cell.line.startswith("GMP"):
            assert setting(cell, "polynomial_sparsity.final") == str(cell.value)
            assert setting(cell, "GAN.generator_sparsity") is None


def test_adapt_is_compared_in_its_own_setting():
    """fidelity.md, 5.1: 100,000 and 200,000 steps, flipped images, intervals of their scripts."""
    for cell in cells("adapt"):
        steps = {"sngan": "100000", "biggan": "200000"}[cell.model]
        assert setting(cell, "Algorithm.total_steps") == steps
        assert setting(cell, "cifar10.flip") == "True"
    for cell in cells("adapt", "cpu"):
        if cell.line == "ADAPT strict (ADAPT)":
            config.parse_gin([GIN / file for file in cell.files], cell.bindings)
            rules = Algorithm().topology_rules
            assert rules["generator"].update_interval == 25
            assert rules["discriminator"].update_interval == 100
            assert Algorithm().balance_ratio == BalanceRatio(every=5, window=10)
    config.parse_gin()


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_learning_rate_decays_until_the_end(name):
    for cell in cells("ablation_learning_rate", name, seeds=(0,)):
        if cell.line == "linear decay to 0":
            config.parse_gin([GIN / file for file in cell.files])
            constant = config.value_of("MaskedAdam.learning_rate")
            config.parse_gin([GIN / file for file in cell.files], cell.bindings)
            steps = Algorithm().total_steps
            updates = steps * Algorithm().discriminator_steps
            assert config.value_of("generator/linear_decay.updates") == steps
            assert config.value_of("discriminator/linear_decay.updates") == updates
            assert config.value_of("linear_decay.initial") == constant
    config.parse_gin()


def test_the_cpu_preset_says_which_data_it_uses(tmp_path):
    assert "digits" in preset("cpu").description
    chosen = preset("cpu", str(tmp_path))
    assert chosen.bindings == (f"saved_model.path = {str(tmp_path)!r}",)
    assert chosen.evaluation == ("experiments/cpu_evaluation.gin",)
    with pytest.raises(InputError, match="there is no such folder"):
        preset("cpu", str(tmp_path / "none"))
    with pytest.raises(InputError, match="is for --preset=cpu"):
        preset("smoke", str(tmp_path))
    with pytest.raises(InputError, match="not one of paper, cpu, smoke"):
        preset("tiny")


def test_ablations_change_stu_gan_at_one_place():
    for grid in ABLATIONS:
        found = cells_of(grid, PAPER, seeds=(0,))
        assert {c.line for c in found} > {"STU-GAN, s_D 50 %"}
        assert {sparsities(c) for c in found} == {("0.95", "0.5"), ("0.9", "0.5")}


def test_a_changed_module_of_the_users_own_is_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gin").write_text("import my_criterion\ntrain.seed = 0\n")
    (tmp_path / "my_criterion.py").write_text("import my_numbers\n")
    (tmp_path / "my_numbers.py").write_text("ONE = 1\n")
    cell = Cell("table0", "m", "line", None, None, 5, ("a.gin",), ())

    before = recipe.Names(tmp_path).name_of(cell)
    assert recipe.Names(tmp_path).name_of(cell) == before
    (tmp_path / "my_numbers.py").write_text("ONE = 2\n")
    assert recipe.Names(tmp_path).name_of(cell) != before
