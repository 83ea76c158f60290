"""`python -m pipelines.statistics` is `python -m stugan_tf.pipelines.statistics`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stugan_tf.pipelines.statistics", run_name="__main__", alter_sys=True)
