import pytest

from tests.helpers import tracing
from tests.helpers.small import small_training


@pytest.fixture(autouse=True, scope="module")
def _untraced():
    """What happens between steps is looked at; to trace each training would take far longer."""
    with tracing.untraced():
        yield


@pytest.fixture(scope="session")
def training():
    """What the checkpoints are of; its state is that of whoever restored it last."""
    return small_training()
