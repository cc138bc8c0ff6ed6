"""`python -m lingshu`: the command line without an installed script."""

import sys

from lingshu.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
