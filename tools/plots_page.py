"""Writes the page that `dvc plots show` fills, with the Vega libraries inside. DVC's own page loads
them from the network and stays blank offline.

Usage: python tools/plots_page.py .dvc/tmp/plots.html
"""

import sys
from pathlib import Path

from antimatter import files
from antimatter.report import page

if __name__ == "__main__":
    files.write_text(Path(sys.argv[1]), page.template())
