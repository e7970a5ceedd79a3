# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: ``python -m benchmarks`` prints one table of ratios from one run."""
