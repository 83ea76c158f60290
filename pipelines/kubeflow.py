"""The same pipeline for Kubeflow Pipelines, Vertex AI, and KFP's local runner.

Each component is a function of a few lines around `steps.execute`, so what is said and tested of
the local run holds there: results are kept in the pipeline root, which all steps see. What KFP
keeps itself, its artifacts, are small files that say where.
"""

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from pipelines.chain import COMPONENTS

# KFP copies the source of a component's function into the pipeline, so it imports what it needs.


def _component(function):
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False)


IMAGE = "stugan_tf:latest"  # replaced in `build`


@_component
def check(configuration: str, root: str, strategy: str, code_version: str, plan: Output[Artifact]):
    """Configuration -> plan."""
    from pipelines import pod

    pod.execute("check", (configuration, root, strategy, code_version), plan)


@_component
def ingest(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    examples: Output[Dataset],
    statistics: Output[Metrics],
):
    """Data source -> shards and statistics."""
    from pipelines import pod

    pod.execute("ingest", (configuration, root, strategy, code_version), examples)
    pod.log_statistics(examples, statistics)


@_component
def reference(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    plan: Input[Artifact],
    examples: Input[Dataset],
    references: Output[Artifact],
):
    """Shards -> statistics of the features of real images."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    pod.execute("reference", parameters, references, plan, examples)


@_component
def train(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    plan: Input[Artifact],
    examples: Input[Dataset],
    references: Input[Artifact],
    run: Output[Model],
):
    """Shards -> a finished training."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    pod.execute("train", parameters, run, plan, examples, references)


@_component
def evaluate(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    examples: Input[Dataset],
    references: Input[Artifact],
    run: Input[Model],
    scores: Output[Metrics],
):
    """A training -> scores."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    pod.execute("evaluate", parameters, scores, examples, references, run)
    pod.log_scores(scores)


@_component
def export(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    examples: Input[Dataset],
    run: Input[Model],
    scores: Input[Metrics],
    exported: Output[Model],
):
    """A training and its scores -> files for serving."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    pod.execute("export", parameters, exported, examples, run, scores)


@_component
def bless(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    examples: Input[Dataset],
    references: Input[Artifact],
    scores: Input[Metrics],
    exported: Input[Model],
    blessing: Output[Artifact],
    reasons: Output[Markdown],
) -> str:
    """Scores and an export -> a blessing; returns 'blessed' or 'not blessed'."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    found = pod.execute("bless", parameters, blessing, examples, references, scores, exported)
    return pod.say_blessing(found, reasons)


@_component
def push(
    configuration: str,
    root: str,
    strategy: str,
    code_version: str,
    examples: Input[Dataset],
    run: Input[Model],
    scores: Input[Metrics],
    exported: Input[Model],
    blessing: Input[Artifact],
    pushed: Output[Model],
):
    """A blessed export -> a version that is served."""
    from pipelines import pod

    parameters = (configuration, root, strategy, code_version)
    pod.execute("push", parameters, pushed, examples, run, scores, exported, blessing)


# What each component calls its artifact.
OUTPUTS = {
    "check": "plan",
    "ingest": "examples",
    "reference": "references",
    "train": "run",
    "evaluate": "scores",
    "export": "exported",
    "bless": "blessing",
    "push": "pushed",
}
ON_ACCELERATORS = ("train", "evaluate", "bless")


def build(configuration, settings, root, strategy="auto", code_version=""):
    """The pipeline, as KFP compiles or runs it.

    Args:
        configuration: a `Configuration`, the default of the pipeline's parameter of that name.
        settings: a `Cluster`.
        root: str, the pipeline root as the steps see it.
        strategy: what training and scoring run on.
        code_version: str; '' for the code itself.
    """
    functions = {name: globals()[name] for name in COMPONENTS}

    @dsl.pipeline(name="stugan-tf", description="From data to a served sparse generator.")
    def stugan_tf(
        configuration: str = configuration.to_json(),
        root: str = root,
        strategy: str = strategy,
        code_version: str = code_version,
    ):
        tasks = {}

        def start(name):
            inputs = {
                OUTPUTS[one]: tasks[one].outputs[OUTPUTS[one]] for one in COMPONENTS[name].inputs
            }
            task = functions[name](
                configuration=configuration,
                root=root,
                strategy=strategy,
                code_version=code_version,
                **inputs,
            )
            _place(task, name, settings)
            tasks[name] = task

        for name in COMPONENTS:
            if name != "push":
                start(name)
        with dsl.If(tasks["bless"].outputs["Output"] == "blessed"):
            start("push")

    return stugan_tf


def _place(task, name, settings):
    """Says what a task asks of the cluster."""
    task.set_cpu_limit(settings.cpu).set_memory_limit(settings.memory)
    # What is there already our components find themselves, in the root; KFP's own cache would not
    # see that a version was rolled back, or that a folder is gone.
    task.set_caching_options(False)
    if settings.retries:
        task.set_retry(settings.retries, backoff_duration="60s")
    if name in ON_ACCELERATORS and settings.accelerator:
        task.set_accelerator_type(settings.accelerator)
        task.set_accelerator_limit(settings.num_accelerators)
    if settings.volume_claim:
        kubernetes.mount_pvc(task, pvc_name=settings.volume_claim, mount_path=settings.mount)


def compile_to(path, pipeline, settings):
    """Writes a pipeline as YAML, with the image of the settings in all its components."""
    compiler.Compiler().compile(pipeline, str(path))
    text = path.read_text().replace(f"image: {IMAGE}\n", f"image: {settings.image}\n")
    path.write_text(text)
