"""Writes the page that `dvc plots show` fills, with the Vega libraries inside. DVC's own page loads
them from the network and stays blank offline.

Usage: python tools/plots_page.py .dvc/tmp/plots.html
"""

import sys
from pathlib import Path

import vl_convert

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Antimatter plots</title>
<style>
body { font-family: system-ui, sans-serif; margin: 2rem; }
body > div { margin-bottom: 2rem; }
div[id^="metrics_"] { display: none; } /* JSON objects, which draw nothing */
</style>
<script>%s</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main(page: Path) -> None:
    # DVC's templates are Vega-Lite 5
    libraries = vl_convert.javascript_bundle(vl_version="5.8")  # type: ignore[call-arg]
    assert "</script" not in libraries.lower(), "the bundle would close its own tag"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(PAGE.replace("%s", libraries), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
