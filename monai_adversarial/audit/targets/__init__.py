# SPDX-License-Identifier: Apache-2.0
"""Readers of targets, one file for each kind."""
