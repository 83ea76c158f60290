"""Two logical CPU devices, so that every test process can hold a MirroredStrategy.

TensorFlow is imported when the first test module is, not here: the process that only hands out
tests to others does without it.
"""

import contextlib
import functools
import gc
import os
import pathlib
import runpy
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Commands that a test starts must round as the test's own process does. See stugan_tf/command.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import hypothesis
import pytest
from absl import flags, logging
from absl.testing import flagsaver

pytest_plugins = ["tests.helpers.budget"]

# Imports make millions of objects that stay: until all is collected no garbage is looked for.
gc.disable()

# Its handler keeps the stderr that is there when it is imported: warnings go to pytest's report,
# not between the lines that a command prints.
assert logging
HERE = pathlib.Path(__file__).parent
# What `make test-fast` leaves out: these train GANs, run commands and whole pipelines, compile
# kernels and artifacts, or build networks of the paper, data sets and evaluators again and again.
WHOLE = (
    "data/test_order.py",
    "data/test_shard.py",
    "data/test_source.py",
    "data/test_tfrecords.py",
    "demo/test_demo.py",
    "evaluation/test_digits_classifier.py",
    "evaluation/test_efficientnet_lite0.py",
    "evaluation/test_evaluator.py",
    "evaluation/test_extractors.py",
    "evaluation/test_inception.py",
    "evaluation/test_sampling.py",
    "evaluation/test_statistics.py",
    "evaluation/test_table.py",
    "experiments/test_experiments_command.py",
    "experiments/test_grids.py",
    "experiments/test_scheduler.py",
    "fit",
    "fit/test_compiled_fit.py",
    "fit/test_sparse_gan.py",
    "kernels",
    "layers/test_fusion.py",
    "layers/test_in_place.py",
    "layers/test_rematerialization.py",
    "layers/test_zeros.py",
    "methods",
    "models/test_biggan.py",
    "models/test_sngan.py",
    "pipelines",
    "runs",
    "serving/test_bounds.py",
    "serving/test_export.py",
    "serving/test_folding.py",
    "serving/test_formats.py",
    "serving/test_hostile.py",
    "serving/test_web_page.py",
    "sparsity/test_applications.py",
    "sparsity/test_compilation.py",
    "sparsity/test_exploration.py",
    "sparsity/test_named_rules.py",
    "sparsity/test_structured.py",
    "test_evaluate.py",
    "test_gin_files.py",
    "test_own_images.py",
    "test_readme.py",
    "test_sample.py",
    "test_wrong_uses.py",
    "training/test_accumulation.py",
    "training/test_augmentation.py",
    "training/test_balance.py",
    "training/test_biggan_training.py",
    "training/test_gan.py",
    "training/test_masked_adam.py",
    "training/test_multi_worker.py",
    "training/test_orthogonality.py",
    "training/test_precision.py",
    "training/test_rematerialized_steps.py",
    "training/test_rules.py",
    "training/test_sparse_training.py",
    "training/test_steps.py",
)
# These come first, so that one process does not work on them alone at the end. pytest-xdist would
# begin with the files that have the most tests (`--no-loadscope-reorder`).
LONGEST = (
    "pipelines/test_pipeline.py",
    "training/test_steps.py",
    "runs/test_loop.py",
    "training/test_sparse_training.py",
    "runs/test_resume.py",
    "serving/test_formats.py",
    "fit/test_compiled_fit.py",
    "fit/test_sparse_gan.py",
    "test_sample.py",
    "training/test_rematerialized_steps.py",
    "test_wrong_uses.py",
    "training/test_accumulation.py",
    "runs/test_scoring.py",
    "training/test_rules.py",
    "training/test_precision.py",
)

# TensorFlow traces on first use, so the first example of a property takes far longer.
hypothesis.settings.register_profile("usual", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("whole", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.load_profile("usual")


@pytest.fixture(scope="session", autouse=True)
def _never_without_power():
    """Files need not reach the disk before a test goes on: each would take ten milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def mirrored():
    """One for all tests: a second one would number its collective operations as the first did."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def operations():
    """Skips what needs the operations where they cannot be had; that they do not compile fails."""
    from stugan_tf.kernels import library

    try:
        return library.load()
    except library.KernelsUnavailableError as error:
        if "could not be" in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tfgan():
    """TF-GAN. Its import takes a second, which processes without such a test are spared."""
    from stugan_tf.evaluation.tfgan import tfgan

    return tfgan


@pytest.fixture
def untraced():
    """Spares tests of what happens around compiled functions the time of compiling them."""
    from tests.helpers import tracing

    with tracing.untraced():
        yield


@pytest.fixture(
    scope="module",
    params=["untraced", pytest.param("traced", marks=pytest.mark.ci)],
)
def tracing(request):
    """Steps of a GAN run line by line in a default test; as compiled functions in a slow one."""
    from tests.helpers import tracing

    with tracing.untraced() if request.param == "untraced" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def use(capfd, monkeypatch):
    """Runs a command like `python -m`, less the start of Python; returns code, stdout, stderr."""
    from stugan_tf import config

    def run(command, arguments):
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with _flags_restored(), pytest.raises(SystemExit) as end:
            runpy.run_module(f"stugan_tf.{command}", run_name="__main__")
        return end.value.code, *capfd.readouterr()

    yield run
    config.parse_gin()


@contextlib.contextmanager
def _flags_restored():
    """As they were, but for those of TensorFlow Hub, which is imported only once."""
    with flagsaver.flagsaver():
        try:
            yield
        finally:
            of_hub = {
                name: flags.FLAGS[name]
                for name in flags.FLAGS
                if flags.FLAGS.find_module_defining_flag(name, "").startswith("tensorflow_hub")
            }
    for name, flag in of_hub.items():
        if name not in flags.FLAGS:
            flags.FLAGS[name] = flag


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A command that a test module imports leaves no flags behind for others of the same names."""
    if isinstance(collector, pytest.Module):
        _prepare_tensorflow()
    with _flags_restored():
        return (yield)


def _prepare_tensorflow():
    """Splits the CPU in two before anything is computed."""
    import tensorflow as tf

    import stugan_tf.command  # noqa: F401 - its flags must be there before any are saved

    (cpu,) = tf.config.list_physical_devices("CPU")
    if not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )


def pytest_ignore_collect(collection_path, config):
    """`make test-fast` does not even import the files that it leaves out."""
    if "not whole" in config.option.markexpr and _is_whole(collection_path):
        return True
    return None


def pytest_collection_modifyitems(items):
    """Marks what trains GANs or runs commands; begins with what takes longest."""
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if _is_whole(item.path) or "use" in item.fixturenames:
            item.add_marker(pytest.mark.whole)


@functools.cache
def _is_whole(path):
    return any(path.is_relative_to(HERE / whole) for whole in WHOLE)


def pytest_collection_finish():
    """What was imported never goes, and it is most of the heap: garbage is looked for elsewhere."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Lets the models and functions of a module go with it; else they'd add up to gibibytes."""
    if nextitem is None or nextitem.path != item.path:
        keras = sys.modules.get("keras")
        if keras:
            keras.backend.clear_session(free_memory=False)
        gc.collect()
