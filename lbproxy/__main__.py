"""`python -m lbproxy` is `lbproxy`."""

from __future__ import annotations

import sys

from lbproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
