"""`python -m pipelines.compile` is `python -m stugan_tf.pipelines.compile`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stugan_tf.pipelines.compile", run_name="__main__", alter_sys=True)
