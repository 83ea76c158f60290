"""Ingest, train, evaluate, export, bless, push: see docs/pipelines.md."""
