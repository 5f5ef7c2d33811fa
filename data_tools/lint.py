# SPDX-License-Identifier: Apache-2.0
"""The command `owl data lint` as a script: see owl/curate/tools/lint.py."""

import sys

from owl.curate.tools.lint import main

if __name__ == "__main__":
    sys.exit(main())
