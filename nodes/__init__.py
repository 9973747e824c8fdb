"""The pack's nodes: thin translations between ComfyUI's graph and `compinv_core`. One file per theme."""

from __future__ import annotations

from comfy_api.latest import io

from . import (
    adapters,
    anchors,
    attribute_training,
    attributes,
    cards,
    concepts,
    doctor,
    fine_tune,
    layout,
    layout_editor,
    layout_training,
    picture_folder,
    prompt,
    regions,
    repair,
    report,
    sampling,
    train,
    training_options,
)

NODES: list[type[io.ComfyNode]] = [
    node
    for module in (
        picture_folder,
        anchors,
        train,
        fine_tune,
        attribute_training,
        training_options,
        concepts,
        cards,
        doctor,
        adapters,
        repair,
        prompt,
        attributes,
        layout,
        layout_editor,
        layout_training,
        regions,
        sampling,
        report,
    )
    for node in module.NODES
]
