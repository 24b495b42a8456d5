"""Transparent pixels become what they look like on white ground."""

from PIL import Image, ImageChops

WHITE = 255


def on_white(image: Image.Image, *, certain_alpha: bool = True) -> Image.Image:
    """The picture, laid on white: RGB. A picture without transparency is only converted to RGB.

    Args:
        image: of any mode of 8 bits a channel. A palette of it is changed.
        certain_alpha: False: an alpha channel that is 0 everywhere does not count.
    """
    if image.mode == "P":
        _blend_palette(image)
    elif image.mode == "L" and "transparency" in image.info:
        table = list(range(256))
        table[image.info["transparency"]] = WHITE
        image = image.point(table)
    elif image.mode in ("La", "RGBa"):
        return _add_white(image)
    elif image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA") and _is_seen(image, certain_alpha):
        image = _blend(image)
    if image.mode == "RGB":
        return image
    # convert() would look into `info` for transparency again.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _is_seen(image: Image.Image, certain_alpha: bool) -> bool:
    """The alpha channel changes the picture. Looking is quicker than blending an opaque one."""
    lowest, highest = image.getchannel("A").getextrema()
    return lowest != 255 and (certain_alpha or highest != 0)


def _blend(image: Image.Image) -> Image.Image:
    """Straight alpha: colour x alpha + white x (1 - alpha), rounded. RGBA -> RGB, LA -> L."""
    if image.mode == "LA":
        ground = Image.new("L", image.size, WHITE)
        ground.paste(image.getchannel("L"), mask=image.getchannel("A"))
    else:
        ground = Image.new("RGB", image.size, (WHITE,) * 3)
        ground.paste(image, mask=image)
    return ground


def _add_white(image: Image.Image) -> Image.Image:
    """Premultiplied alpha: the colour holds its share already, white adds the rest."""
    *colours, alpha = image.split()
    rest = ImageChops.invert(alpha)
    return Image.merge("RGB", [ImageChops.add(one, rest) for one in (colours * 3)[:3]])


def _blend_palette(image: Image.Image) -> None:
    """Lay the colours of the palette on white: much less work than all pixels."""
    transparency = image.info.pop("transparency", None)
    if transparency is None:
        return
    # A pixel may have a number that the palette lacks, the transparent one above all.
    palette = (image.getpalette("RGB") or [])[: 3 * 256]
    palette += [0] * (3 * 256 - len(palette))
    alphas = {transparency: 0} if isinstance(transparency, int) else dict(enumerate(transparency))
    for number, alpha in alphas.items():
        for at in range(3 * number, 3 * number + 3):
            palette[at] = (palette[at] * alpha + WHITE * (255 - alpha) + 127) // 255
    image.putpalette(palette)


def outside(picture: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """White outside of the frame: there is nothing of the picture. RGB -> RGB."""
    ground = Image.new("RGB", picture.size, (WHITE,) * 3)
    ground.paste(picture.crop(frame), frame)
    return ground
