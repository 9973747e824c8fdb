"""The silhouettes: signed distances in an object's own square, u to the right and v down, both -1..1.

A shape is a list of parts, painted in order. Negative distances are inside. The "body" wears the object's pattern,
"accent" its second colour, "dark" and "light" are fixed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Parts = list[tuple[str, Array]]


def circle(u: Array, v: Array, x: float, y: float, r: float) -> Array:
    return np.hypot(u - x, v - y) - r


def box(u: Array, v: Array, left: float, top: float, right: float, bottom: float, rounding: float = 0.0) -> Array:
    dx = np.abs(u - (left + right) / 2) - (right - left) / 2 + rounding
    dy = np.abs(v - (top + bottom) / 2) - (bottom - top) / 2 + rounding
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - rounding


def convex(u: Array, v: Array, *corners: tuple[float, float]) -> Array:
    """A convex polygon, corners clockwise on the screen."""
    distance = np.full_like(u, -np.inf)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.hypot(x1 - x0, y1 - y0)
        distance = np.maximum(distance, ((y1 - y0) * (u - x0) - (x1 - x0) * (v - y0)) / length)
    return distance


def cat(u: Array, v: Array) -> Parts:
    head = circle(u, v, 0, 0.18, 0.66)
    left = convex(u, v, (-0.66, -0.92), (-0.06, -0.36), (-0.62, 0.14))
    right = convex(u, v, (0.66, -0.92), (0.62, 0.14), (0.06, -0.36))
    eyes = np.minimum(circle(u, v, -0.26, 0.08, 0.13), circle(u, v, 0.26, 0.08, 0.13))
    return [("body", np.minimum(head, np.minimum(left, right))), ("dark", eyes)]


def cup(u: Array, v: Array) -> Parts:
    mug = convex(u, v, (-0.72, -0.62), (0.42, -0.62), (0.3, 0.78), (-0.6, 0.78))
    handle = np.abs(circle(u, v, 0.42, 0.02, 0.36)) - 0.13
    return [
        ("body", np.minimum(mug, np.maximum(handle, 0.25 - u))),
        ("dark", box(u, v, -0.62, -0.62, 0.32, -0.44, 0.08)),
    ]


def chair(u: Array, v: Array) -> Parts:
    back = box(u, v, -0.52, -0.95, 0.52, 0.25, 0.15)
    seat = box(u, v, -0.78, 0.12, 0.78, 0.48, 0.1)
    legs = np.minimum(box(u, v, -0.7, 0.4, -0.44, 0.95), box(u, v, 0.44, 0.4, 0.7, 0.95))
    return [("dark", legs), ("body", back), ("accent", seat)]


def boat(u: Array, v: Array) -> Parts:
    hull = convex(u, v, (-0.95, 0.22), (0.95, 0.22), (0.58, 0.8), (-0.58, 0.8))
    sail = convex(u, v, (0.04, -0.92), (0.78, 0.1), (0.04, 0.1))
    mast = box(u, v, -0.1, -0.95, 0.04, 0.3)
    return [("dark", mast), ("accent", sail), ("body", hull)]


def car(u: Array, v: Array) -> Parts:
    body = box(u, v, -0.98, -0.12, 0.98, 0.46, 0.16)
    cabin = convex(u, v, (-0.44, -0.62), (0.34, -0.62), (0.66, 0.02), (-0.68, 0.02))
    window = convex(u, v, (-0.32, -0.46), (0.24, -0.46), (0.4, -0.12), (-0.44, -0.12))
    wheels = np.minimum(circle(u, v, -0.52, 0.46, 0.26), circle(u, v, 0.52, 0.46, 0.26))
    return [("body", np.minimum(body, cabin)), ("light", window), ("dark", wheels)]


def umbrella(u: Array, v: Array) -> Parts:
    canopy = np.maximum(np.hypot(u / 0.98, (v - 0.1) / 1.02) - 1, v - 0.1) * 0.98
    stick = box(u, v, -0.08, -0.05, 0.08, 0.75)
    hook = np.maximum(np.abs(circle(u, v, 0.2, 0.7, 0.2)) - 0.08, 0.7 - v)
    return [("dark", np.minimum(stick, hook)), ("body", canopy)]


def donut(u: Array, v: Array) -> Parts:
    return [("body", np.abs(circle(u, v, 0, 0, 0.58)) - 0.32)]


def kite(u: Array, v: Array) -> Parts:
    diamond = convex(u, v, (0, -0.98), (0.64, -0.25), (0, 0.55), (-0.64, -0.25))
    tail = np.abs(u - 0.18 * np.sin((v - 0.5) * 9)) - 0.09
    return [("dark", np.maximum(tail, np.maximum(0.45 - v, v - 0.98))), ("body", diamond)]


def bird(u: Array, v: Array) -> Parts:
    body = np.hypot((u + 0.1) / 0.6, (v - 0.25) / 0.48) * 0.5 - 0.5
    head = circle(u, v, 0.42, -0.36, 0.34)
    neck = convex(u, v, (0.1, -0.3), (0.72, -0.2), (0.48, 0.4), (-0.2, 0.1))
    tail = convex(u, v, (-0.98, -0.36), (-0.62, -0.44), (-0.2, 0.2), (-0.5, 0.44))
    beak = convex(u, v, (0.66, -0.54), (1.0, -0.3), (0.66, -0.2))
    legs = np.minimum(box(u, v, -0.28, 0.6, -0.14, 0.98), box(u, v, 0.06, 0.6, 0.2, 0.98))
    shape = np.minimum(np.minimum(body, head), np.minimum(neck, tail))
    return [("dark", np.minimum(beak, legs)), ("body", shape), ("dark", circle(u, v, 0.5, -0.42, 0.1))]


def clock(u: Array, v: Array) -> Parts:
    feet = np.minimum(
        convex(u, v, (-0.6, 0.5), (-0.36, 0.7), (-0.66, 0.98), (-0.84, 0.98)),
        convex(u, v, (0.6, 0.5), (0.84, 0.98), (0.66, 0.98), (0.36, 0.7)),
    )
    bells = np.minimum(circle(u, v, -0.52, -0.64, 0.32), circle(u, v, 0.52, -0.64, 0.32))
    hands = np.minimum(box(u, v, -0.09, -0.26, 0.09, 0.21), box(u, v, -0.09, 0.03, 0.32, 0.21))
    return [
        ("dark", feet),
        ("accent", bells),
        ("body", circle(u, v, 0, 0.12, 0.74)),
        ("light", circle(u, v, 0, 0.12, 0.46)),
        ("dark", hands),
    ]


def bottle(u: Array, v: Array) -> Parts:
    flask = box(u, v, -0.48, -0.2, 0.48, 0.96, 0.18)
    shoulders = convex(u, v, (-0.18, -0.5), (0.18, -0.5), (0.44, -0.06), (-0.44, -0.06))
    neck = box(u, v, -0.18, -0.8, 0.18, 0)
    return [
        ("body", np.minimum(np.minimum(flask, shoulders), neck)),
        ("dark", box(u, v, -0.26, -0.98, 0.26, -0.72, 0.06)),
    ]


def banana(u: Array, v: Array) -> Parts:
    crescent = np.maximum(circle(u, v, 0, -0.24, 0.98), 0.8 - np.hypot(u / 1.08, v + 0.76))
    stalk = convex(u, v, (0.74, -0.76), (0.94, -0.76), (0.98, -0.36), (0.66, -0.36))
    tip = circle(u, v, -0.82, -0.42, 0.16)
    return [("body", np.maximum(crescent, -0.48 - v)), ("dark", np.minimum(stalk, tip))]


def pizza(u: Array, v: Array) -> Parts:
    slice_ = convex(u, v, (-0.82, -0.6), (0.82, -0.6), (0, 0.98))
    toppings = np.minimum(
        np.minimum(circle(u, v, -0.3, -0.26, 0.18), circle(u, v, 0.32, -0.2, 0.18)), circle(u, v, 0.0, 0.3, 0.18)
    )
    return [("body", slice_), ("dark", toppings), ("accent", box(u, v, -0.96, -0.92, 0.96, -0.54, 0.18))]


def handbag(u: Array, v: Array) -> Parts:
    bag = convex(u, v, (-0.7, -0.12), (0.7, -0.12), (0.94, 0.86), (-0.94, 0.86))
    handle = np.maximum(np.abs(circle(u, v, 0, -0.2, 0.56)) - 0.11, v)
    return [("dark", handle), ("body", bag), ("light", box(u, v, -0.16, -0.02, 0.16, 0.28, 0.06))]


def tv(u: Array, v: Array) -> Parts:
    aerials = np.minimum(
        convex(u, v, (-0.62, -0.98), (-0.46, -0.98), (0.06, -0.4), (-0.1, -0.4)),
        convex(u, v, (0.46, -0.98), (0.62, -0.98), (0.1, -0.4), (-0.06, -0.4)),
    )
    feet = np.minimum(box(u, v, -0.66, 0.6, -0.44, 0.9), box(u, v, 0.44, 0.6, 0.66, 0.9))
    return [
        ("dark", np.minimum(aerials, feet)),
        ("body", box(u, v, -0.96, -0.5, 0.96, 0.74, 0.12)),
        ("light", box(u, v, -0.66, -0.24, 0.4, 0.48, 0.12)),
    ]


def airplane(u: Array, v: Array) -> Parts:
    hull = box(u, v, -0.25, -0.98, 0.25, 0.94, 0.25)
    left = convex(u, v, (0, -0.4), (0, 0.3), (-0.98, 0.5), (-0.98, 0.2))
    right = convex(u, v, (0, -0.4), (0.98, 0.2), (0.98, 0.5), (0, 0.3))
    tail = convex(u, v, (0, 0.44), (0.52, 0.72), (0.52, 0.96), (-0.52, 0.96), (-0.52, 0.72))
    window = box(u, v, -0.14, -0.8, 0.14, -0.56, 0.1)
    return [("accent", tail), ("body", np.minimum(hull, np.minimum(left, right))), ("dark", window)]


SHAPES: dict[str, Callable[[Array, Array], Parts]] = {
    "cat": cat,
    "cup": cup,
    "chair": chair,
    "boat": boat,
    "car": car,
    "umbrella": umbrella,
    "donut": donut,
    "kite": kite,
    "bird": bird,
    "clock": clock,
    "bottle": bottle,
    "banana": banana,
    "pizza": pizza,
    "handbag": handbag,
    "tv": tv,
    "airplane": airplane,
}
