"""Where each subject of a prompt goes: regions of the canvas, and how they are recovered or predicted."""
