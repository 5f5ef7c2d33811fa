# SPDX-License-Identifier: Apache-2.0
"""The command `owl data plan` as a script: see owl/curate/tools/plan.py."""

import sys

from owl.curate.tools.plan import main

if __name__ == "__main__":
    sys.exit(main())
