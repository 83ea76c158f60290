"""What stugan_tf/adapters/gin_internals.py relies on; see to that file if one of these fails."""

import gin
import pytest

from stugan_tf.adapters import gin_internals

ADAPTER = "gin has changed: adapt stugan_tf/adapters/gin_internals.py"


@gin.configurable(module="of_gin_internals", denylist=["given"])
def called(given, size=1, unbound=2):
    return given, size, unbound


@pytest.fixture(autouse=True)
def _bound():
    gin.clear_config()
    gin.parse_config("of_gin_internals.called.size = 3")
    yield
    gin.clear_config()


def test_what_is_registered_is_known_by_name():
    found = gin_internals.REGISTRY["of_gin_internals.called"]
    assert found.wrapper is called, ADAPTER
    assert found.wrapped(0) == (0, 1, 2), ADAPTER
    assert found.name == "called", ADAPTER
    assert found.selector == "of_gin_internals.called", ADAPTER
    assert found.denylist == ["given"], ADAPTER
    assert dict(gin_internals.REGISTRY.items())["of_gin_internals.called"] is found, ADAPTER


def test_names_may_be_abbreviated():
    registry = gin_internals.REGISTRY
    assert registry.get_match("called").selector == "of_gin_internals.called", ADAPTER
    assert registry.get_match("not_called") is None, ADAPTER
    assert registry.minimal_selector("of_gin_internals.called") == "called", ADAPTER


def test_calls_are_noted_without_what_the_caller_gave_and_written_as_text():
    assert ("", "of_gin_internals.called") not in gin_internals.OPERATIVE_CONFIG, ADAPTER
    assert called(0) == (0, 3, 2)
    noted = gin_internals.OPERATIVE_CONFIG["", "of_gin_internals.called"]
    assert noted == {"size": 3, "unbound": 2}, ADAPTER
    text = gin_internals.config_text({("", "of_gin_internals.called"): noted})
    assert "called.size = 3\ncalled.unbound = 2\n" in text, ADAPTER


def test_a_binding_can_be_removed():
    gin_internals.unbind("", "of_gin_internals.called", "size")
    assert called(0) == (0, 1, 2), ADAPTER


def test_a_configuration_can_be_put_aside_and_back():
    called(0)
    with_size_3 = gin_internals.copy_state()
    gin_internals.set_state(gin_internals.GinState())
    assert called(0) == (0, 1, 2), ADAPTER
    gin_internals.set_state(with_size_3)
    assert called(0) == (0, 3, 2), ADAPTER
    assert gin_internals.OPERATIVE_CONFIG["", "of_gin_internals.called"]["size"] == 3, ADAPTER
    assert not gin.config_is_locked(), ADAPTER
