"""What hardware there is: `slots.toml` as typed models. Data only, no I/O on boards."""
