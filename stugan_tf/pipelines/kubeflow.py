"""The same pipeline for Kubeflow Pipelines, Vertex AI, and KFP's local runner.

Each component is a function of a few lines around `steps.execute`, so it behaves as in the local
run: results are kept in the pipeline root, which all steps see. KFP's own artifacts are small files
that say where the results are.
"""

from typing import Any

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from stugan_tf.pipelines.chain import COMPONENTS

# KFP copies the source of a component's function into the pipeline, so it imports what it needs.
# The first component writes the configuration and the other parameters into its plan for the rest.


def check(configuration: str, root: str, strategy: str, code_version: str, plan: Output[Artifact]):
    """Configuration -> plan."""
    from stugan_tf.pipelines import pod

    pod.begin(configuration, root, strategy, code_version, plan)


def ingest(plan: Input[Artifact], examples: Output[Dataset], statistics: Output[Metrics]):
    """Data source -> shards and statistics."""
    from stugan_tf.pipelines import pod

    pod.execute("ingest", plan, examples)
    pod.log_statistics(examples, statistics)


def reference(plan: Input[Artifact], examples: Input[Dataset], references: Output[Artifact]):
    """Shards -> statistics of the features of real images."""
    from stugan_tf.pipelines import pod

    pod.execute("reference", plan, references, examples)


def train(
    plan: Input[Artifact],
    examples: Input[Dataset],
    references: Input[Artifact],
    run: Output[Model],
):
    """Shards -> a finished training."""
    from stugan_tf.pipelines import pod

    pod.execute("train", plan, run, examples, references)


def export(
    plan: Input[Artifact],
    examples: Input[Dataset],
    run: Input[Model],
    exported: Output[Model],
):
    """A training -> files for serving."""
    from stugan_tf.pipelines import pod

    pod.execute("export", plan, exported, examples, run)


def evaluate(
    plan: Input[Artifact],
    examples: Input[Dataset],
    references: Input[Artifact],
    run: Input[Model],
    exported: Input[Model],
    scores: Output[Metrics],
):
    """An export -> scores."""
    from stugan_tf.pipelines import pod

    pod.execute("evaluate", plan, scores, examples, references, run, exported)
    pod.log_scores(scores)


def bless(
    plan: Input[Artifact],
    examples: Input[Dataset],
    references: Input[Artifact],
    run: Input[Model],
    exported: Input[Model],
    scores: Input[Metrics],
    blessing: Output[Artifact],
    reasons: Output[Markdown],
) -> str:
    """Scores and an export -> a blessing; returns 'blessed' or 'not blessed'."""
    from stugan_tf.pipelines import pod

    found = pod.execute("bless", plan, blessing, examples, references, run, exported, scores)
    return pod.say_blessing(found, reasons)


def push(
    plan: Input[Artifact],
    examples: Input[Dataset],
    run: Input[Model],
    exported: Input[Model],
    scores: Input[Metrics],
    blessing: Input[Artifact],
    pushed: Output[Model],
):
    """A blessed export -> a version that is served."""
    from stugan_tf.pipelines import pod

    pod.execute("push", plan, pushed, examples, run, exported, scores, blessing)


# Component -> the name of its artifact.
OUTPUTS = {
    "check": "plan",
    "ingest": "examples",
    "reference": "references",
    "train": "run",
    "export": "exported",
    "evaluate": "scores",
    "bless": "blessing",
    "push": "pushed",
}
ON_ACCELERATORS = ("train", "evaluate", "bless")


def build(configuration, settings, root, strategy="auto", code_version=""):
    """Builds the pipeline that KFP compiles or runs.

    Args:
        configuration: a `Configuration`, the default of the pipeline's parameter of that name.
        settings: a `Cluster`.
        root: str, the pipeline root as the steps see it.
        strategy: name of the strategy for training and scoring.
        code_version: str, replaces the content of the code; '' for the code itself.
    """
    steps = {
        name: dsl.component(globals()[name], base_image=settings.image, install_kfp_package=False)
        for name in COMPONENTS
    }

    @dsl.pipeline(name="stugan-tf", description="From data to a served sparse generator.")
    def stugan_tf(
        configuration: str = configuration.to_json(),
        root: str = root,
        strategy: str = strategy,
        code_version: str = code_version,
    ):
        found: dict[str, Any] = {}

        def start(name, **parameters):
            # All later steps take the plan of the first.
            taken = {
                OUTPUTS[one]: found[one] for one in ("check", *COMPONENTS[name].inputs) if found
            }
            task = steps[name](**parameters, **taken)
            _place(task, name, settings)
            found[name] = task.outputs[OUTPUTS[name]]
            return task

        start(
            "check",
            configuration=configuration,
            root=root,
            strategy=strategy,
            code_version=code_version,
        )
        for name in COMPONENTS:
            if name not in ("check", "bless", "push"):
                start(name)
        with dsl.If(start("bless").outputs["Output"] == "blessed"):
            start("push")

    return stugan_tf


def _place(task, name, settings):
    """Sets the resources that a task needs from the cluster."""
    task.set_cpu_limit(settings.cpu).set_memory_limit(settings.memory)
    # Our components find existing results in the root. KFP's own cache would not see that a version
    # was rolled back, or that a folder is gone.
    task.set_caching_options(False)
    if settings.retries:
        task.set_retry(settings.retries, backoff_duration="60s")
    if name in ON_ACCELERATORS and settings.accelerator:
        task.set_accelerator_type(settings.accelerator)
        task.set_accelerator_limit(settings.num_accelerators)
    if settings.volume_claim:
        kubernetes.mount_pvc(task, pvc_name=settings.volume_claim, mount_path=settings.mount)


def compile_to(path, pipeline):
    """Writes a pipeline as YAML."""
    compiler.Compiler().compile(pipeline, str(path))
