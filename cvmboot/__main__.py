"""`python -m cvmboot` is `cvmboot`."""

import sys

from cvmboot.cli import main

sys.exit(main())
