"""Holding a slot: flock(2) on the agreed path, who holds it, waiting for it."""
