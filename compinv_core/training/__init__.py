"""Textual inversion with anchors: pictures to latents, the objective, the loop."""
