"""What differs between architectures: one file each, the same names in each."""
