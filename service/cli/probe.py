"""`rapid probe`: how accurate each tier of a model is on labelled pictures."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from service.backends.options import Backend, Precision
from service.cli import options, temporary, terminal
from service.cli.options import AS_SET, Device
from service.images.options import COLOR, Color, Resize
from service.settings import Settings
from service.tiers import TIERS

DEFAULT_MODEL = Settings.model_fields["models"].default[0]
ALL_TIERS = ",".join(TIERS)
TITLES = ("tier", "r", "MACs", "top-1", "top-5", "as unreduced")

Model = Annotated[str, Option(help="As in RAPID_MODELS.")]
Data = Annotated[
    Path | None,
    Option(
        exists=True,
        file_okay=False,
        help="Folder with pictures and labels.csv.",
        show_default="beside the model",
    ),
]
Tiers = Annotated[
    Any, Option(parser=options.tiers, metavar="<a,b>", help="Which, separated by commas.")
]
Count = Annotated[Any, Option(parser=options.count, metavar="<n>", help="Pictures in one batch.")]
MaxImages = Annotated[
    Any,
    Option(
        parser=options.count,
        metavar="<n>",
        help="Of more pictures, take N evenly spaced ones.",
        show_default="all",
    ),
]
Csv = Annotated[
    Path | None,
    Option(dir_okay=False, callback=options.new_file, help="Write the table there, too."),
]
Png = Annotated[
    Path | None,
    Option(dir_okay=False, callback=options.new_picture, help="Draw accuracy over cost there."),
]
Baseline = Annotated[
    bool,
    Option(
        "--baseline",
        help="Note the result beside the pictures: the service warns when it falls below.",
    ),
]


def probe(
    *,
    model: Model = DEFAULT_MODEL,
    data: Data = None,
    tiers: Tiers = ALL_TIERS,
    device: Device = "auto",
    backend: Annotated[Backend, AS_SET] = "auto",
    precision: Annotated[Precision, AS_SET] = "float32",
    resize: Annotated[Resize, AS_SET] = "pillow",
    color: Annotated[Color, AS_SET] = COLOR,
    batch_size: Count = "16",
    max_images: MaxImages = None,
    csv: Csv = None,
    png: Png = None,
    baseline: Baseline = False,
) -> None:
    """Measure how accurate each tier of a model is on labelled pictures.

    Shares are in percent, with 95 % intervals; MACs are multiply-adds, in percent of all.

    Examples:
      rapid probe --tiers exact,fast --max-images 100
      rapid probe --model ./models/mine --data ./labelled --png accuracy.png
    """
    temporary.check()
    from service.cli import probe_rows
    from service.cli.probe_measure import Wanted, measure_tiers

    wanted = Wanted(
        model, data, tiers, device, backend, precision, resize, color, batch_size, max_images
    )
    probed = measure_tiers(wanted, terminal.track)
    terminal.show_table(TITLES, map(probe_rows.cells, probed.rows))
    if csv:
        probe_rows.write_csv(probed.rows, csv)
    if png:
        from service.cli.probe_plot import draw

        draw(probed.rows, png, probed.model)
    if baseline:
        written = probe_rows.write_baseline(probed.rows, probed.folder, probed.architecture)
        terminal.show(f"wrote {written}")
