"""The page of all charts, which DVC fills (docs/decisions/0006)."""

from pathlib import Path

import vl_convert

PAGE = Path(__file__).with_name("page.html")
# DVC's templates are Vega-Lite 5
VEGA_LITE = "5.8"


def template() -> str:
    """The page with the Vega libraries, and with DVC's `{plot_divs}` to fill."""
    libraries = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    assert "</script" not in libraries.lower(), "the bundle would close its own tag"
    return PAGE.read_text(encoding="utf-8").replace("{vega}", libraries)
