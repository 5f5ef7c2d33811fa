# SPDX-License-Identifier: Apache-2.0
"""The megatron-core release that the rest of this folder is written for."""

from importlib.metadata import PackageNotFoundError, version

from owl.errors import OwlError

PINNED = "0.16.1"


def check_version() -> None:
    """Raise OwlError when another megatron-core than the pinned one is installed."""
    try:
        found = version("megatron-core")
    except PackageNotFoundError:
        raise OwlError(
            f"megatron-core is not installed. Run pip install megatron-core=={PINNED}."
        ) from None
    if found != PINNED:
        raise OwlError(
            f"megatron-core {found} is installed, but owl/mcore/ was written and tested against "
            f"{PINNED}. Run pip install megatron-core=={PINNED}, or read CONTRIBUTING.md, "
            f'"Bump Megatron", to move the pin.'
        )
