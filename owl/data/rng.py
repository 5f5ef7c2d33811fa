# SPDX-License-Identifier: Apache-2.0
"""Random choices that depend on a key alone, never on what was drawn before."""

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """Make the generator of one choice, such as ("order", seed, source, epoch).

    The key is hashed first, so that keys that differ in one digit give unrelated streams.
    """
    text = "\x1f".join(str(part) for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
