"""Relays: one state machine (command, read back), drivers under it, and the promise that power comes back."""
