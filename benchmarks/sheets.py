"""Contact sheets of the comparison's pictures: the first of each prompt, training seed 0, the same noise for every row."""

from pathlib import Path

from drawing import draw_sheet
from PIL import Image
from recorded import Record
from rows import OURS, ROWS
from tuning_tables import ROWS as FINE_TUNES

PICTURES = Path(__file__).parent.parent / "composition_output" / "pictures"
TUNED = PICTURES.parent / "fine-tuned pictures"


def draw_sheets(found: list[Record], folder: Path) -> None:
    """Of the pictures that are in composition_output; the sheets before stay where those are not."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = {(r["setting"], r["unit"]): r["prompts"] for r in found}
    single = sorted(unit for setting, unit in prompts if setting == "pretrained word")
    double = sorted(unit for setting, unit in prompts if setting == "two concepts")
    wanted = {unit: ("pretrained word", [unit]) for unit in single} | {"two_concepts": ("two concepts", double)}
    wanted |= {f"{unit}_in_a_scene": ("in a scene", [unit]) for unit in single}
    for name, (setting, units) in wanted.items():
        files = {row: [PICTURES / f"test, {row}, {setting}, {unit}.png" for unit in units] for row in ROWS}
        files = {row: mine for row, mine in files.items() if mine and all(file.exists() for file in mine)}
        if OURS in files:
            strips = {row: joined([Image.open(file) for file in mine]) for row, mine in files.items()}
            titles = [title.replace(" and ", "\n") for unit in units for title in prompts[setting, unit]]
            draw_sheet(strips, titles, folder / f"{name}.jpg")


def draw_fine_tunes(found: list[Record], folder: Path) -> None:
    """Of the fine-tunes' pictures, all concepts side by side, beside other objects and two together."""
    for name, setting in (("fine_tunes", "pretrained word"), ("fine_tunes_two_concepts", "two concepts")):
        prompts = {r["unit"]: r["prompts"] for r in found if r["setting"] == setting}
        units, strips = sorted(prompts), dict[str, Image.Image]()
        for row in FINE_TUNES:
            files = [TUNED / f"test, {row}, {setting}, {unit}.png" for unit in units]
            if files and all(file.exists() for file in files):
                title = row.replace(" + ", "\n+ ").replace(", ", "\n")
                strips[title] = joined([Image.open(file) for file in files])
        if strips:
            titles = [title.replace(" and ", "\n") for unit in units for title in prompts[unit]]
            draw_sheet(strips, titles, folder / f"{name}.jpg")


def joined(strips: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(strip.width for strip in strips), strips[0].height))
    left = 0
    for strip in strips:
        whole.paste(strip, (left, 0))
        left += strip.width
    return whole
