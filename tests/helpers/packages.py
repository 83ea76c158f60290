"""Packages that are as if they were not installed."""

import importlib.util


def uninstall(monkeypatch, package):
    """Hides a package from whoever looks for it before importing it."""
    found = importlib.util.find_spec

    def find_spec(name, *rest):
        return None if name == package else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
