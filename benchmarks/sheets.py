"""Contact sheets of the comparison's pictures: the first of each prompt, training seed 0, the same noise for every row."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from drawing import draw_sheet
from PIL import Image
from recorded import Record
from rows import BARE, BASELINES, OURS, ROWS, WHOLE
from tuning_tables import ROWS as FINE_TUNES

PICTURES = Path(__file__).parent.parent / "composition_output" / "pictures"
TUNED = PICTURES.parent / "fine-tuned pictures"
ATTRIBUTES = PICTURES.parent / "attributes' pictures"
FEW = 3  # classes of an attribute's images
ENDS = (("pretrained word", ""), ("two concepts", "_two_concepts"))


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
        if len(files) == len(ROWS):  # or the sheet before shows more
            strips = {row: joined([Image.open(file) for file in mine]) for row, mine in files.items()}
            titles = [title.replace(" and ", "\n") for unit in units for title in prompts[setting, unit]]
            draw_sheet(strips, titles, folder / f"{name}.jpg")


def draw_regional(found: list[Record], folder: Path) -> None:
    """What regional reading changes: with no layout, steered to one, and read regionally, too."""
    _draw_side_by_side(
        found, (BARE, WHOLE, OURS), PICTURES, {name: folder / f"regional{end}.jpg" for name, end in ENDS}
    )


def draw_second(found: list[Record], folder: Path) -> None:
    """Of the world on which no setting was chosen, half of its concepts in each sheet."""
    beside = [r for r in found if r["setting"] == "pretrained word"]
    units = sorted({r["unit"] for r in beside})
    for number, half in enumerate((units[: len(units) // 2], units[len(units) // 2 :]), start=1):
        file = {"pretrained word": folder / f"second_{number}.jpg"}
        _draw_side_by_side([r for r in beside if r["unit"] in half], (*BASELINES, BARE, WHOLE, OURS), PICTURES, file)


def draw_fine_tunes(found: list[Record], folder: Path) -> None:
    """Of the fine-tunes' pictures."""
    _draw_side_by_side(found, FINE_TUNES, TUNED, {name: folder / f"fine_tunes{end}.jpg" for name, end in ENDS})


def draw_attributes(found: Sequence[Record], folder: Path) -> None:
    """A sheet for each reference: each of its attributes used alone on a few classes, a line for each row."""
    for name in dict.fromkeys(r["unit"] for r in found):
        roles = next(r["used"] for r in found if r["unit"] == name)
        strips, titles = dict[str, Image.Image](), list[str]()
        for row in dict.fromkeys(r["row"] for r in found):
            files = {role: sorted(ATTRIBUTES.glob(f"{row}, {role} of {name}, *.png"))[:FEW] for role in roles}
            if all(len(own) == FEW for own in files.values()):
                strips[row.replace(", ", "\n")] = joined([Image.open(file) for own in files.values() for file in own])
                titles = [f"{role}\n{file.stem.rpartition(' ')[2]}" for role, own in files.items() for file in own]
        if strips:
            draw_sheet(strips, titles, folder / f"attributes_{name}.jpg")


def _draw_side_by_side(found: list[Record], rows: Sequence[str], pictures: Path, files: Mapping[str, Path]) -> None:
    """All concepts of a setting side by side, a line for each row whose pictures are all there."""
    for setting, file in files.items():
        prompts = {r["unit"]: r["prompts"] for r in found if r["setting"] == setting}
        units, strips = sorted(prompts), dict[str, Image.Image]()
        for row in rows:
            own = [pictures / f"test, {row}, {setting}, {unit}.png" for unit in units]
            if own and all(one.exists() for one in own):
                title = row.replace(" + ", "\n+ ").replace(", ", "\n")
                strips[title] = joined([Image.open(one) for one in own])
        if strips:
            titles = [title.replace(" and ", "\n") for unit in units for title in prompts[unit]]
            draw_sheet(strips, titles, file)


def joined(strips: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(strip.width for strip in strips), strips[0].height))
    left = 0
    for strip in strips:
        whole.paste(strip, (left, 0))
        left += strip.width
    return whole
