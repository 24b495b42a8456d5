"""Write every dashboard as the JSON that Grafana reads."""

import argparse
import json
from pathlib import Path

from deploy.grafana.generate import accuracy, batching, device, latency, overview
from deploy.grafana.generate.parts import RUNBOOK, build

FOLDER = Path(__file__).parents[1] / "dashboards"
BOARDS = (overview.BOARD, latency.BOARD, batching.BOARD, accuracy.BOARD, device.BOARD)


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write them")
    parser.add_argument("--runbook", default=RUNBOOK, help="URL at which docs/runbook.md is read")
    arguments = parser.parse_args()
    for board in BOARDS:
        document = build(board, arguments.runbook)
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        (arguments.folder / f"{board.uid}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
