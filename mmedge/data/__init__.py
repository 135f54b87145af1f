"""Data sets on disk: building and reading them. Nothing here imports torch."""
