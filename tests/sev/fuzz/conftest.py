"""Helpers of the tests of measure, which make firmware and IGVM files, are seeds here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "measure"))
