"""Cross-attention as maps of the canvas, and the energy of attention that strays from a layout."""
