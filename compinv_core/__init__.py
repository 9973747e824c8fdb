"""Compositional Inversion: learn an embedding that composes with the rest of the prompt (Zhang et al., AAAI 2024)."""

__version__ = "0.1.0"
