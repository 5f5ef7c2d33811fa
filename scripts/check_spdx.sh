#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lists the given files that lack the licence line in their first three lines.
set -euo pipefail

failed=0
for file in "$@"; do
  if ! head -n 3 "$file" | grep -q "SPDX-License-Identifier: Apache-2.0"; then
    echo "$file has no line '# SPDX-License-Identifier: Apache-2.0' at its top. Add it."
    failed=1
  fi
done
exit "$failed"
