import pytest

from tests.helpers.small import small_training


@pytest.fixture(scope="session")
def training():
    """What the checkpoints are of; its state is that of whoever restored it last."""
    return small_training()
