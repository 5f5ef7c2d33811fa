# SPDX-License-Identifier: Apache-2.0
"""Convert between checkpoints and Hugging Face folders.

owl convert import --hf DIR --output DIR
owl convert export --checkpoint DIR --output DIR [--base DIR]
owl convert verify --hf DIR --checkpoint DIR
owl convert init --language-model DIR --vision-model DIR --variant 240728 --output DIR
"""

import sys
from collections.abc import Sequence

from owl.convert.command_line import parse
from owl.errors import OwlError


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    run, options = parse(argv)
    try:
        run(options)
    except (OwlError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted; the unfinished output was removed.", file=sys.stderr)
        sys.exit(130)  # as shells report an interrupt


if __name__ == "__main__":
    main()
