"""The compiled pipeline is what KFP's own parser reads, and says what the settings say."""

import dataclasses
import inspect
import json
import pathlib

import pytest
import yaml

from stugan_tf import config
from stugan_tf.pipelines import chain, configuration
from stugan_tf.pipelines.configuration import Configuration
from stugan_tf.pipelines.settings import Cluster

# Few change it, and KFP alone takes seconds to import.
pytestmark = pytest.mark.ci

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = Cluster(
    image="registry/stugan_tf:7",
    accelerator="nvidia.com/gpu",
    num_accelerators=2,
    volume_claim="pipelines",
    retries=2,
)


@pytest.fixture(scope="module")
def kubeflow():
    """It imports KFP, which processes without these tests are spared."""
    from stugan_tf.pipelines import kubeflow

    return kubeflow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, kubeflow):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    found = configuration.read([ROOT / "gin/pipelines/digits.gin"])
    config.parse_gin()
    made = kubeflow.build(found, SETTINGS, "/pipeline/root", "mirrored", "v1")
    kubeflow.compile_to(path, made)
    return path, found


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def test_kfp_reads_it(compiled):
    from kfp import components

    path, found = compiled
    loaded = components.load_component_from_file(str(path))
    inputs = loaded.component_spec.inputs
    assert set(inputs) == {"configuration", "root", "strategy", "code_version"}
    assert Configuration.from_json(inputs["configuration"].default) == found
    assert inputs["strategy"].default == "mirrored"


def test_all_components_are_there_with_their_image(compiled):
    spec, _ = documents(compiled[0])
    executors = spec["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{name}" for name in chain.COMPONENTS}
    for executor in executors.values():
        assert executor["container"]["image"] == "registry/stugan_tf:7"
        assert "pip install" not in json.dumps(executor)
    resources = executors["exec-train"]["container"]["resources"]
    assert resources["accelerator"]["resourceCount"] == "2"
    assert "accelerator" not in executors["exec-ingest"]["container"]["resources"]


def test_only_what_is_blessed_is_pushed(compiled):
    spec, _ = documents(compiled[0])
    tasks = spec["root"]["dag"]["tasks"]
    assert "push" not in tasks
    (condition,) = [task for name, task in tasks.items() if name.startswith("condition")]
    assert condition["triggerPolicy"]["condition"].endswith("== 'blessed'")
    assert condition["dependentTasks"].count("bless") == 1


def test_tasks_are_tried_again_and_not_cached_by_kfp(compiled):
    spec, _ = documents(compiled[0])
    for task in spec["root"]["dag"]["tasks"].values():
        if "componentRef" in task and task["taskInfo"]["name"] in chain.COMPONENTS:
            assert task["retryPolicy"]["maxRetryCount"] == 2
            assert not task["cachingOptions"].get("enableCache")


def test_all_steps_see_the_volume(compiled):
    _, platform = documents(compiled[0])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in chain.COMPONENTS:
        (mount,) = executors[f"exec-{name}"]["pvcMount"]
        assert mount["mountPath"] == "/pipeline"


@pytest.mark.parametrize("name", [name for name in chain.COMPONENTS if name != "check"])
def test_components_take_what_the_chain_hands_them(name, kubeflow):
    """`pod.execute` puts the plan first, then the others as they come."""
    parameters = [*inspect.signature(getattr(kubeflow, name)).parameters]
    handed = [kubeflow.OUTPUTS[one] for one in chain.COMPONENTS[name].inputs if one != "check"]
    assert parameters[: 1 + len(handed)] == ["plan", *handed]
    assert kubeflow.OUTPUTS[name] == parameters[1 + len(handed)]


@pytest.mark.ci
def test_the_example_is_up_to_date(tmp_path, kubeflow):
    found = configuration.read([ROOT / "gin/pipelines/digits.gin"])
    cluster = configuration.settings(found.pipeline).cluster
    cluster = dataclasses.replace(cluster, image="REGISTRY/stugan_tf:1")
    config.parse_gin()
    path = tmp_path / "pipeline.yaml"
    kubeflow.compile_to(path, kubeflow.build(found, cluster, "/pipeline/root"))
    ours, theirs = (documents(one) for one in (ROOT / "stugan_tf/pipelines/example.yaml", path))
    for spec in (ours[0], theirs[0]):
        del spec["sdkVersion"]
        # The text of quickstart.gin, which has its own reasons to change.
        del spec["root"]["inputDefinitions"]["parameters"]["configuration"]
    assert ours == theirs
