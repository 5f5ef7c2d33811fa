# SPDX-License-Identifier: Apache-2.0
"""Budgets of rehearsed layouts. After a change that is meant: python -m tests.rehearsal.record"""
