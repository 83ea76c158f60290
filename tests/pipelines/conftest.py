"""A context to work in, and the images of tests/data."""

import pytest

from stugan_tf import config
from stugan_tf.pipelines import steps
from stugan_tf.pipelines.configuration import Configuration


@pytest.fixture
def make_context(tmp_path):
    def make(training="data.source = @digits()\n", evaluation="", pipeline="", code="1", **more):
        configuration = Configuration(training, evaluation, pipeline)
        return steps.Context(tmp_path / "root", configuration, code=code, **more)

    yield make
    config.parse_gin()
