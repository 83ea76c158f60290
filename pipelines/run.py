"""`python -m pipelines.run` is `python -m stugan_tf.pipelines.run`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stugan_tf.pipelines.run", run_name="__main__", alter_sys=True)
