# SPDX-License-Identifier: Apache-2.0
"""A figure of a page, and the name under which its file is found."""

import posixpath
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Figure:
    """A place where a page shows a picture."""

    source: str
    """What the page wrote: a path, an address, a data url."""
    alt: str = ""
    drawing: bytes | None = None
    """An SVG that is part of the page."""

    def file_name(self, page: str) -> str:
        """Name of the file in the folder of all pages; an address stays as it is.

        Args:
            page: name of the page; paths are relative to its folder, or begin with / at the root.
        """
        source = self.source.strip()
        parts = urlsplit(source)
        if len(parts.scheme) > 1 or parts.netloc:  # one letter: a drive of Windows
            return f"https:{source}" if source.startswith("//") else source
        path = unquote(parts.path).replace("\\", "/")
        folder = "" if path.startswith("/") else posixpath.dirname(page)
        return posixpath.normpath(posixpath.join(folder, path.lstrip("/")))
