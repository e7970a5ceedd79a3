# SPDX-License-Identifier: Apache-2.0
"""Audits: how robust a deployed network is, in one report."""
