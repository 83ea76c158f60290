"""What workers build, and what is left of it."""

import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.pipelines import beams
from stugan_tf.pipelines.settings import Beam


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


@pytest.mark.parametrize(
    ("runner", "option", "told"),
    [
        ("DirectRunner", "--direct_num_worker=2", "Did you mean --direct_num_workers?"),
        ("DirectRunner", "--nothing_like_it=2", "no option --nothing_like_it."),
        ("FlinkRunner", "--flink_mater=localhost:8081", "Did you mean --flink_master?"),
    ],
)
def test_an_option_that_beam_would_leave_out_is_refused(runner, option, told):
    with pytest.raises(InputError, match="no option --") as refused:
        beams.pipeline(Beam(runner=runner, options=(option,)))
    assert told in str(refused.value)


def test_an_option_that_a_job_server_may_know_passes():
    settings = Beam(runner="FlinkRunner", options=("--flink_master=local", "--of_the_server=1"))
    assert beams.pipeline(settings).runner is not None


def test_an_option_without_dashes_is_refused():
    with pytest.raises(InputError, match="must begin with --"):
        Beam(options=("flink_master=localhost:8081",))
