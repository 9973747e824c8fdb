"""Where on the canvas a conditioning is, by what stock nodes have set on it: an area, a mask."""

from collections.abc import Mapping
from typing import Any, cast

from ..layout.regions import WHOLE, Box, region_from_mask

Canvas = tuple[int, int]
"""Height and width of a latent."""


def area_of(settings: Mapping[str, Any], canvas: Canvas) -> tuple[int, int, int, int] | None:
    """What of the canvas a conditioning is for, in cells of the latent: height, width, top, left; None for all of it.

    As ComfyUI cuts it when the model is called: what runs over the right or the lower edge is cut off. Until then it says
    what the user, or the box around a mask, says.

    Raises:
        ValueError: nothing of it is on the canvas.
    """
    area = settings.get("area")
    if area is None:
        return None
    if area[0] == "percentage":
        shares = cast("list[float]", list(area[1:]))
        starts = len(shares) // 2  # of a video's, the first of each half are of time; ComfyUI takes them all the same
        sides = [max(1, round(share * length)) for share, length in zip(shares, canvas, strict=False)]
        corner = [round(share * length) for share, length in zip(shares[starts:], canvas, strict=False)]
    else:
        starts = len(area) // 2
        sides, corner = list(area[:2]), list(area[starts : starts + 2])
    height, width = (min(side, length - at) for side, length, at in zip(sides, canvas, corner, strict=True))
    top, left = corner
    if min(height, width) < 1 or min(top, left) < 0:
        raise ValueError(
            f"The area of a prompt, {8 * sides[1]} x {8 * sides[0]} pixels from x = {8 * left}, y = {8 * top}, does not lie on the canvas of "
            f"{8 * canvas[1]} x {8 * canvas[0]} pixels; move it there."
        )
    return int(height), int(width), int(top), int(left)


def place_of(settings: Mapping[str, Any], canvas: Canvas) -> Box:
    """The part of the canvas that a conditioning is for: the box of its area, and of what its mask shows of that, if anything.

    Raises:
        ValueError: its area is beside the canvas.
    """
    place, (rows, columns) = WHOLE, canvas
    area = area_of(settings, canvas)
    if area is not None:
        height, width, top, left = area
        place = Box(left / columns, top / rows, (left + width) / columns, (top + height) / rows)
    mask = settings.get("mask")
    if mask is None or not mask.any():
        return place
    shown = region_from_mask("", mask.reshape(-1, *mask.shape[-2:]).abs().amax(dim=0)).box
    if not shown.shared(place):
        return place
    left, top = max(shown.left, place.left), max(shown.top, place.top)
    return Box(left, top, min(shown.right, place.right), min(shown.bottom, place.bottom))
