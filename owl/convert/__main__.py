# SPDX-License-Identifier: Apache-2.0
"""Convert between checkpoints and Hugging Face folders.

python -m owl.convert import --hf DIR --output DIR
python -m owl.convert export --checkpoint DIR --output DIR [--base DIR]
python -m owl.convert verify --hf DIR --checkpoint DIR
python -m owl.convert init --language-model DIR --vision-model DIR --variant 240728 --output DIR
"""

import sys

from owl.convert.command_line import parse
from owl.errors import OwlError


def main() -> None:
    """Run the command of the command line."""
    run, options = parse()
    try:
        run(options)
    except (OwlError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("\nInterrupted; the unfinished output was removed.", file=sys.stderr)
        sys.exit(130)  # as shells report an interrupt


if __name__ == "__main__":
    main()
