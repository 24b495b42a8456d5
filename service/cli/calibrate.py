"""`rapid calibrate`: find a model's tiers on unlabelled pictures and write them beside it."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from service.cli import options, temporary, terminal
from service.cli.options import AS_SET, Device
from service.images.options import COLOR, Color

Model = Annotated[
    str, Argument(help="As in RAPID_MODELS: a bundled name, a folder, a name of timm.")
]
Images = Annotated[Path, Option(help="Folder with pictures; they need no labels.")]
Out = Annotated[
    Path | None,
    Option(
        dir_okay=False,
        callback=options.new_file,
        help="File to write.",
        show_default="tiers.json beside the model",
    ),
]
Seed = Annotated[int, Option(help="Seed of the search.")]


def calibrate(
    model: Model,
    *,
    images: Images,
    out: Out = None,
    device: Device = "auto",
    color: Annotated[Color, AS_SET] = COLOR,
    seed: Seed = 0,
) -> None:
    """Find a model's tiers on unlabelled pictures and write them beside it.

    It takes minutes to hours. After an interruption, the same command goes on where it was.

    Examples:
      rapid calibrate ./models/mine --images ./pictures
      rapid calibrate deit_small_patch16_224 --images ./pictures --out tiers.json
    """
    temporary.check()
    from service.cli.calibrate_search import Search, Watch, find_tiers

    watch = Watch(partial(terminal.track, description="pictures"), terminal.counting)
    found = find_tiers(Search(model, images, out, device, color, seed), watch)
    for tier, reason in found.left_out.items():
        terminal.note(f"{tier} is left out: {reason}")
    terminal.show(f"wrote {found.written}")
