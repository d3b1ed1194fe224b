#!/usr/bin/env python3
"""Run the load tests: `python bench/run.py --help`. What the figures mean: bench/README.md."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python looks for modules beside this file; the package `bench` is one level up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.cli import main

    sys.exit(main())
