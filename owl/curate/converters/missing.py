# SPDX-License-Identifier: Apache-2.0
"""Pictures of web documents that have died since: 1 in 6 documents of MMC4 names one."""

from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import MediaList, MissingPictures
from owl.errors import DataError

PICTURE_CODES = ("E302", "E307", "E308", "E309", "E310")
"""Missing, no picture, damaged, of an impossible size or format."""


def add_or_leave_out(store: PictureStore, media: MediaList, name: str) -> int | None:
    """Append a picture; return its index, or None where options let it be left out.

    Raises:
        DataError: why the picture is unusable, where the option is to reject the document.
    """
    try:
        return store.add(media, name)
    except DataError as error:
        leave_out = store.options.missing_pictures is MissingPictures.leave_out
        if not leave_out or error.code not in PICTURE_CODES:
            raise
        return None
