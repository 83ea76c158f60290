"""The reference of settings, which is read from the sources, says what gin has registered."""

import inspect
import sys

import gin
import pytest

import stugan_tf.fit.gan
import stugan_tf.methods.prune_and_finetune
import stugan_tf.methods.tickets
import stugan_tf.pipelines.settings
import stugan_tf.runs.loop  # noqa: F401 - registers with gin
from stugan_tf.adapters.gin_internals import REGISTRY

pytest.importorskip("griffe", reason="it comes with pip install 'stugan_tf[docs]'")

from docs_build import api
from docs_build import settings as reference


@pytest.fixture(scope="module")
def listed():
    return {one.name: one for one in reference.configurables()}


@pytest.fixture(scope="module")
def registered():
    """What the package has registered, without what tests and gin itself have."""
    found = [configurable for _, configurable in REGISTRY.items()]
    return {c.name: c for c in found if c.wrapped.__module__.startswith("stugan_tf.")}


def test_each_configurable_is_listed(listed, registered):
    imported = {n for n, one in listed.items() if one.path.rpartition(".")[0] in sys.modules}
    assert set(registered) == imported


def test_each_setting_is_listed_with_its_default(listed, registered):
    for name, configurable in registered.items():
        parameters = [
            parameter
            for parameter in inspect.signature(configurable.wrapped).parameters.values()
            if parameter.name not in (configurable.denylist or ())
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        assert [s.name for s in listed[name].settings] == [p.name for p in parameters], name
        for setting, parameter in zip(listed[name].settings, parameters, strict=True):
            value = parameter.default
            is_required = value in (parameter.empty, gin.REQUIRED)
            assert (setting.default == reference.REQUIRED) == is_required, (name, setting)
            if isinstance(value, (bool, int, float, str)):
                assert eval(setting.default) == value, (name, setting)


def test_a_default_that_is_a_configurable_is_written_as_a_reference(listed):
    defaults = {s.name: s.default for s in listed["Exploration"].settings}
    assert defaults["grow_scores"] == "@gradient_magnitude"
    assert {s.name: s.default for s in listed["Algorithm"].settings}["loss"] == "@hinge()"
    assert {s.name: s.default for s in listed["Bless"].settings}["at_most"] == "{}"


def test_each_setting_and_each_public_name_has_a_meaning():
    assert reference.without_meaning() == []
    assert api.without_docstring() == []


def test_each_configurable_and_each_public_name_has_one_page(listed):
    texts = {page: reference.page_text(page) for page in reference.PAGES}
    for name in listed:
        assert sum(f"\n## {name} {{" in text for text in texts.values()) == 1, name
    texts = [api.page_text(page) for page in api.PAGES]
    for name in api.public():
        assert sum(f"heading: st.{name}\n" in text for text in texts) == 1, name
