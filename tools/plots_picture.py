"""One of the plots of `dvc plots diff` as a PNG, for a page or a paper.

Usage: python tools/plots_picture.py loss dvc_plots/loss.png HEAD wide deep

The revisions are those of `dvc plots diff`; without any, HEAD and the workspace.
"""

import json
import subprocess
import sys
from pathlib import Path

import vl_convert

from antimatter.errors import UserError


def main(plot: str, picture: Path, revisions: list[str]) -> None:
    command = [sys.executable, "-m", "dvc", "plots", "diff", "--json", *revisions]
    diff = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    data = json.loads(diff.stdout)["data"]
    if plot not in data:
        raise UserError(f"there is no plot {plot!r}: known are {', '.join(data)}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    content = data[plot][0]["content"]
    chart = json.loads(content) if isinstance(content, str) else content
    # DVC gives all charts 300 pixels
    specification = {**chart, "width": 640, "height": 400}
    png = vl_convert.vegalite_to_png(specification, vl_version="5.8", scale=1.5)
    picture.write_bytes(png)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except (UserError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
