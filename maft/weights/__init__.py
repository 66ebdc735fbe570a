"""Checkpoints: found, recognised, checked, loaded, saved, and seeded stand-ins for them."""
