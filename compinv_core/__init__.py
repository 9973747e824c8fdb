"""Compositional Inversion: learn a word that leaves room for the rest of the prompt (Zhang et al., AAAI 2024)."""

__version__ = "0.1.0"
