"""Which test runs on which slot, decided without pytest and without xdist: plain data in, plain data out."""
