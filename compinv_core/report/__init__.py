"""A concept's report: its figures, and how they are measured."""
