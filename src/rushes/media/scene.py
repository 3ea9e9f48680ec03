"""What the local model draws: a landscape under drifting lights, coloured by the prompt, the seed or a style.

Everything that moves is painted once, a frame only places it: that keeps a 720p frame near ten milliseconds. No choice
comes from time or chance, so the same shot always has the same frames.
"""

# pyright: reportUnknownMemberType=false
# Pillow's stubs name numpy, which is not needed here.

from __future__ import annotations

import colorsys
import math
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont, ImageOps

from rushes.media import MediaTrouble
from rushes.units import spread

MAX_PIXELS = 8192 * 8192
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
Image.MAX_IMAGE_PIXELS = None  # `upright` has a limit of its own, without Pillow's range where it only warns

Colour: TypeAlias = tuple[int, int, int]

HUES: Final = {
    **dict.fromkeys(("red", "fire", "lava", "mars", "autumn"), 0.01),
    **dict.fromkeys(("sunset", "orange", "dawn", "sunrise"), 0.06),
    **dict.fromkeys(("gold", "golden", "desert", "sand", "yellow"), 0.11),
    **dict.fromkeys(("forest", "green", "jungle", "meadow", "grass"), 0.36),
    **dict.fromkeys(("sea", "ocean", "lake", "water", "blue", "snow", "ice", "winter"), 0.57),
    **dict.fromkeys(("night", "stars", "moon", "space"), 0.66),
    **dict.fromkeys(("neon", "purple", "magic", "city", "street"), 0.78),
    **dict.fromkeys(("pink", "rose", "cherry", "spring"), 0.92),
}
CITY: Final = frozenset(("city", "street", "town", "tower", "neon", "skyline", "building", "buildings"))
WATER: Final = frozenset(("sea", "ocean", "lake", "water", "river", "wave", "waves", "beach"))
RIDGES, LIGHTS = 3, 14


