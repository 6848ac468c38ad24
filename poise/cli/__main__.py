"""``python -m poise.cli``: what the ``poise`` command runs."""

import sys

from poise.cli import main

if __name__ == "__main__":
    sys.exit(main())
