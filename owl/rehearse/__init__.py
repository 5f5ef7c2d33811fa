# SPDX-License-Identifier: Apache-2.0
"""A step on GPUs that are not there."""
