"""`python -m pipelines.rollback` is `python -m stugan_tf.pipelines.rollback`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stugan_tf.pipelines.rollback", run_name="__main__", alter_sys=True)
