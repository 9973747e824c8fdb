"""Training without a graph."""
