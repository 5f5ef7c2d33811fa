# SPDX-License-Identifier: Apache-2.0
"""The published variants of mPLUG-Owl2 that can be trained."""

VARIANTS = {"owl2-llama2-7b": "MAGAer13/mplug-owl2-llama2-7b"}
"""Name to the repository that holds it."""
