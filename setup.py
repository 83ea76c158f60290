"""What setup.cfg cannot say: files from outside of the package that a wheel holds.

gin/*.gin                           become stugan_tf/gin; a checkout has them beside the package
the .so in $STUGAN_TF_PREBUILT      the operation for Linux on x86-64, see `make wheel`
"""

import os
import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py

PREBUILT = os.environ.get("STUGAN_TF_PREBUILT")


class BuildWithFiles(build_py):
    """Copies the package and the files from outside of it."""

    def run(self):
        """Builds into `build_lib`; an editable installation needs no files."""
        super().run()
        if self.editable_mode:
            return
        package = pathlib.Path(self.build_lib, "stugan_tf")
        files = {path: package / path for path in pathlib.Path("gin").rglob("*.gin")}
        if PREBUILT:
            (operation,) = pathlib.Path(PREBUILT).glob("*.so")
            files[operation] = package / "kernels" / "prebuilt" / operation.name
        for source, target in files.items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


setup(
    cmdclass={"build_py": BuildWithFiles},
    # The operation belongs to TensorFlow, not to a version of Python: py3-none-linux_x86_64.
    options={"bdist_wheel": {"plat_name": "linux_x86_64"}} if PREBUILT else {},
)
