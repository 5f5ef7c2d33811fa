# SPDX-License-Identifier: Apache-2.0
"""Pictures for tests that do not look at them."""

import numpy as np

from owl.demo.digits import IMAGE_SIZE, Digits, png_bytes


def plain_png() -> bytes:
    """A black picture."""
    return png_bytes(np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8))


def grey_digits(labels: list[int], first: int = 0) -> Digits:
    """Pictures whose grey value is their row: no two are the same."""
    greys = np.arange(len(labels), dtype=np.uint8)[:, None, None]
    return Digits(
        indices=np.arange(first, first + len(labels)),
        pictures=np.broadcast_to(greys, (len(labels), IMAGE_SIZE, IMAGE_SIZE)).copy(),
        labels=np.array(labels, dtype=np.int64),
    )
