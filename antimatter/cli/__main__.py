"""`python -m antimatter.cli`, for a checkout that is not installed."""

import sys

from antimatter.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
