"""Layouts and attention as images, for a person to look at."""

import textwrap
from collections.abc import Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ..compinv_core.layout.regions import Layout
from ..compinv_core.report.cells import CellShares
from ..compinv_core.sampling.report import Report
from ..compinv_core.sentences import quoted

COLORS = ["#d1590b", "#1f6feb", "#2da44e", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#cf222e"]
SIDE = 384  # pixels, of an image that stands alone
FRAME_SIDE = 256  # pixels, of one of many
THUMBNAIL = 192  # pixels, of a picture on a sheet
MAX_ON_SHEET = 60
MAX_FRAMES = 24  # of a run; a thousand steps would fill the memory


def to_image(tensor: Tensor) -> Image.Image:
    """(H, W, 3) in 0..1 as a PIL image."""
    return Image.fromarray((tensor.detach().cpu().clamp(0, 1) * 255).round().byte().numpy())


def from_image(image: Image.Image) -> Tensor:
    """A PIL image as (1, H, W, 3) in 0..1."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, 3).float() / 255


def heat(amount: Tensor, name: str, side: int = SIDE) -> Image.Image:
    """A map (h, w) from dark (none) to bright (its highest), labelled."""
    big = _large(amount.float() / amount.max().clamp_min(1e-8), side)[..., None]
    cold, warm = torch.tensor([0.05, 0.05, 0.2]), torch.tensor([1.0, 0.85, 0.2])
    image = to_image(cold * (1 - big) + warm * big)
    ImageDraw.Draw(image).text((8, 6), name, fill="white")
    return image


def _large(amount: Tensor, side: int) -> Tensor:
    """A map (h, w) in 0..1, its longer edge scaled to `side`."""
    height, width = amount.shape
    size = (round(side * height / max(height, width)), round(side * width / max(height, width)))
    return F.interpolate(amount[None, None], size=size, mode="bicubic").clamp(0, 1)[0, 0]


def layout_picture(layout: Layout, maps: Tensor | None = None, preview: Tensor | None = None) -> Image.Image:
    """The regions, labelled, over a dimmed preview (h, w, 3) of the image that they were read from, or over its attention."""
    if preview is not None:
        height, width = preview.shape[:2]
        size = (round(SIDE * width / max(height, width)), round(SIDE * height / max(height, width)))
        image = to_image(0.6 * preview).resize(size, Image.Resampling.BICUBIC)
    else:
        image = heat(maps.sum(0), "") if maps is not None else Image.new("RGB", (SIDE, SIDE), "#202030")
    _outlined(image, layout)
    said = f"from: {layout.source}" + (f"; {layout.note}" if layout.note else "")
    lines = textwrap.wrap(said, image.width // 6 - 2)
    ImageDraw.Draw(image).text((6, image.height - 4 - 12 * len(lines)), "\n".join(lines), fill="white", spacing=1)
    return image


def _outlined(image: Image.Image, layout: Layout) -> None:
    """Draw the regions, labelled."""
    draw = ImageDraw.Draw(image)
    for region, color in zip(layout.regions, cycle(COLORS), strict=False):
        box, label = region.box, region.name
        edges = (box.left * image.width, box.top * image.height, box.right * image.width, box.bottom * image.height)
        draw.rectangle(edges, outline=color, width=image.width // 96)
        draw.rectangle((edges[0], edges[1], edges[0] + 8 + 6.5 * len(label), edges[1] + 16), fill=color)
        draw.text((edges[0] + 4, edges[1] + 2), label, fill="white")


def _spread(reports: Sequence[Report]) -> list[Report]:
    """At most MAX_FRAMES of them, the first and the last and others evenly between."""
    count = min(MAX_FRAMES, len(reports))
    return [reports[i * (len(reports) - 1) // max(1, count - 1)] for i in range(count)]


def heat_pictures(reports: Sequence[Report]) -> Tensor:
    """(N, H, W, 3), of each step the subjects' maps side by side, labelled with their share of the attention."""
    rows: list[Image.Image] = []
    for report in _spread(reports):
        shares = zip(report.maps.mean(0), report.subjects, report.shares.tolist(), strict=True)
        maps = [heat(amount, f"{_label(name)} {share:.0%}", FRAME_SIDE) for amount, name, share in shares]
        row = Image.new("RGB", (sum(m.width for m in maps), maps[0].height))
        for i, image in enumerate(maps):
            row.paste(image, (i * image.width, 0))
        ImageDraw.Draw(row).text((8, row.height - 16), f"step {report.step}", fill="white")
        rows.append(row)
    return torch.cat([from_image(row) for row in rows])


def overlays(reports: Sequence[Report], layout: Layout | None) -> Tensor:
    """(N, H, W, 3), of each step what the first image looked like to the model, and over it, each in a colour of its own,
    the subjects' attention, on one scale, and their regions."""
    frames: list[Image.Image] = []
    for report in _spread(reports):
        maps = report.maps[0] / report.maps[0].max().clamp_min(1e-8)
        tints = torch.stack([_large(amount, FRAME_SIDE) for amount in maps])[..., None]
        height, width = tints.shape[1:3]
        below = torch.full((height, width, 3), 0.15)
        if report.preview is not None:
            below = F.interpolate(report.preview.permute(2, 0, 1)[None], size=(height, width), mode="bicubic")
            below = below[0].permute(1, 2, 0).mean(-1, keepdim=True).expand(-1, -1, 3).clamp(0, 1)
        placed = [region.name for region in layout.regions] if layout else []
        names = [_label(subject) for subject in report.subjects]
        numbers = [placed.index(name) if name in placed else i for i, name in enumerate(names)]
        colors = torch.tensor([ImageColor.getrgb(COLORS[i % len(COLORS)]) for i in numbers])[:, None, None] / 255
        tint = (tints * colors).sum(0) / tints.sum(0).clamp_min(1e-8)
        much = 0.8 * tints.amax(0)
        frame = to_image(below * (1 - much) + tint * much)
        if layout is not None:
            _outlined(frame, layout)
        ImageDraw.Draw(frame).text((6, frame.height - 16), f"step {report.step}", fill="white")
        frames.append(frame)
    return torch.cat([from_image(frame) for frame in frames])


def picture_sheet(pictures: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Pictures (H, W, 3) of any sizes in rows, each with its name; the first MAX_ON_SHEET of them."""
    shown = pictures[:MAX_ON_SHEET]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * THUMBNAIL, rows * (THUMBNAIL + 16)), "#202030")
    draw = ImageDraw.Draw(sheet)
    for i, (name, picture) in enumerate(shown):
        left, top = i % columns * THUMBNAIL, i // columns * (THUMBNAIL + 16)
        image = to_image(picture)
        image.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top + (THUMBNAIL - image.height) // 2))
        draw.text((left + 4, top + THUMBNAIL), quoted(name, THUMBNAIL // 7), fill="white")
    return sheet


def _label(phrase: str) -> str:
    return phrase.removeprefix("embedding:")


def cell_picture(found: CellShares) -> Tensor:
    """The shares of a table's cells from dark (0) to bright (1), each with its figure: (1, H, W, 3)."""
    wide, high, left, top = 96, 40, 96, 28
    image = Image.new("RGB", (left + wide * len(found.columns) + 8, top + high * len(found.rows) + 8), "#202030")
    draw = ImageDraw.Draw(image)
    cold, warm = (torch.tensor(ImageColor.getrgb(color)).float() for color in ("#0d0d33", "#ffd933"))
    draw.text((8, 8), "timesteps", fill="white")
    for column, name in enumerate(found.columns):
        draw.text((left + wide * column + 4, 8), name, fill="white")
    for row, name in enumerate(found.rows):
        draw.text((8, top + high * row + 14), name, fill="white")
        for column, share in enumerate(found.shares[row].tolist()):
            amount = min(1.0, max(0.0, share))
            color = tuple(int(v) for v in (cold + amount * (warm - cold)).tolist())
            corner = left + wide * column, top + high * row
            draw.rectangle((*corner, corner[0] + wide - 3, corner[1] + high - 3), fill=color)
            text = "black" if amount > 0.5 else "white"
            draw.text((corner[0] + 8, corner[1] + 14), f"{share:.2f}", fill=text)
    return from_image(image)
