"""`python -m pipelines.lineage` is `python -m stugan_tf.pipelines.lineage`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stugan_tf.pipelines.lineage", run_name="__main__", alter_sys=True)
