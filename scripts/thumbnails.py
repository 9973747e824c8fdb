"""The pictures that the template browser shows: what each shipped workflow gives on the micro world.

python3 scripts/host.py python scripts/thumbnails.py      after any change to a workflow or to the world
"""

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from comfy_server import PACK, ComfyServer
from demo import CONCEPT, WORD, load_graph, pictures, plain, run
from PIL import Image
from workflow import find

SECOND, SECOND_WORD = "sippy", "cup"
ZOOM = 4
ATTRIBUTES = ("Colour", "Style", "Layout")
USES: dict[str, tuple[list[tuple[str, int]], int]] = {
    "7_variations_and_scenes": ([("Variations", 0), ("Variations", 1), ("Scene", 0), ("Another scene", 0)], 2),
    "8_bias_reduction": ([(title, i) for title in ("Class word", "Balanced") for i in range(4)], 4),
    "9_inpainting": ([("Inpainted", i) for i in range(4)], 2),
    "6_attributes": ([(title, i) for i in range(2) for title in ATTRIBUTES], 3),
}
"""Which image of which node is shown, row by row, and in how many columns."""


def grid(images: list[bytes], columns: int = 2) -> Image.Image:
    """Two rows of pictures as one, each pixel ZOOM pixels wide."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in images[: 2 * columns]]
    width, height = opened[0].size
    whole = Image.new("RGB", (columns * width, 2 * height))
    for i, image in enumerate(opened):
        whole.paste(image, (i % columns * width, i // columns * height))
    return whole.resize((whole.width * ZOOM, whole.height * ZOOM), Image.Resampling.NEAREST)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="compinv-thumbnails-") as folder:
        base = Path(folder)
        shutil.copytree(PACK / "microworld" / "user_pictures", base / "input")
        with ComfyServer(base) as server:
            text = json.dumps(load_graph(server, "1_learn_and_compose"))
            second = json.loads(text.replace(CONCEPT, SECOND).replace(f'"{WORD}"', f'"{SECOND_WORD}"'))
            run(server, second, f"training {SECOND}")
            for name in (  # the first one saves the concept
                "1_learn_and_compose",
                "2_compose_saved_concept",
                "3_two_concepts",
                "5_fine_tune",
            ):
                graph = load_graph(server, name)
                outputs, _ = run(server, graph, name)
                file = PACK / "workflows" / f"{name}.jpg"
                grid(pictures(server, outputs, find(graph, "Composition"))).save(file, quality=90)
            for name, (shown, columns) in USES.items():
                graph = load_graph(server, name)
                outputs, _ = run(server, graph, name)
                images = [pictures(server, outputs, find(graph, title))[i] for title, i in shown]
                grid(images, columns).save(PACK / "workflows" / f"{name}.jpg", quality=90)
            run(server, plain(json.loads(text), 1), "a word to repair")
            graph = load_graph(server, "4_repair_embedding")
            outputs, _ = run(server, graph, "4_repair_embedding")
            before, after = (pictures(server, outputs, find(graph, title)) for title in ("As it was", "Composition"))
            grid(before + after, columns=4).save(PACK / "workflows" / "4_repair_embedding.jpg", quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
