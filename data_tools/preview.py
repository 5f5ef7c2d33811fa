# SPDX-License-Identifier: Apache-2.0
"""The command `owl data preview` as a script: see owl/curate/tools/preview.py."""

import sys

from owl.curate.tools.preview import main

if __name__ == "__main__":
    sys.exit(main())
