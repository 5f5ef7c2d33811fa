# SPDX-License-Identifier: Apache-2.0
"""The published variants of mPLUG-Owl that can be trained."""

VARIANTS = {"owl1-llama-7b": "MAGAer13/mplug-owl-llama-7b"}
"""Name to the repository that holds it."""
