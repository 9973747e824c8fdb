"""Damaged and odd files of every kind that the pack reads; see `__main__`."""
