# SPDX-License-Identifier: Apache-2.0
"""The command `owl data prepare` as a script: see owl/curate/tools/prepare.py."""

import sys

from owl.curate.tools.prepare import main

if __name__ == "__main__":
    sys.exit(main())