class Shot(Struct, frozen=True, kw_only=True):
    """What to render."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int
    width: int
    height: int
    fps: float
    seconds: float
    audio: bool = False
    first_frame: str = ""  # a picture's path, from the spec's folder
    style: str = ""  # the same
    style_strength: float = 1.0  # 0..1: how much of the drawn palette the style's colours replace

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)


class Palette(NamedTuple):
    """The five colours of a scene."""

    near: Colour
    far: Colour
    sky: Colour
    horizon: Colour
    light: Colour


class Ridge(NamedTuple):
    """A silhouette, two frames wide so that it can pass by, and where its top stands."""

    mask: Image.Image
    top: int
    colour: Colour


class Scene:
    """One shot's frames."""

    def __init__(self, shot: Shot) -> None:
        self._shot, self._size = shot, (shot.width, shot.height)
        self._dice = partial(spread, shot.prompt, shot.seed)
        self._words = set(re.findall(r"\w+", shot.prompt.lower()))
        self._palette = self._choose_palette()
        self._photo = ImageOps.fit(upright(Path(shot.first_frame)), self._size) if shot.first_frame else None
        self._sky = ImageOps.colorize(Image.linear_gradient("L"), self._palette.sky, self._palette.horizon)
        self._sky = self._sky.resize(self._size)
        self._ridges = [] if self._photo else [self._ridge(number) for number in range(RIDGES)]
        self._sun = _glow(shot.height * 5 // 4)
        self._light = _glow(max(6, shot.height // 9)).point([value // 2 for value in range(256)])
        self._caption = _caption(shot)

    def frame(self, number: int) -> Image.Image:
        """Frame `number`, counted from 0."""
        at_s = number / self._shot.fps
        frame = self._enter_photo(self._photo, number) if self._photo else self._paint_sky(at_s)
        for index, ridge in enumerate(self._ridges):
            shift = round(at_s * self._shot.width * (0.02 + 0.03 * index)) % self._shot.width
            lift = round(math.sin(at_s * 1.3 + index) * self._shot.height * 0.012)
            seen = ridge.mask.crop((shift, 0, shift + self._shot.width, ridge.mask.height))
            frame.paste(ridge.colour, (0, ridge.top + lift), seen)
        for index in range(LIGHTS):
            self._float(frame, index, at_s)
        frame.paste(self._caption, (0, 0), self._caption)
        return frame

    def _choose_palette(self) -> Palette:
        known = sorted(HUES[word] for word in self._words & HUES.keys())
        hue = known[int(self._dice(1) * len(known))] + 0.06 * self._dice(2) - 0.03 if known else self._dice(1)
        drawn = _drawn_palette(hue, self._dice(3))
        if not self._shot.style:
            return drawn
        style = _palette_of(upright(Path(self._shot.style)))
        return Palette(*(mix(*pair, self._shot.style_strength) for pair in zip(drawn, style, strict=True)))

    def _enter_photo(self, photo: Image.Image, number: int) -> Image.Image:
        """The first picture, into which the camera slowly moves."""
        width, height = self._size
        zoom = 0.06 * number / self._shot.frames
        return photo.resize(self._size, box=(width * zoom, height * zoom, width * (1 - zoom), height * (1 - zoom)))

    def _paint_sky(self, at_s: float) -> Image.Image:
        frame = self._sky.copy()
        across = (0.3 + 0.6 * self._dice(4) + 0.02 * at_s) % 1.3 - 0.15
        self._shine(frame, self._sun, across, 0.34 + 0.1 * self._dice(5) - 0.05 * math.sin(at_s * 0.5))
        return frame

    def _float(self, frame: Image.Image, index: int, at_s: float) -> None:
        """One drifting light: it rises and sways."""
        roll = partial(self._dice, 10, index)
        across = roll(0) + 0.03 * math.sin(at_s * (0.5 + roll(1)) + math.tau * roll(2))
        self._shine(frame, self._light, across, (roll(3) - at_s * (0.02 + 0.06 * roll(4))) % 1.1)

    def _shine(self, frame: Image.Image, glow: Image.Image, across: float, down: float) -> None:
        """A light whose middle is at these shares of the frame."""
        left = round(across * self._shot.width) - glow.width // 2
        frame.paste(self._palette.light, (left, round(down * self._shot.height) - glow.height // 2), glow)

    def _ridge(self, number: int) -> Ridge:
        (width, height), steps = self._size, 960
        tall = height * (7 - number) // 10
        falls = [self._fall(number, step / steps) for step in range(steps)] * 2
        edge = [(width * 2 * step / steps, tall * 2 * fall) for step, fall in enumerate(falls)]
        large = Image.new("L", (width * 4, tall * 2))
        ImageDraw.Draw(large).polygon([(0, tall * 2), *edge, (width * 4, tall * 2)], fill=255)
        colour = mix(self._palette.far, self._palette.near, number / (RIDGES - 1))
        return Ridge(large.reduce(2), height - tall + height // 20, colour)

    def _fall(self, number: int, at: float) -> float:
        """How far below its mask's top a silhouette begins, 0..1, at a place that repeats with every 1."""
        roll = partial(self._dice, 100, number)
        if self._words & CITY:
            return 0.1 + 0.5 * roll(int(at % 1 * 24))
        waves = ((3, 0.05), (7, 0.04), (13, 0.02)) if self._words & WATER else ((1, 0.2), (2, 0.12), (5, 0.05))
        return 0.42 + sum(size * math.sin(math.tau * (count * at + roll(count))) for count, size in waves)


def turned(path: Path) -> Image.Image:
    """A picture decoded to its last pixel and turned as its camera says. Its size is checked before a pixel is."""
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise MediaTrouble(f"The image has {image.width}x{image.height} pixels: the limit is 67 million.")
        image.load()
        return ImageOps.exif_transpose(image)


def upright(path: Path) -> Image.Image:
    """The same in plain colours, without what shines through."""
    return turned(path).convert("RGB")


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` at 0, `other` at 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = (round(part * 255) for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))
    return red, green, blue


def _drawn_palette(hue: float, turn: float) -> Palette:
    """Five colours around one hue, the light from across the wheel."""
    return Palette(
        near=_colour(hue + 0.02, 0.13, 0.45),
        far=_colour(hue + 0.04, 0.38, 0.38),
        sky=_colour(hue, 0.24, 0.6),
        horizon=_colour(hue + 0.05 + 0.07 * turn, 0.64, 0.72),
        light=_colour(hue + 0.42 + 0.16 * turn, 0.8, 0.95),
    )


def _palette_of(picture: Image.Image) -> Palette:
    """The five colours that make up most of a picture: its darkest stand near, its brightest give the light."""
    pixels = picture.resize((48, 48)).quantize(5).convert("RGB").tobytes()
    colours = sorted({(pixels[at], pixels[at + 1], pixels[at + 2]) for at in range(0, len(pixels), 3)}, key=sum)
    return Palette(*(colours[place * len(colours) // 5] for place in range(5)))


def _glow(side: int) -> Image.Image:
    """A soft round light as a mask: bright in the middle, nothing at the rim."""
    falling = [round(255 * (1 - value / 255) ** 3) for value in range(256)]
    return Image.radial_gradient("L").point(falling).resize((side, side))


def _caption(shot: Shot) -> Image.Image:
    """The words over the picture: the prompt below, what to leave out struck through under it, the seed in a corner."""
    layer = Image.new("RGBA", (shot.width, shot.height))
    draw, size = ImageDraw.Draw(layer), max(10, min(shot.width, shot.height) // 20)
    large, small = ImageFont.load_default(size), ImageFont.load_default(max(8, size * 2 // 3))
    lines, avoided = _wrapped(shot.prompt, shot.width, size, 3), _wrapped(shot.negative_prompt, shot.width, size, 1)
    top = shot.height - round(size * (1.3 * len(lines) + 1.1 * len(avoided) + 0.8))
    if lines or avoided:
        draw.rectangle((0, top, shot.width, shot.height), fill=(0, 0, 0, 110))
    for index, line in enumerate(lines):
        draw.text((size, top + size * (0.4 + 1.3 * index)), line, font=large, fill=(255, 255, 255, 235))
    for line in avoided:
        left, above, right, below = draw.textbbox((size, shot.height - size * 1.4), line, font=small)
        draw.text((size, shot.height - size * 1.4), line, font=small, fill=(255, 255, 255, 150))
        draw.line((left, (above + below) / 2, right, (above + below) / 2), fill=(255, 255, 255, 220))
    corner = (shot.width - size / 2, size / 2)
    draw.text(corner, f"seed {shot.seed}", font=small, fill=(255, 255, 255, 130), anchor="ra")
    return layer


def _wrapped(text: str, width: int, size: int, most: int) -> list[str]:
    """Lines that fit between the margins, the last one ending in dots where there is more."""
    return textwrap.wrap(" ".join(text.split()), max(8, int(width / size * 1.7)), max_lines=most, placeholder=" …")
