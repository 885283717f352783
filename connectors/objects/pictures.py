"""Convert pictures of unsupported types to PNG, scaled to the size that models use, with Pillow."""

from __future__ import annotations

import io
from typing import Final

from engine.errors import RecordError

__all__ = ["CONVERTED", "as_png_pages"]

CONVERTED: Final = ("image/bmp", "image/tiff", "image/x-icon", "image/x-portable-pixmap")
"""Types that models do not accept."""

MAX_SIDE: Final = 2_048  # pixels; models scale larger ones down themselves
MAX_PIXELS: Final = 100_000_000
MAX_PAGES: Final = 20


def as_png_pages(data: bytes, name: str) -> list[str | bytes]:
    """Return the pages of a picture as PNG, with sides of at most `MAX_SIDE`.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (pixels, pages).
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    pages: list[str | bytes] = []
    try:
        with Image.open(io.BytesIO(data)) as picture:
            for page in ImageSequence.Iterator(picture):
                if page.width * page.height > MAX_PIXELS or len(pages) >= MAX_PAGES:
                    message = f"{name}: {page.width:,} x {page.height:,} pixels, or over {MAX_PAGES} pages"
                    raise RecordError(message, kind="DocumentTooLarge")
                shown = page.convert("RGB")
                shown.thumbnail((MAX_SIDE, MAX_SIDE))
                written = io.BytesIO()
                shown.save(written, "PNG")
                pages.append(written.getvalue())
    except UnidentifiedImageError as error:
        message = f"{name}: cannot read the picture: it is not what its type says"
        raise RecordError(message, kind="CorruptDocument") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise RecordError(f"{name}: cannot read the picture: {error}", kind="CorruptDocument") from error
    except Image.DecompressionBombError as error:
        raise RecordError(f"{name}: {error}", kind="DocumentTooLarge") from error
    return pages
