"""Spatial inversion while sampling: schedules, guidance of the latent, and what is reported of it."""
