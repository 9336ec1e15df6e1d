"""Arrays and files as images: layouts, the value of white, sizes and modes of pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrovae.arrays import channels_last, may_be_image, scaled_by
from pyrovae.errors import UsageError, got, nearest, number, whole_number
from pyrovae.files import TIMES, check_held
from pyrovae.tensors import TensorData

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "LAYOUTS", "Picture", "Pictures", "decoded", "has_colour"]

LAYOUTS = ("auto", "channels_first", "channels_last")
# Pillow knows formats that start other programs (EPS) or ask for more memory than the file has
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
GREY = ("1", "L", "LA", "La")
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
CLEAR = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Pictures:
    """What is asked for of arrays and files that are images; shapes and values tell the rest.

    Attributes:
        resize: (height, width) that pictures are scaled to, their middle cut out where the shape
            is another; None where all have one size.
        layout: "auto", by the shape; "channels_first" [N, C, H, W]; "channels_last" [N, H, W, C].
        scale: the value of white, by which stored values are divided; 1 takes them as they are;
            None: see :meth:`divisor`.
    """

    resize: tuple[int, int] | None = None
    layout: str = "auto"
    scale: float | None = None

    @classmethod
    def of(cls, resize: object = None, layout: object = "auto", scale: object = None) -> Pictures:
        """The same, checked: ``resize`` as (H, W), H for a square, or "HxW".

        Raises:
            UsageError: what is none of these.

        >>> Pictures.of("32x48").resize, Pictures.of(32).resize
        ((32, 48), (32, 32))
        """
        if layout not in LAYOUTS:
            hint = nearest(str(layout), LAYOUTS) or "."
            raise UsageError(
                f"there is no layout {got(layout)}{hint} Layouts: {', '.join(LAYOUTS)}"
            )
        size = None if resize is None else _size(resize)
        return cls(size, str(layout), None if scale is None else number("scale", scale))

    def divisor(self, x: Tensor, remedy: str = "") -> float | None:
        """Stored x / divisor = value; see :func:`pyrovae.arrays.scaled_by`."""
        return scaled_by(x, self.scale, remedy)

    def data(self, x: Tensor, labels: Any, divisor: float | None) -> TensorData:
        """Numbers as they are stored, as data.

        Raises:
            UsageError: values beyond the white that was asked for.
        """
        if self.scale is not None and divisor is not None and x.numel():
            low, high = (float(end) for end in x[~x.isnan()].aminmax())
            if low < 0 or high > divisor:
                raise UsageError(
                    f"scale (--scale) is the value of white, {divisor:g}, and x goes from {low:g} "
                    f"to {high:g}: give a larger one, or leave it out"
                )
        maximum = None if divisor is None else 1.0
        return TensorData(x, labels=labels, divisor=divisor, maximum=maximum)

    def arranged(self, x: Tensor, *, pixels: bool) -> Tensor:
        """Images [N, H, W, C] as [N, C, H, W], those [N, H, W] as [N, 1, H, W], and numbers [N] as
        a column. Without a layout that is asked for, three axes are images where the values are
        ``pixels`` or, uint8 of no ``scale``, 0 and 1; and four as :func:`channels_last` tells.

        Raises:
            UsageError: a shape that may be either, or that has no layout.
        """
        asked = self.layout != "auto"
        if x.ndim == 1:
            return x.unsqueeze(1)
        pixels |= self.scale is None and may_be_image(x)
        if x.ndim == 3 and (pixels or asked):
            return x.unsqueeze(1)
        if x.ndim == 4:
            return self._channels_first(x)
        if asked:
            event = ", ".join(map(str, x.shape[1:]))
            raise UsageError(
                f"layout (--layout) is of images, [N, H, W] or of four axes, and x is "
                f"[N, {event}]: leave it out"
            )
        return x

    def _channels_first(self, x: Tensor) -> Tensor:
        asked = self.layout != "auto"
        last = self.layout == LAYOUTS[2] if asked else channels_last(x.shape[1:])
        if last is None:
            raise UsageError(
                f"images of shape {list(x.shape[1:])} may have their channels first or last: "
                f'give layout="channels_first" or "channels_last" (--layout)'
            )
        return x.permute(0, 3, 1, 2).contiguous() if last else x


def _size(given: object) -> tuple[int, int]:
    if isinstance(given, str):
        given = [int(p) if p.strip().isdecimal() else p for p in given.lower().split("x")]
    sides = list(given) if isinstance(given, Sequence) else [given]
    if len(sides) not in (1, 2):
        raise UsageError(f"resize is (height, width), H or HxW in pixels, got {got(given)}")
    checked = [whole_number("resize (H or HxW)", side) for side in sides]
    return checked[0], checked[-1]


@dataclass(frozen=True)
class Picture:
    """A picture as it was read.

    Attributes:
        pixels: uint8 [H, W, C].
        changes: what was done to it: "grey" made colour, "clear" laid on white.
    """

    pixels: np.ndarray
    changes: tuple[str, ...]


def has_colour(file: Path) -> bool:
    """Whether a picture has colours, by its header."""
    with _opened(file) as image:
        return image.mode not in GREY


def decoded(file: Path, channels: int, size: tuple[int, int] | None = None) -> Picture:
    """A picture upright, grey (1 channel) or RGB (3), laid on white where it is transparent.

    Args:
        file: of one of :data:`FORMATS`; of several pages the first.
        channels: 1 or 3.
        size: (height, width) that it is made to cover, its middle cut out.

    Raises:
        UsageError: more pixels than Pillow takes, or none of 8 bits.
    """
    with _opened(file) as opened:
        from PIL import ImageOps

        if opened.mode not in (*GREY, *COLOUR):
            raise UsageError(
                f"its mode is {opened.mode}, and pictures are of 8 bits, grey or colour: convert "
                f"it, or keep arrays of more bits as .npy, with scale= (--scale) the value of white"
            )
        image = ImageOps.exif_transpose(opened)
        changes = ["grey"] if channels == 3 and image.mode in GREY else []
        if image.mode in CLEAR or "transparency" in image.info:
            image, clear = _on_white(image)
            changes += ["clear"] if clear else []
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and image.size != size[::-1]:
            image = ImageOps.fit(image, size[::-1], method=2)  # bilinear, over all that it covers
        return Picture(np.atleast_3d(np.asarray(image)), tuple(changes))


def _on_white(image: Image) -> tuple[Image, bool]:
    """The picture on a white ground, and whether any of that shows."""
    from PIL import Image as Pillow

    image = image.convert("RGBA")
    clear = image.getchannel("A").getextrema() != (255, 255)
    ground = Pillow.new("RGBA", image.size, "white")
    return Pillow.alpha_composite(ground, image), clear


def _opened(file: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f"images need Pillow ({error}): pip install pillow") from error
    too_large = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=FORMATS)
        except too_large as error:
            raise UsageError(
                f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may take more memory "
                f"than there is: make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
            ) from error
    nbytes = math.prod(image.size) * len(image.getbands())
    try:
        check_held(file, nbytes, file.stat().st_size, TIMES, "make it smaller")
    except UsageError:
        image.close()
        raise
    return image
