# SPDX-License-Identifier: Apache-2.0
"""The command `owl data info` as a script: see owl/curate/tools/info.py."""

import sys

from owl.curate.tools.info import main

if __name__ == "__main__":
    sys.exit(main())
