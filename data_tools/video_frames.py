# SPDX-License-Identifier: Apache-2.0
"""The command `owl data video-frames` as a script: see owl/curate/tools/video_frames.py."""

import sys

from owl.curate.tools.video_frames import main

if __name__ == "__main__":
    sys.exit(main())
