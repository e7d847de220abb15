"""checked: all parameters are good. The first act of the pipeline, so that a bad value stops it
before anything is deleted or computed.
"""

from pathlib import Path

from antimatter import files
from antimatter.pipeline import stage


def main(checked: Path) -> None:
    # stage.run() has checked them. Always the same text: only a bad value changes something for the
    # stages after this one
    files.write_text(checked, "params.yaml was checked\n")


if __name__ == "__main__":
    stage.run(main)
