"""What workers build, and what is left of it."""

import pytest
import tensorflow as tf

from stugan_tf.pipelines import beams


@pytest.fixture
def hidden(monkeypatch):
    """Kinds of devices that were hidden from this process."""
    found = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: found.append((devices, kind))
    )
    yield found
    with beams.kept("text", "built"):
        pass  # It leaves nothing behind.


def test_what_a_worker_builds_uses_no_gpu_and_is_built_once(hidden):
    assert [beams.shared("text", object) is beams.shared("text", object)] == [True]
    assert hidden == [([], "GPU")]


def test_what_is_kept_for_a_pipeline_in_this_process_is_let_go_after_it(hidden):
    with beams.kept("text", "built"):
        assert beams.shared("text", object) == "built"
    assert not hidden
    assert beams.shared("text", lambda: "built again") == "built again"
