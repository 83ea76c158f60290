import pytest

from stugan_tf.kernels import library


@pytest.fixture(scope="session")
def operations():
    """Skips what needs the operations where they cannot be had; that they do not compile fails."""
    try:
        return library.load()
    except library.KernelsUnavailableError as error:
        if "could not be" in str(error):
            raise
        pytest.skip(str(error))
