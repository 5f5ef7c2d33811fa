# SPDX-License-Identifier: Apache-2.0
"""Score a model's answers to the questions of a jsonl file.

    python evaluate_owl3.py --model DIR --data questions.jsonl --metric vqa

`--help` lists every option. Installed, this script is the command `owl evaluate`.
"""

from owl.command.evaluate import main

if __name__ == "__main__":
    main()
