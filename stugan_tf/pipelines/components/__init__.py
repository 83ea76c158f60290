"""The components, one per module: what a result depends on, how it is made; see `Component`."""
