"""One component a module: what its result depends on, and how it is made; see `steps.Step`."""
