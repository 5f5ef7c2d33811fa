# SPDX-License-Identifier: Apache-2.0
"""The command `owl data convert` as a script: see owl/curate/tools/convert.py."""

import sys

from owl.curate.tools.convert import main

if __name__ == "__main__":
    sys.exit(main())
