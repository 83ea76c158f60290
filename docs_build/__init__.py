"""What `make docs` makes of docs/, of the other pages of the repository and of the sources.

`hooks.py` is what MkDocs calls. The package is read, not imported, so a build needs neither
TensorFlow nor Keras.
"""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
