# SPDX-License-Identifier: Apache-2.0
"""Record the budgets anew: python -m tests.rehearsal.record"""

import json
import tempfile
from pathlib import Path

from tests.rehearsal.layouts import BUDGETS, LAYOUTS, PACKS, budget, rehearse

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recorded = {
            name: budget(rehearse([*words, *PACKS], Path(folder)))
            for name, words in LAYOUTS.items()
        }
    BUDGETS.write_text(json.dumps(recorded, indent=1) + "\n")
    print(BUDGETS.read_text())
