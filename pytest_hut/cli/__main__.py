"""`python -m pytest_hut.cli`, the same as `hut`."""

from __future__ import annotations

import sys

from pytest_hut.cli import main

if __name__ == "__main__":
    sys.exit(main())
