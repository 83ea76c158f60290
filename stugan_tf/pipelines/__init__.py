"""Ingest, train, evaluate, export, bless, push: see docs/pipelines.md."""

NO_FILE = "--gin_file is missing. Try --gin_file=pipelines/digits.gin."
