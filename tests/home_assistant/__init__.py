"""A real Home Assistant for the tests: installed once per user, run on loopback, with relays that misbehave."""
